"""Homes that share a database: a project is of one of them."""

import threading
from pathlib import Path

import pytest

from dl_pipelines.store import tables
from dl_pipelines.store.database import Database, DatabaseError
from dl_pipelines.store.home import DATABASE_URL, Home
from dl_pipelines.store.owner import identity


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def shared(request, tmp_path, monkeypatch) -> str:
    """The URL of a database outside of every home."""
    sqlite = request.param == "sqlite"
    url = f"sqlite:///{tmp_path / 'shared.sqlite'}" if sqlite else request.getfixturevalue("postgres_url")
    monkeypatch.setenv(DATABASE_URL, url)
    return url


def home_of(path: Path, *projects: str) -> Home:
    home = Home(path).prepare()
    for project in projects:
        (home.artifacts / project).mkdir()
    return home


def opened(home: Home) -> int:
    database = Database.of(home)
    try:
        return len(database.rows(tables.labels))
    finally:
        database.close()


def test_a_second_home_of_a_project_is_refused_and_told_which_the_first_is(shared, tmp_path):
    first, second = home_of(tmp_path / "first", "a", "b"), home_of(tmp_path / "second", "c")
    for _ in range(2):
        assert opened(first) == opened(second) == 0, "of different projects"
    (second.artifacts / "b").mkdir()
    with pytest.raises(DatabaseError) as caught:
        opened(second)
    told = str(caught.value)
    assert told.startswith(f"found the project b in the database as that of another home ({first.root}); expected one")
    assert told.endswith(f"if it is that home, made anew, write {identity(first)} into {second.root / 'home.id'}")
    assert opened(first) == 0


def test_a_home_that_was_moved_or_made_anew_under_its_identity_is_the_same(shared, tmp_path):
    opened(home_of(tmp_path / "first", "a"))
    (tmp_path / "first").rename(tmp_path / "moved")
    moved, anew = Home(tmp_path / "moved"), home_of(tmp_path / "anew", "a")
    assert opened(moved) == 0
    anew.identity.write_text(identity(moved))
    assert opened(anew) == 0


def test_of_two_that_come_at_once_one_is_refused(shared, tmp_path):
    homes = [home_of(tmp_path / name, "a") for name in ("first", "second")]
    opened(home_of(tmp_path / "third"))  # the tables are there
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
    home = home_of(tmp_path / "first", "a")
    assert opened(home) == 0 and not home.identity.exists()
