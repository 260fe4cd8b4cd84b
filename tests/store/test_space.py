"""A full disk is recognised in the words of whoever met it, and only then."""

import errno
import os
import shutil
import sqlite3
from types import SimpleNamespace

import pytest

from dl_pipelines.store import space
from dl_pipelines.store.space import no_space

REMEDY = (
    "; expected room for the home; free some (`dlp gc` removes old artifacts), or take a home on a larger disk with "
    "--home or DLP_HOME; then run again: what was finished is kept"
)
FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
LANCE = OSError("LanceError(IO): Generic LocalFileSystem error: No space left on device (os error 28)\nat file.rs")


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (FULL, "[Errno 28] No space left on device"),
        (LANCE, "LanceError(IO): Generic LocalFileSystem error: No space left on device (os error 28)"),
        (sqlite3.OperationalError("database or disk is full"), "database or disk is full"),
        (OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)), f"[Errno {errno.EDQUOT}] Disk quota exceeded"),
        (caused(ValueError("the day can't be stored"), FULL), "[Errno 28] No space left on device"),
    ],
    ids=["python", "lance", "sqlite", "quota", "cause"],
)
def test_a_full_disk_is_told_with_what_to_do(error, said):
    assert no_space(error) == f"found no space left on the disk ({said}){REMEDY}"


@pytest.mark.parametrize("error", [ValueError("found 3; expected 4"), OSError(errno.EACCES, "Permission denied")])
def test_anything_else_is_not(error, tmp_path):
    assert no_space(error, tmp_path) is None


def test_an_error_that_is_its_own_cause_ends():
    first, second = ValueError("first"), ValueError("second")
    first.__cause__, second.__cause__ = second, first
    assert no_space(first) is None


def test_sqlite_cannot_say_why_a_file_was_not_made(tmp_path, monkeypatch):
    error = sqlite3.OperationalError("disk I/O error")
    assert no_space(error) is None
    assert no_space(error, tmp_path) is None, "there is room: the disk is damaged"
    assert no_space(error, tmp_path / "gone") is None
    monkeypatch.setattr(space.shutil, "disk_usage", lambda _: SimpleNamespace(free=4096))
    assert no_space(error, tmp_path) == f"found no space left on the disk (disk I/O error){REMEDY}"
    assert shutil.disk_usage is space.shutil.disk_usage
