"""A full disk: a small tmpfs as home. It is said what to do, and nothing half-written is read afterwards."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import digests
from tests.small import small, write

ROOT = Path(__file__).resolve().parents[2]
MOUNTS = ("unshare", "-Urm", "--")
PROGRAM = """
import json, subprocess, sys
from typer.testing import CliRunner
from dl_pipelines.cli.app import app

brief, folder, sizes = sys.argv[1], sys.argv[2], sys.argv[3:]

def run(until):
    command = ["run", brief, "--date", "2026-01-01", "--until", until, "--home", f"{folder}/home", "--json"]
    result = CliRunner().invoke(app, command)
    kind = type(result.exception).__name__
    return {"code": result.exit_code, "out": result.stdout, "err": result.stderr, "exception": kind}

for entry in sizes:
    size, until = entry.split(":")
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", folder], check=True)
    small = run(until)
    subprocess.run(["mount", "-o", "remount,size=100m", folder], check=True)
    print(json.dumps({"size": size, "small": small, "large": run(until)}), flush=True)
    subprocess.run(["umount", folder], check=True)
"""
"""One process for all sizes: imports are paid once."""

SIZES = {
    "300k": "training_window",  # Dagster's own tables
    "700k": "training_window",  # the records
    "2000k": "training_window",  # Data Docs
    "5900k": "trained_model",  # a checkpoint
}


def _mounts() -> bool:
    if shutil.which("unshare") is None:
        return False
    return subprocess.run([*MOUNTS, "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True).returncode == 0


@pytest.mark.slow
@pytest.mark.skipif(not _mounts(), reason="this machine lets us mount no tmpfs in a namespace of our own")
def test_a_full_disk_is_told_and_the_next_run_is_sound(tmp_path, made):
    path, folder = write(tmp_path, small()), tmp_path / "disk"
    folder.mkdir()
    command = [*MOUNTS, sys.executable, "-c", PROGRAM, path, folder, *(f"{a}:{b}" for a, b in SIZES.items())]
    ran = subprocess.run(list(map(str, command)), cwd=ROOT, capture_output=True, text=True, timeout=250)
    assert ran.returncode == 0, ran.stderr
    found = [json.loads(line) for line in ran.stdout.splitlines()]
    assert [item["size"] for item in found] == list(SIZES)
    first, *_ = made.backfill.json["runs"]
    sound = digests(first) | digests(made.run.json)  # what a backfill made of a model; the days that it was made of
    for item in found:
        short, whole = item["small"], item["large"]
        told = " ".join(short["err"].replace("│", " ").split())
        assert (short["code"], short["exception"]) == (1, "SystemExit"), item
        told = told[told.index("found no space left on the disk (") :]  # Dagster's own complaints come before it
        assert "or take a home on a larger disk with --home or DLP_HOME; then run again: what was finished" in told
        assert "Traceback" not in told
        assert whole["code"] == 0, whole
        answer = json.loads(whole["out"])
        again = digests(answer)
        assert again == {place: sound[place] for place in again}
        assert answer["stages"][-1]["asset"] == SIZES[item["size"]]
