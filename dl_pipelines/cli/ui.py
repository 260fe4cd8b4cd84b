"""`dlp ui`: Dagster's webserver and daemon on 127.0.0.1, with this home as their storage."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

from dl_pipelines.cli.frame import say
from dl_pipelines.serving.process import in_use
from dl_pipelines.store.home import Home
from dl_pipelines.training.launch import die_with_parent

ROOT = Path(__file__).resolve().parents[2]
_EXPECTED = "ignore:Function `dev_command` is superseded,ignore:Parameter `owners` of initializer"
"""Dagster's warnings of what the design uses knowingly; they say nothing to whoever opens the UI."""


def serve_ui(home: Home, port: int) -> int:
    """Run until it is ended; its exit code. Raises ValueError when the port is in use."""
    if found := in_use(port):
        raise ValueError(f"found {found}; expected a free one; give --port")
    environment = prepare_ui(home)
    dagster = Path(sys.executable).parent / "dagster"
    server = [str(dagster), "dev", "-w", "workspace.yaml", "-h", "127.0.0.1", "-p", str(port)]
    command = [*die_with_parent(), *server]  # also when this process is ended by a signal
    # A shell's background job ignores SIGINT, and Dagster then SIGTERM as well: it would never end.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    say(f"Dagster's UI will be at http://127.0.0.1:{port} (half a minute); Ctrl-C ends it")
    process = subprocess.Popen(command, cwd=ROOT, env=environment)
    try:
        return process.wait()
    except KeyboardInterrupt:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(20)  # Ctrl-C reached it as well
        return 0
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            process.wait(20)


def prepare_ui(home: Home) -> dict[str, str]:
    """Make the base experiment of every brief a partition; the environment for Dagster's own processes."""
    from assets.partitions import experiments_name
    from dl_pipelines import catalog
    from dl_pipelines.definitions import load_briefs
    from resources.instance import open_instance
    from resources.lost import reap

    with open_instance(home) as instance:
        reap(instance)
        for brief in load_briefs(home).values():
            names = catalog.experiments(home, brief.project)
            instance.add_dynamic_partitions(experiments_name(brief), names)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    return {
        **os.environ, "PATH": path, "DLP_HOME": str(home.root), "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": _EXPECTED,
    }  # fmt: skip
