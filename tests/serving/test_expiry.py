"""Retention: old answers and their labels go, segments only once all of them is in the tables."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime, timedelta

import pytest

from dl_pipelines.serving.carry import carry_log
from dl_pipelines.serving.client import acknowledged_folder
from dl_pipelines.serving.expiry import expire_log
from dl_pipelines.serving.labels import read_labels
from dl_pipelines.serving.prediction_log import answered_ids, missing_ids
from dl_pipelines.store import owner, tables
from dl_pipelines.store.database import Database
from dl_pipelines.store.home import DATABASE_URL, Home
from dl_pipelines.store.owner import OtherHomeError
from dl_pipelines.store.workspace import Workspace
from dl_pipelines.wire import records
from dl_pipelines.wire.log_format import LogWriter
from dl_pipelines.wire.log_reading import segments
from tests.lifecycle.traffic import Table
from tests.logged import MODEL, answer, outputs_of, writer_of

DAY = 86_400


def count(workspace, table):
    database = Database.of(workspace.home, workspace.project)
    try:
        return len(database.rows(table))
    finally:
        database.close()


def label(workspace, name, days):
    at = (datetime.now(UTC) - timedelta(days=days)).isoformat(timespec="milliseconds")
    database = Database.of(workspace.home, workspace.project)
    database.append(tables.labels, project=workspace.project, request_id=name, label=1, at=at)
    database.append(tables.label_inbox, project=workspace.project, request_id=name, label=1, signature="", at=at)
    database.close()


def written(workspace, name, days, folder=None, revision=3):
    """A segment with one answer of so many days ago, and what else is logged."""
    at = time.time() - days * DAY
    writer = writer_of(workspace) if folder is None else LogWriter(folder)
    if folder is None:
        answer(writer, name, at=at, revision=revision)
        writer.append([records.shadow(name, at, "tiny__two", revision, 1.0, outputs_of(name))])
        writer.append([records.failed(name + "/f", at, "u", "champion", MODEL, revision, "no")])
    else:
        writer.append([{"id": name}])
    writer.close()
    os.utime(writer.path, (at, at))
    return writer.path


def test_what_is_older_goes_with_its_labels(own):
    noted = acknowledged_folder(own.home, "tiny")
    paths = {name: written(own, name, days) for name, days in [("old", 31), ("older", 90), ("young", 29)]}
    for name, days in [("old", 31), ("young", 29)]:
        written(own, name, days, noted)
    for name, days in [("old", 1), ("young", 1), ("early", 2), ("never", 40)]:
        label(own, name, days)
    carry_log(own)
    assert expire_log(own, None) == 0
    assert expire_log(own, 30) == 2 + (1 + 1) + 1 + 2 * 3  # segments, labels, a row of the inbox, 3 rows of each
    assert answered_ids(own) == {"young"}
    assert missing_ids(own) == []
    assert set(read_labels(own)) == {"young", "early"}, "one that came before its request is carried is kept"
    assert count(own, tables.label_inbox) == 3
    assert count(own, tables.shadow_predictions) == count(own, tables.router_events) == 1
    assert segments(own.home.predictions / "tiny") == [paths["young"]]
    assert count(own, tables.carried_segments) == 1
    assert len(segments(noted)) == 1
    assert expire_log(own, 30) == 0


@pytest.mark.parametrize("hours_late", [0.5, 30])
def test_what_was_noted_long_after_it_was_asked_is_no_false_alarm(own, hours_late):
    """A long bulk, or one that went on a day later; a request that is asked again keeps its first answer."""
    noted = acknowledged_folder(own.home, "tiny")
    name = "old"
    for each, days in ((name, 30.1), ("lost", 29), ("young", 29)):
        if each != "lost":
            written(own, each, days)
        path = written(own, each, days - hours_late / 24, noted)
    carry_log(own)
    expire_log(own, 30)
    assert missing_ids(own) == ["lost"], "which is no false one"
    assert path.exists()


def test_a_segment_that_is_not_carried_whole_or_is_written_stays(own):
    fresh = written(own, "not/carried", 90)
    assert expire_log(own, 30) == 0
    assert fresh.exists()
    writer = writer_of(own)
    answer(writer, "old", at=time.time() - 90 * DAY)
    carry_log(own)
    os.utime(writer.path, (time.time() - 90 * DAY,) * 2)
    expire_log(own, 30)
    assert segments(own.home.predictions / "tiny") == [writer.path], "its writer lives"
    writer.close()
    assert carry_log(own) == 0, "what expired is not carried once more"
    assert answered_ids(own) == set()


def test_other_projects_keep_theirs(own):
    other = Workspace(own.home, "other")
    for workspace in (own, other):
        written(workspace, "old", 90)
        label(workspace, "old", 90)
        carry_log(workspace)
    expire_log(own, 30)
    assert answered_ids(other) == {"old"}
    assert set(read_labels(other)) == {"old"}
    assert len(segments(own.home.predictions / "other")) == 1


def test_another_home_on_the_same_database_keeps_its_segments(own, tmp_path):
    """Its rows of carried segments too: without them it would carry its events once more."""
    database = own.home.database_url
    other = Workspace(Home(tmp_path / "second").prepare(), "tiny")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(DATABASE_URL, database)
        written(other, "theirs", 1)
        carry_log(other)
        with pytest.raises(OtherHomeError):
            expire_log(own, 30)
        patch.setattr(owner, "require_own", lambda *_: None)  # as of a copy on another machine, which can't be told
        assert expire_log(own, 30) == 0
        assert carry_log(other) == 0
        assert count(other, tables.router_events) == 1


def test_what_a_writer_left_before_its_name_is_swept(own):
    folder = own.home.predictions / "tiny"
    folder.mkdir(parents=True)
    for name, age in [("a.new", 7200), ("b.new", 60)]:
        (folder / name).touch()
        os.utime(folder / name, (time.time() - age,) * 2)
    expire_log(own, None)
    assert [path.name for path in folder.iterdir()] == ["b.new"]


def test_what_an_experiment_counts_stays_until_it_has_ended(own):
    """A window that slides is no confidence sequence; a breaker that opened long ago is open."""
    table = Table(own)
    before, first = table.stage(0, 0, experiment="before", key="1"), table.stage(0, 0, key="2")
    second = table.stage(0.5, 1, key="3")
    for row in (before, first, second):
        written(own, f"of-{row['id']}", 90, revision=row["id"])
        label(own, f"of-{row['id']}", 80)
    table.event(first["id"], "breaker", "shadow", detail="10 failures in a row")
    carry_log(own)
    kept = {f"of-{row['id']}" for row in (first, second)}
    for event in ("stage", "proposed"):
        table.stage(0.5, 1, event=event, key=event)
        expire_log(own, 30)
        assert answered_ids(own) == set(read_labels(own)) == kept
        assert count(own, tables.shadow_predictions) == 2
        assert count(own, tables.router_events) == 3
    table.stage(0.5, 1, event="promoted", key="e:end")
    expire_log(own, 30)
    assert answered_ids(own) == set() == set(read_labels(own))
    assert count(own, tables.shadow_predictions) == count(own, tables.router_events) == 0
