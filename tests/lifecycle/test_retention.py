import contextlib
import os
import shutil
import time
from datetime import date

import pytest
from filelock import FileLock

from benchmarks.tiny import make_compressed
from dl_pipelines.data.batches import window_rows
from dl_pipelines.lifecycle.retention import collect_garbage
from dl_pipelines.serving.champion import champion, previous
from dl_pipelines.serving.repair import reconcile
from dl_pipelines.serving.traffic import ensure_champion, give_traffic
from dl_pipelines.store import durable, garbage
from dl_pipelines.store.artifacts import MANIFEST, ArtifactError, Gate
from dl_pipelines.store.home import Home
from dl_pipelines.store.workspace import Partition, Workspace

from .conftest import ALIKE, BETTER, LATER, RENAMED, WORSE

REPORT = "implementation_report"


class Crash(BaseException):
    """The process dies here."""


def day(number, experiment=None):
    return Partition(date(2026, 1, number), experiment)


@pytest.fixture
def workspace(tmp_path):
    return Workspace(Home(tmp_path).prepare(), "plain")


def put(workspace, stage, partition, content="", **parents):
    def build(draft):
        draft.write_text("content.txt", f"{stage} {partition.key} {content}")
        draft.gate(Gate("made", True, "by a test", blocking=True))

    return workspace.make(stage, partition, build, settings={"content": content}, parents=parents)


def line(workspace, number, content=""):
    """One day of the line: a dataset, a window on all of them so far, a model, its reports, what is drawn for them."""
    put(workspace, "raw_data", day(number))
    days = {f"raw_data {item.key}": workspace.get("raw_data", item) for item in workspace.partitions("raw_data")}
    window = put(workspace, "training_window", day(number), **days)
    model = put(workspace, "trained_model", day(number, "base"), content, training_window=window)
    report = put(workspace, REPORT, day(number, "base"), content, trained_model=model, training_window=window)
    put(workspace, "drift_report", day(number, "base"), content, trained_model=model)
    for folder in (workspace.home.reports / "plain", workspace.home.docs / "plain" / "evidently"):
        durable.write_text(folder / day(number, "base").slug / "page.html", "drawn")
    return report


def artifacts(workspace):
    return sorted(f"{path.parent.name}/{path.name}" for path in (workspace.home.artifacts / "plain").glob("*/[!.]*"))


def everything(workspace):
    """Files below the home, but locks and the database that a look into the ledger makes."""
    root = workspace.home.root
    names = {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}
    return {name for name in names if not name.startswith(("locks/", "dlp.sqlite"))}


def test_the_newest_stay_with_all_that_they_stand_on(workspace):
    for number in range(1, 6):
        line(workspace, number)
    before = everything(workspace)
    planned = collect_garbage(workspace, 2, dry_run=True)
    assert everything(workspace) == before, "a dry run removes nothing"

    removed = collect_garbage(workspace, 2)
    assert removed == planned
    assert sorted((item.stage, item.partition) for item in removed) == [
        *(("drift_report", f"2026-01-0{number}|base") for number in (1, 2, 3)),
        *((REPORT, f"2026-01-0{number}|base") for number in (1, 2, 3)),
        *(("trained_model", f"2026-01-0{number}|base") for number in (1, 2, 3)),
        *(("training_window", f"2026-01-0{number}") for number in (1, 2, 3)),
    ]
    assert workspace.days("raw_data") == [day(number).day for number in range(1, 6)], "the kept windows list them all"
    for stage in ("trained_model", REPORT):
        assert workspace.partitions(stage) == [day(4, "base"), day(5, "base")]
    assert workspace.find("trained_model", day(1, "base")) is None
    with pytest.raises(
        ArtifactError, match=r"found no trained_model of plain for 2026-01-01\|base; expected it to have"
    ):
        workspace.get("trained_model", day(1, "base"))
    for partition in (day(4), day(5)):
        for digest in workspace.get("training_window", partition).verify().parents.values():
            workspace.by_digest("raw_data", digest).verify()
    assert sorted(path.name for path in (workspace.home.reports / "plain").iterdir()) == [
        "2026-01-04_base",
        "2026-01-05_base",
    ]

    first = removed[0]
    assert str(first) == (
        f"{first.stage} {first.digest[:16]} of {first.partition} ({first.bytes / 1e6:.2f} MB) is not among the newest 2"
    )
    assert all(item.bytes > 100 for item in removed)
    after = everything(workspace)
    assert collect_garbage(workspace, 2) == []
    assert everything(workspace) == after, "nothing is left to remove"


def test_what_is_gone_is_made_again_with_the_same_digest(workspace):
    for number in (1, 2):
        line(workspace, number)
    gone = workspace.get("trained_model", day(1, "base")).digest
    keys = workspace.home.index / "plain" / "trained_model" / "keys"
    assert len(list(keys.iterdir())) == 2
    collect_garbage(workspace, 1)
    assert len(list(keys.iterdir())) == 1
    again = Workspace(workspace.home, "plain")
    line(again, 1)
    made = [artifact.stage for artifact in again.made]
    assert "trained_model" in made
    assert "raw_data" not in made, "the newest window has kept it"
    kept = Workspace(workspace.home, "plain")
    line(kept, 2)
    assert kept.made == []
    assert gone != again.get("trained_model", day(2, "base")).digest


def test_what_was_replaced_goes_and_shared_artifacts_stay(workspace):
    old = line(workspace, 1, "old")
    new = line(workspace, 1, "new")
    shared = put(workspace, "trained_model", day(1, "wide"), "shared")
    workspace.point("trained_model", day(2, "wide"), shared)
    removed = collect_garbage(workspace, 2)
    assert sorted((item.stage, item.partition) for item in removed) == [
        ("drift_report", ""),
        (REPORT, ""),
        ("trained_model", ""),
    ]
    assert {item.why for item in removed} == {"is what no partition means any more"}
    assert not old.path.exists()
    assert new.verify()
    removed = collect_garbage(workspace, 1)
    assert [(item.stage, item.partition) for item in removed] == [], "the report's model, and the newest, are kept"
    assert workspace.find("trained_model", day(1, "wide")) == shared


def test_children_go_before_what_they_were_made_from(workspace):
    for number in range(1, 5):
        line(workspace, number)
    order = [item.stage for item in collect_garbage(workspace, 1, dry_run=True)]
    for number in range(3):
        assert REPORT in order
        assert order.index(REPORT) < order.index("trained_model") < order.index("training_window"), number


@pytest.mark.parametrize("aside", [False, True], ids=["before", "after"])
def test_a_crash_at_any_moment_leaves_whole_artifacts(workspace, tmp_path_factory, aside):
    for number in (1, 2):
        line(workspace, number)
    gone = {item.digest for item in collect_garbage(workspace, 1, dry_run=True)}
    kept = set(garbage.stored(workspace)) - gone
    crashes = 0
    while True:
        root = tmp_path_factory.mktemp("copy") / "home"
        shutil.copytree(workspace.home.root, root)
        copy = Workspace(Home(root), "plain")
        if not dies_at(copy, crashes, aside):
            break
        crashes += 1
        there = set(garbage.stored(copy))
        for stage in garbage.stages(copy):
            for partition in copy.partitions(stage):
                artifact = copy.get(stage, partition).verify()
                assert set(artifact.parents.values()) <= there, "the lineage of what can be found is there"
        collect_garbage(copy, 1)
        assert set(garbage.stored(copy)) == kept
        assert collect_garbage(copy, 1) == []
    assert crashes == 3 * len(gone) + 2, "a pointer, a folder and a key each, and what was drawn"


def dies_at(workspace, number, aside):
    """Collect, and die at the removal with this number, before or after it was done; False when there are less."""
    count = 0

    def die(operation, path):
        nonlocal count
        if operation == "remove":
            if count == number:
                if aside and path.is_dir():
                    path.rename(path.with_name(f".removed-{path.name}"))
                elif aside:
                    path.unlink()
                raise Crash
            count += 1

    with durable.inject(die), contextlib.suppress(Crash):
        collect_garbage(workspace, 1)
        return False
    return True


def test_what_a_run_holds_stays_with_its_lineage(workspace):
    for number in (1, 2):
        line(workspace, number)
    (key,) = [
        path.stem
        for path in (workspace.home.index / "plain" / "trained_model" / "keys").iterdir()
        if durable.read_json(path)["artifact"] == workspace.get("trained_model", day(1, "base")).short
    ]
    with FileLock(workspace.lock("trained_model", key)):
        removed = [(item.stage, item.partition) for item in collect_garbage(workspace, 1)]
        assert sorted(removed) == [("drift_report", "2026-01-01|base"), (REPORT, "2026-01-01|base")]
    removed = [(item.stage, item.partition) for item in collect_garbage(workspace, 1)]
    assert removed == [("trained_model", "2026-01-01|base"), ("training_window", "2026-01-01")]


def test_what_a_run_has_found_again_stays(workspace):
    for number in (1, 2):
        line(workspace, number)
    found = garbage.stored(workspace)
    (item,) = [
        item for item in found.values() if item.partitions == (day(1, "base"),) and item.artifact.stage == REPORT
    ]
    workspace.point(REPORT, day(9, "base"), item.artifact)
    assert garbage.remove(workspace, item) is False
    assert workspace.get(REPORT, day(1, "base")) == workspace.get(REPORT, day(9, "base")) == item.artifact


def test_an_artifact_that_is_just_being_stored_stays(workspace):
    artifact = put(workspace, "trained_model", day(1, "base"))
    for path in (workspace.home.index / "plain" / "trained_model").rglob("*.json"):
        path.unlink()
    assert collect_garbage(workspace, 1) == []
    age(artifact.path, 2 * garbage.HOUR)
    assert [item.digest for item in collect_garbage(workspace, 1)] == [artifact.digest]


def age(path, seconds):
    then = time.time() - seconds
    for item in (*path.rglob("*"), path):
        os.utime(item, (then, then))


def test_leftovers_of_crashes_go_when_they_are_old(workspace):
    put(workspace, "trained_model", day(1, "base"))
    folder, work = workspace.home.artifacts / "plain" / "trained_model", workspace.home.work / "plain" / "trained_model"
    made = {}
    for name, parent, seconds in (
        (".draft-old", folder, garbage.DRAFT_AGE + 60), (".draft-new", folder, 60),
        (".removed-old-1", folder, garbage.DRAFT_AGE + 60), (".removed-new-1", folder, 60),
        ("key_old", work, garbage.WORK_AGE + 60), ("key_new", work, garbage.WORK_AGE - 60),
    ):  # fmt: skip
        made[name] = parent / name
        (made[name] / "inner").mkdir(parents=True)
        (made[name] / "inner" / "file.bin").write_bytes(b"x" * 1000)
        age(made[name], seconds)
    planned = collect_garbage(workspace, 5, dry_run=True)
    assert all(path.exists() for path in made.values())
    removed = collect_garbage(workspace, 5)
    assert removed == planned
    assert sorted(item.name for item in removed) == [".draft-old", ".removed-old-1", "key_old"]
    assert {(item.digest, item.partition, item.bytes) for item in removed} == {("", "", 1000)}
    assert str(removed[0]) == "trained_model .draft-old (0.00 MB) is left of a run that did not finish"
    assert {name for name, path in made.items() if path.exists()} == {".draft-new", ".removed-new-1", "key_new"}
    assert collect_garbage(workspace, 5) == []


def test_a_long_training_keeps_its_draft_and_its_work(workspace):
    put(workspace, "trained_model", day(1, "base"))
    draft = workspace.home.artifacts / "plain" / "trained_model" / ".draft-slow"
    work = workspace.home.work / "plain" / "trained_model" / "slowkey"
    for path in (draft, work):
        path.mkdir(parents=True)
        age(path, 30 * 24 * garbage.HOUR)
    with FileLock(workspace.lock("trained_model", "slowkey")):
        assert collect_garbage(workspace, 1) == []
    assert draft.exists()
    assert work.exists()
    assert [item.name for item in collect_garbage(workspace, 1)] == [".draft-slow", "slowkey"]


def test_a_damaged_manifest_stops_it(workspace):
    for number in (1, 2):
        line(workspace, number)
    path = workspace.get("trained_model", day(2, "base")).path / MANIFEST
    path.write_text(path.read_text().replace("content.txt", "another.txt"))
    before = artifacts(workspace)
    with pytest.raises(ArtifactError, match=r"found a manifest in .* that was changed after it was written"):
        collect_garbage(workspace, 1)
    assert artifacts(workspace) == before


def test_an_empty_home_has_nothing_to_remove(workspace):
    assert collect_garbage(workspace, 1) == []


def test_what_serves_and_what_last_served_stay(project, publish, task, data):
    workspace, neighbour = project("kept"), project("neighbour")
    published = {partition: publish(workspace, partition, seed) for seed, partition in enumerate((WORSE, BETTER))}
    for seed, partition in enumerate((ALIKE, RENAMED), start=2):
        make_compressed(workspace, partition, task, seed, "onnxruntime")
    ensure_champion(workspace, WORSE, published[WORSE])
    give_traffic(workspace, published[BETTER], BETTER, "for this test")
    removed = collect_garbage(workspace, 1)
    assert sorted((item.stage, item.partition) for item in removed) == [
        ("compressed_model", ALIKE.key), ("training_window", ALIKE.daily.key), ("training_window", LATER.daily.key),
    ]  # fmt: skip
    assert champion(workspace).digest == published[BETTER].digest
    assert previous(workspace)["digest"] == published[WORSE].digest
    for partition in (WORSE, BETTER):
        artifact = workspace.get("triton_repository", partition).verify()
        workspace.by_digest("compressed_model", artifact.parents["compressed_model"]).verify()
        window = workspace.by_digest("training_window", artifact.parents["training_window"])
        assert len(window_rows(workspace, window, "validation", data, task))
    assert reconcile(workspace) == []
    assert collect_garbage(workspace, 1) == []
    assert len(neighbour.partitions("training_window")) == 5, "another project's are not touched"


def test_a_chain_of_warm_starts_does_not_keep_every_model(workspace):
    before = {}
    for number in range(1, 6):
        model = put(workspace, "trained_model", day(number, "base"), **before)
        before = {"warm_start": model}
    removed = collect_garbage(workspace, keep=2)
    assert [item.partition for item in removed] == ["2026-01-03|base", "2026-01-02|base", "2026-01-01|base"]
    assert len(artifacts(workspace)) == 2
    assert workspace.get("trained_model", day(4, "base")).parents["warm_start"] == removed[0].digest


def test_rows_that_no_kept_window_needs_go_last(workspace):
    for number in (1, 2, 3):
        line(workspace, number)
    folders = {}
    for number in (1, 2, 3):
        window = workspace.get("training_window", day(number)).digest
        folders[number] = workspace.home.cache / "plain" / "rows" / f"of-{number}"
        durable.write_json(folders[number] / "rows.json", {"settings": {"window": window}, "bytes": {}})
    planned = collect_garbage(workspace, 2, dry_run=True)
    assert [(item.stage, item.name) for item in planned][-1] == ("rows", "of-1")
    assert str(planned[-1]).endswith("is a copy of rows, of no window that is kept or unused for a week")
    assert collect_garbage(workspace, 2) == planned
    assert [folders[number].exists() for number in (1, 2, 3)] == [False, True, True]
