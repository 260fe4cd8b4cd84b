"""Homes that share a database: a project is of one of them."""

import errno
import json
import os
import shutil
import threading
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from dl_pipelines.cli import demo
from dl_pipelines.cli.app import app
from dl_pipelines.doctor import check_database
from dl_pipelines.serving.expiry import expire_log
from dl_pipelines.serving.label_inbox import take_labels
from dl_pipelines.serving.labels import add_labels, read_labels
from dl_pipelines.serving.server import TritonServer
from dl_pipelines.store import durable, tables
from dl_pipelines.store.database import Database, DatabaseError
from dl_pipelines.store.home import DATABASE_URL, Home
from dl_pipelines.store.owner import OtherHomeError, identity
from dl_pipelines.store.workspace import Workspace
from dl_pipelines.wire.routing import only
from tests.small import small, write

OLD = "2020-01-01T00:00:00.000+00:00"


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def shared(request, tmp_path, monkeypatch) -> str:
    """The URL of a database outside of every home."""
    sqlite = request.param == "sqlite"
    url = f"sqlite:///{tmp_path / 'shared.sqlite'}" if sqlite else request.getfixturevalue("postgres_url")
    monkeypatch.setenv(DATABASE_URL, url)
    return url


def opened(home: Home, project: str | None = "a") -> int:
    database = Database.of(home, project)
    try:
        return len(database.rows(tables.labels))
    finally:
        database.close()


def refusal(home: Home, project: str = "a") -> str:
    with pytest.raises(OtherHomeError) as caught:
        opened(home, project)
    return str(caught.value)


def test_a_second_home_of_a_project_is_refused_and_told_which_the_first_is(shared, tmp_path):
    first, second = Home(tmp_path / "first"), Home(tmp_path / "second")
    for _ in range(2):
        assert opened(first) == opened(first, "b") == 0
    told = refusal(second, "b")
    assert told.startswith(f"found the project b in the database as that of another home ({first.root}); expected one")
    table = "project_homes" if shared.startswith("sqlite") else "dlp.project_homes"
    remedy = f"UPDATE {table} SET home = '{identity(second)}' WHERE project = 'b'"
    assert told.endswith(remedy)
    assert opened(first, "b") == 0
    database = Database(shared)
    with database.begin() as connection:
        connection.exec_driver_sql(remedy)
    database.close()
    assert opened(second, "b") == 0 and str(second.root) in refusal(first, "b")


def test_what_is_said_of_one_project_says_nothing_of_the_others(shared, tmp_path):
    dev, prod = Home(tmp_path / "dev"), Home(tmp_path / "prod")
    assert opened(dev, "digits") == opened(prod, "shop") == 0
    (prod.artifacts / "digits").mkdir(parents=True)
    assert "home.id" not in refusal(prod, "digits"), "shop would be lost by another identity"
    assert opened(prod, "shop") == opened(prod, None) == 0


def test_a_home_without_artifacts_of_the_project_removes_and_adds_nothing(shared, tmp_path):
    first, second = (Workspace(Home(tmp_path / name).prepare(), "small") for name in ("first", "second"))
    add_labels(first, {"r1": 1})
    database = Database.of(first.home, first.project)
    database.append(tables.labels, project="small", request_id="r0", label=1, at=OLD)
    database.close()
    asked = [
        lambda: expire_log(second, 30),
        lambda: take_labels(second, "00" * 32),
        lambda: add_labels(second, {"r2": 2}),
    ]
    for ask in asked:
        with pytest.raises(OtherHomeError):
            ask()
    assert read_labels(first) == {"r0": 1, "r1": 1}
    assert expire_log(first, 30) == 1


def test_rows_of_an_older_version_are_not_of_a_home_that_has_nothing_of_the_project(shared, tmp_path):
    first, second = (Workspace(Home(tmp_path / name).prepare(), "small") for name in ("first", "second"))
    (first.home.artifacts / "small").mkdir()
    database = Database.of(first.home)
    database.append(tables.labels, project="small", request_id="r0", label=1, at=OLD)
    database.close()
    with pytest.raises(OtherHomeError, match="found rows of the project small in the database that no home has said"):
        expire_log(second, 30)
    assert read_labels(first) == {"r0": 1}
    assert "as that of another home" in refusal(second.home, "small")


def test_the_doctor_names_what_is_refused_and_notes_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv(DATABASE_URL, f"sqlite:///{tmp_path / 'shared.sqlite'}")
    first, second = Home(tmp_path / "first"), Home(tmp_path / "second").prepare()
    opened(first, "small")
    for project in ("small", "zoo"):
        (second.briefs / f"{project}.yaml").touch()
    check = check_database(second.root)
    assert check.ok and check.found.endswith(f" answers; refused here, as of another home: small ({first.root})")
    assert check.remedy == f"work on them with that home, or remove their briefs from {second.briefs}"
    assert opened(first, "zoo") == 0 and not second.identity.exists()


def test_gc_and_status_go_on_with_the_projects_that_are_the_homes_own(tmp_path, monkeypatch):
    monkeypatch.setenv(DATABASE_URL, f"sqlite:///{tmp_path / 'shared.sqlite'}")
    first, second = Home(tmp_path / "first").prepare(), Home(tmp_path / "second").prepare()
    opened(first, "small")
    for project in ("small", "zoo"):
        (second.briefs / f"{project}.yaml").write_text(
            yaml.safe_dump(small(project=project, serving={"log": {"keep_days": 30}}))
        )
    database = Database.of(second, "zoo")
    database.append(tables.labels, project="zoo", request_id="r0", label=1, at=OLD)
    database.close()
    ran = CliRunner().invoke(app, ["gc", "--home", str(second.root)])
    assert ran.exit_code == 1 and ran.stderr.startswith("error: found the project small in the database as that of")
    assert "1 rows and segments of zoo's log" in ran.stdout
    table = TritonServer(second).routing("small")
    table.parent.mkdir(parents=True)
    table.write_text(json.dumps(only("small", "small__a", 1).plain()))
    ran = CliRunner().invoke(app, ["status", "--home", str(second.root)])
    assert ran.exit_code == 0
    for told in ("small: 0 days of data; found the project small", "zoo: 0 days of data; nothing serves"):
        assert told in " ".join(ran.stdout.split())


def test_every_module_names_the_project_whose_rows_it_asks_for():
    sources = Path(tables.__file__).parents[1].rglob("*.py")
    assert [path.name for path in sources if "Database.of(workspace.home)" in path.read_text(encoding="utf-8")] == []


def test_a_home_that_was_moved_or_made_anew_under_its_identity_is_the_same(shared, tmp_path):
    first, moved, anew, third = (Home(tmp_path / name) for name in ("first", "moved", "anew", "third"))
    opened(first)
    first.root.rename(moved.root)
    assert opened(moved) == 0
    assert str(moved.root) in refusal(third), "where it is now"
    known = identity(moved)
    shutil.rmtree(moved.root)
    told = refusal(anew)
    assert f"if it is that home, made anew, write {known} into {anew.identity}; " in told
    anew.identity.write_text(known)
    assert opened(anew) == 0


def test_a_copy_of_a_home_is_refused_until_it_is_another_or_the_only_one(shared, tmp_path):
    first, copy, name = Home(tmp_path / "first"), Home(tmp_path / "copy"), Home(tmp_path / "name")
    opened(first)
    name.root.symlink_to(first.root)
    shutil.copytree(first.root, copy.root)
    assert refusal(copy).startswith(f"found {copy.root} to be a copy of the home {first.root}; expected one home a")
    assert opened(first) == opened(name) == opened(first) == 0, "the same folder under two names"
    copy.identity.unlink()
    assert opened(copy, "b") == 0
    assert "home.id" not in refusal(Home(tmp_path / "third")), "it would be a copy"
    copy.identity.write_text(identity(first))
    first.identity.unlink()
    assert opened(copy) == 0, "it took the place"


def test_of_two_that_come_at_once_one_is_refused(shared, tmp_path):
    homes = [Home(tmp_path / name) for name in ("first", "second")]
    opened(Home(tmp_path / "third"), None)  # the tables are there
    together, refused = threading.Barrier(2), list[str]()

    def work(home):
        together.wait(10)
        try:
            opened(home)
        except DatabaseError as error:
            refused.append(str(error))

    threads = [threading.Thread(target=work, args=(home,)) for home in homes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refused) == 1 and refused[0].startswith("found the project a in the database as that of another home")


def test_a_home_with_a_database_of_its_own_needs_no_identity(tmp_path, monkeypatch):
    monkeypatch.delenv(DATABASE_URL, raising=False)
    home = Home(tmp_path / "first")
    assert opened(home) == 0 and not home.identity.exists() and not home.locks.exists()


def test_a_home_that_has_its_identity_is_only_read_and_one_that_can_not_get_it_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv(DATABASE_URL, f"sqlite:///{tmp_path / 'shared.sqlite'}")
    home, full = Home(tmp_path / "first"), Home(tmp_path / "full").prepare()
    assert opened(home) == 0
    shutil.rmtree(home.locks)
    assert opened(home) == 0 and not home.locks.exists()

    def refuse(operation, path):
        if path == full.identity:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    with durable.inject(refuse), pytest.raises(DatabaseError) as caught:
        opened(full)
    told = str(caught.value)
    assert told.startswith(f"found Read-only file system at {full.identity}; expected a home that can be written")
    assert "DLP_DATABASE_URL" not in told


def test_work_on_a_project_of_another_home_is_refused_before_it_begins(tmp_path, monkeypatch):
    monkeypatch.setenv(DATABASE_URL, f"sqlite:///{tmp_path / 'shared.sqlite'}")
    first, second = Home(tmp_path / "first"), Home(tmp_path / "second")
    opened(first, "small")
    file = write(tmp_path, small())
    days = ["--from", "2026-01-01", "--to", "2026-01-01"]
    for command in (["run", str(file)], ["backfill", str(file), *days]):
        ran = CliRunner().invoke(app, [*command, "--home", str(second.root)])
        assert ran.exit_code != 0 and "error: found the project small in the database as that of" in ran.stderr
        assert list(second.artifacts.iterdir()) == list(second.briefs.iterdir()) == []
    monkeypatch.setattr(demo, "_train", lambda *_: pytest.fail("it was trained"))
    opened(first, "demo_ab")
    ran = CliRunner().invoke(app, ["demo", "ab", "--home", str(second.root)])
    assert ran.exit_code != 0 and "error: found the project demo_ab in" in ran.stderr


def test_nothing_is_opened_before_work_where_the_tables_are_in_the_home(tmp_path, monkeypatch):
    monkeypatch.delenv(DATABASE_URL, raising=False)
    Database.claim(Home(tmp_path), "a")
    assert list(tmp_path.iterdir()) == []
