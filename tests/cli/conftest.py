"""The command line in this process (imports are paid once) and as a real command; one finished home for the session."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.small import small, write

DLP = Path(sys.executable).parent / "dlp"
OURS = ("DLP_HOME", "DLP_DATABASE_URL", "DLP_BRIEFS", "DAGSTER_HOME")


@dataclass(frozen=True)
class Said:
    """What a command said, and its exit code."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """The one object on standard output: anything else there is an error."""
        return json.loads(self.out)


Command = Callable[..., Said]


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands find no home of the person who runs the tests, and leave none behind in this process."""
    for name in OURS:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def dlp() -> Command:
    """A function: one command in this process."""
    from dl_pipelines.cli.app import app

    def run(*arguments: object) -> Said:
        before = dict(os.environ)
        try:
            result = CliRunner().invoke(app, [str(item) for item in arguments], prog_name="dlp")
        finally:
            os.environ.clear()
            os.environ.update(before)
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Said(result.exit_code, result.stdout, result.stderr)

    return run


@pytest.fixture(scope="session")
def start() -> Callable[..., subprocess.Popen[str]]:
    """A function: one command as a process of its own."""

    def begin(*arguments: object) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [str(DLP), *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    return begin


@pytest.fixture(scope="session")
def real(start) -> Command:
    """A function: one command as a process of its own, waited for."""

    def run(*arguments: object) -> Said:
        process = start(*arguments)
        out, err = process.communicate(timeout=120)
        return Said(process.returncode, out, err)

    return run


@pytest.fixture(scope="session")
def brief(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small brief's file."""
    return write(tmp_path_factory.mktemp("briefs"), small())


@dataclass(frozen=True)
class Made:
    """A home that has been through a backfill of three days, twice, and a run of the last of them."""

    home: Path
    brief: Path
    backfill: Said
    again: Said
    run: Said


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory, dlp: Command, brief: Path) -> Made:
    """The one expensive home of this room; tests that change something work on a copy."""
    home = tmp_path_factory.mktemp("made") / "home"
    days = ("backfill", brief, "--from", "2026-01-01", "--to", "2026-01-03", "--home", home, "--json")
    backfill, again = dlp(*days), dlp(*days)
    return Made(home, brief, backfill, again, dlp("run", brief, "--date", "2026-01-03", "--home", home, "--json"))


@pytest.fixture
def copy(made: Made, tmp_path: Path) -> Iterator[Path]:
    """A home of the test's own, as the session's is; its server, if any is left, ends with the test."""
    from dl_pipelines.serving.server import TritonServer
    from dl_pipelines.store.home import Home

    home = tmp_path / "home"
    shutil.copytree(made.home, home)
    yield home
    TritonServer(Home(home)).stop()


def digests(answer: dict[str, Any]) -> dict[tuple[str, str], str]:
    """Digest by stage and partition of a `--json` answer."""
    return {(stage["asset"], stage["partition"]): stage["digest"] for stage in answer["stages"]}


def redone(answer: dict[str, Any]) -> list[str]:
    """The stages that were made, in order."""
    return [stage["asset"] for stage in answer["stages"] if stage["made"]]
