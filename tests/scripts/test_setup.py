"""Set-up names what is missing before it installs anything. That it works is what these tests run in."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ("bash", "cat", "cut", "dirname", "flock", "rm", "sha256sum", "uname")


@pytest.fixture
def checkout(tmp_path):
    """A checkout without environments, and a PATH with little more than a shell."""
    root = tmp_path / "checkout"
    (root / "scripts").mkdir(parents=True)
    for name in ("setup.sh", "build_horovod.py"):
        shutil.copy(ROOT / "scripts" / name, root / "scripts" / name)
    for path in ROOT.glob("requirements*.lock"):
        shutil.copy(path, root)
    binaries = tmp_path / "bin"
    binaries.mkdir()
    for tool in TOOLS:
        if found := shutil.which(tool):
            (binaries / tool).symlink_to(found)
    return root


def add(checkout: Path, name: str, body: str) -> None:
    path = checkout.parent / "bin" / name
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)


def set_up(checkout: Path, **environment: str) -> str:
    """What a set-up that must fail prints."""
    base = {"PATH": str(checkout.parent / "bin"), "HOME": str(checkout.parent)}
    result = subprocess.run(
        [shutil.which("bash") or "bash", "scripts/setup.sh"],
        cwd=checkout,
        env=base | environment,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 1, result.stdout + result.stderr
    assert not (checkout / ".venv").exists()
    return result.stderr


def test_no_interpreter(checkout):
    assert set_up(checkout) == (
        "error: found no python3.11, expected Python 3.11: install it with its venv and headers"
        " (Debian: python3.11 python3.11-venv python3.11-dev), or set PYTHON\n"
    )


def test_another_interpreter(checkout):
    add(checkout, "python3.11", "echo 3.12.1 /usr")
    assert "found Python 3.12.1 (python3.11), expected 3.11" in set_up(checkout)


def test_an_interpreter_that_does_not_start(checkout):
    add(checkout, "mine", "exit 127")
    assert "found a mine that does not start, expected Python 3.11" in set_up(checkout, PYTHON="mine")


def test_no_compiler(checkout):
    add(checkout, "python3.11", "echo 3.11.7 /usr")
    assert "found no C++ compiler (c++), expected one to build Horovod: install g++" in set_up(checkout)
    add(checkout, "c++", "")
    assert "found no make, expected one to build Horovod: install make" in set_up(checkout)


def test_no_headers(checkout):
    add(checkout, "python3.11", 'case "$2" in *version_info*) echo 3.11.7 /usr ;; *) exit 1 ;; esac')
    add(checkout, "c++", "")
    add(checkout, "make", "")
    assert "found no Python.h for python3.11, expected its headers" in set_up(checkout)


def test_a_wheel_in_the_cache_needs_no_compiler(checkout):
    cache = checkout.parent / "cache"
    wheel = cache / "dl-pipelines" / "horovod" / "2.15.0-cp311-0" / "horovod-0.28.1-cp311.whl"
    wheel.parent.mkdir(parents=True)
    wheel.touch()
    add(checkout, "python3.11", 'case "$1" in -m) exit 1 ;; *) echo 3.11.7 /usr ;; esac')
    message = set_up(checkout, XDG_CACHE_HOME=str(cache))
    assert "python3.11 can't make a virtual environment: install its venv module" in message


def test_the_environment_of_a_set_up_does_not_leak_into_git():
    ignored = subprocess.run(
        ["git", "check-ignore", ".venv", ".venv-triton", ".venv.lock", ".dlp"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=os.environ | {"GIT_OPTIONAL_LOCKS": "0"},
    )
    assert ignored.stdout.split() == [".venv", ".venv-triton", ".venv.lock", ".dlp"]
