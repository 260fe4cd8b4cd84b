"""Which folder is the home, and what is said when it can't be one."""

from __future__ import annotations

from pathlib import Path

import pytest

from dl_pipelines.store.home import Home


def test_the_home_that_is_given_then_the_variable_then_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DLP_HOME", str(tmp_path / "variable"))
    assert Home.find(tmp_path / "given").root == tmp_path / "given"
    assert Home.find().root == tmp_path / "variable"
    monkeypatch.delenv("DLP_HOME")
    assert Home.find().root == tmp_path / ".dlp"
    assert list(tmp_path.iterdir()) == []


def test_preparing_twice_is_fine_and_stays_in_the_home(tmp_path: Path):
    home = Home(tmp_path / "home").prepare().prepare()
    assert {entry.name for entry in home.root.iterdir()} >= {
        "artifacts",
        "briefs",
        "reports",
        "dagster",
        "logs",
        "work",
    }
    assert [entry.name for entry in tmp_path.iterdir()] == ["home"]


def test_a_home_below_a_file(tmp_path: Path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(ValueError) as caught:
        Home(tmp_path / "file" / "home").prepare()
    assert str(caught.value) == (
        f"found Not a directory at {tmp_path}/file/home; expected a folder that can be written; give another with "
        "--home or DLP_HOME"
    )
    with pytest.raises(ValueError, match=r"found (Not a directory|File exists) at"):
        Home(tmp_path / "file").prepare()
