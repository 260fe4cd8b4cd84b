"""The program that runs flows of publishing and kills them: `python -m benchmarks.crashing HOME PROJECT`.

A line of JSON on standard input names the flow and the operation before which it is killed; a line goes back. Each flow
runs in a fork of this process, so that the imports are paid once. An operation is a durable write, flush, rename or
removal, the commit of a row, or a request to the server to load or unload.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import sqlalchemy as sa
import tritonclient.grpc  # noqa: F401 - before the forks

import dl_pipelines.data.batches
import dl_pipelines.evaluation.metrics
import dl_pipelines.evaluation.test_reads  # noqa: F401 - before the forks
from dl_pipelines.brief.live import Router, Serving
from dl_pipelines.brief.references import SourceRef
from dl_pipelines.brief.sections import Data, Evaluation
from dl_pipelines.serving.control import Control
from dl_pipelines.serving.publish import make_triton_repository
from dl_pipelines.serving.traffic import give_traffic, rollback
from dl_pipelines.serving.trial import end_trial, put_challenger
from dl_pipelines.store import durable
from dl_pipelines.store.home import Home
from dl_pipelines.store.workspace import Partition, Workspace
from dl_pipelines.tasks.image_classification import ImageClassification

Flow = Callable[[Workspace, dict[str, Any]], Any]


def _partition(given: dict[str, Any]) -> Partition:
    return Partition(date.fromisoformat(given["day"]), "base")


def _publish(workspace: Workspace, given: dict[str, Any]) -> None:
    """The whole stage; `number` makes it a new one, of the same model."""
    task = ImageClassification(ImageClassification.Params(classes=("dark", "bright")))
    serving = Serving(
        load_seconds=0.05, load_clients=1, max_batch=8, queue_delay_ms=0, timeout_ms=3000 + given["number"]
    )
    data, evaluation = Data(source=SourceRef(name="digits")), Evaluation(resamples=100)
    make_triton_repository(workspace, _partition(given), serving, data, task, evaluation)


def _promote(workspace: Workspace, given: dict[str, Any]) -> None:
    there = _partition(given)
    give_traffic(workspace, workspace.get("triton_repository", there), there, "better", {"number": 1}, "sensor")


def _try(workspace: Workspace, given: dict[str, Any]) -> None:
    artifact = workspace.get("triton_repository", _partition(given))
    put_challenger(
        workspace, artifact, share=given["share"], salt="s", revision=given["revision"], router=Router(timeout_ms=2000)
    )


FLOWS: dict[str, Flow] = {
    "publish": _publish,
    "promote": _promote,
    "rollback": lambda workspace, given: rollback(workspace, f"worse, {given['number']}", "ann"),
    "put_challenger": _try,
    "end_trial": lambda workspace, given: end_trial(workspace, given["revision"]),
}


def watch(note: Callable[[str], None]) -> Any:
    """Have `note` called before each operation of this process, with what it is; returns the open injection."""
    for name in ("load", "unload"):
        real = getattr(Control, name)

        def noted(self: Control, *models: str, _real: Callable[..., None] = real, _name: str = name, **rest: Any):
            note(f"{_name} {' '.join(models)}")
            _real(self, *models, **rest)

        setattr(Control, name, noted)

    def statement(connection: sa.Connection, cursor: Any, text: str, *_: Any) -> None:
        if text.startswith("INSERT"):
            connection.info["wrote"] = text.split()[2]

    def commit(connection: sa.Connection) -> None:
        if wrote := connection.info.pop("wrote", ""):
            note(f"commit {wrote}")

    sa.event.listen(sa.Engine, "before_cursor_execute", statement)
    sa.event.listen(sa.Engine, "commit", commit)
    injection = durable.inject(lambda operation, path: note(f"{operation} {path.name}"))
    injection.__enter__()
    return injection


def child(workspace: Workspace, given: dict[str, Any], pipe: int) -> None:
    """Run one flow and be killed; each operation is told before it begins."""
    seen = 0

    def note(what: str) -> None:
        nonlocal seen
        seen += 1
        os.write(pipe, f"{what}\n".encode())
        if seen == given["kill_at"]:
            os.kill(os.getpid(), signal.SIGKILL)

    held = watch(note)
    try:
        FLOWS[given["flow"]](workspace, given)
    except Exception as error:  # noqa: BLE001 - told to the parent, whatever it is
        os.write(pipe, f"!{type(error).__name__}: {error}\n".encode())
        traceback.print_exc()
        os._exit(1)
    assert held
    os._exit(0)


def run(workspace: Workspace, given: dict[str, Any]) -> dict[str, Any]:
    """One flow in a child; what it came to, and whether it ended by itself."""
    reads, writes = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reads)
        child(workspace, given, writes)
    os.close(writes)
    with os.fdopen(reads) as lines:
        told = lines.read().splitlines()
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    operations = [line for line in told if not line.startswith("!")]
    return {
        "operations": operations, "ended": code != -signal.SIGKILL,
        "said": " ".join(line[1:] for line in told if line.startswith("!")),
    }  # fmt: skip


def main() -> None:
    """Answer line by line until standard input ends."""
    workspace = Workspace(Home(Path(sys.argv[1])), sys.argv[2])
    for line in sys.stdin:
        print(json.dumps(run(workspace, json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
