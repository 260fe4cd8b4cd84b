"""`make`: once for the same inputs, from one process or two, and whole or not at all wherever a crash comes."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import date
from itertools import count
from pathlib import Path

import pytest

from dl_pipelines.store import durable
from dl_pipelines.store.artifacts import Artifact, ArtifactError, Draft, Gate, StageSkipped
from dl_pipelines.store.home import Home
from dl_pipelines.store.workspace import Partition, Progress, Workspace

ROOT = Path(__file__).parent.parent.parent
DAY = date(2026, 1, 31)


class Built:
    """A stage that counts how often it is built."""

    def __init__(self, text: str = "text"):
        self.text, self.times = text, 0

    def __call__(self, draft: Draft) -> None:
        self.times += 1
        draft.write_text("below/a.txt", self.text)
        draft.file("data.lance/part").write_text(self.text)
        draft.content("data.lance", self.text)
        draft.write_json("choice.json", draft.decide_once("runtime", lambda: self.text))
        draft.gate(Gate("whole", True, "fine", blocking=True))


def make(workspace: Workspace, partition: Partition, build: Callable[[Draft], None], **changes) -> Artifact:
    return workspace.make("stage", partition, build, **{"settings": {"s": 1}, "parents": {}} | changes)


def test_the_same_inputs_are_built_once(own: Workspace, base: Partition):
    built = Built()
    first = make(own, base, built)
    again = make(Workspace(own.home, "p"), base, built)
    assert again == first
    assert built.times == 1
    assert own.made == [first]


@pytest.mark.parametrize(
    "changes",
    [
        lambda parent: {"settings": {"s": 2}},
        lambda parent: {"version": 2},
        lambda parent: {"parents": {"parent": parent}},
    ],
    ids=["settings", "version", "parents"],
)
def test_another_input_is_built_anew(own: Workspace, base: Partition, changes):
    parent = own.make("parent", base, Built("parent"), settings={}, parents={})
    built = Built()
    first = make(own, base, built)
    second = make(own, base, built, **changes(parent))
    assert built.times == 2
    assert second.digest != first.digest
    assert own.get("stage", base) == second
    assert make(own, base, built) == first
    assert built.times == 2


def test_a_parent_that_differs_is_another_input(own: Workspace, base: Partition):
    parents = [own.make("parent", base, Built(text), settings={"text": text}, parents={}) for text in ("x", "y")]
    made = [make(own, base, Built(), parents={"parent": parent}) for parent in parents]
    assert made[0].digest != made[1].digest
    assert [dict(item.parents) for item in made] == [{"parent": parent.digest} for parent in parents]


def test_another_day_is_built_anew_and_another_experiment_is_not(own: Workspace):
    built = Built()
    first = make(own, Partition(DAY, "base"), built)
    assert make(own, Partition(DAY, "longer"), built) == first
    assert built.times == 1
    make(own, Partition(date(2026, 2, 1), "base"), built)
    assert built.times == 2


def test_a_choice_is_made_once_and_replayed(own: Workspace, base: Partition):
    decided = []

    def build(draft: Draft) -> None:
        decided.append(draft.decide_once("runtime", lambda: {"name": f"choice {len(decided)}"}))
        draft.write_json("runtime.json", decided[-1])

    first = make(own, base, build)
    durable.remove_tree(first.path)
    assert make(own, base, build).digest == first.digest
    assert decided == [{"name": "choice 0"}] * 2
    make(own, base, build, settings={"s": 2})
    assert decided[2] == {"name": "choice 2"}


def test_choices_within_a_choice_are_kept_too(own: Workspace, base: Partition):
    taken = []

    def take(name: str) -> str:
        taken.append(name)
        return name

    def build(draft: Draft) -> None:
        def outer() -> str:
            return take("outer") + draft.decide_once("inner", lambda: take("inner"))

        draft.write_json("choice.json", [draft.decide_once("outer", outer), draft.decide_once("inner", lambda: "late")])

    first = make(own, base, build)
    durable.remove_tree(first.path)
    assert make(own, base, build).read_json("choice.json") == ["outerinner", "inner"]
    assert taken == ["outer", "inner"]


def test_a_build_that_fails_leaves_nothing_but_its_work(own: Workspace, base: Partition):
    def fail(draft: Draft) -> None:
        draft.write_text("a.txt", "half")
        (draft.work / "checkpoint").write_text("epoch 3")
        raise StageSkipped("no records")

    with pytest.raises(StageSkipped, match="no records"):
        make(own, base, fail)
    assert own.find("stage", base) is None
    assert list((own.home.artifacts / "p" / "stage").iterdir()) == []
    found = []

    def resume(draft: Draft) -> None:
        found.append((draft.work / "checkpoint").read_text())
        draft.write_text("a.txt", "whole")

    make(own, base, resume)
    assert found == ["epoch 3"]
    assert list(own.home.work.rglob("checkpoint")) == []


def numbered(home: Home) -> Iterator[tuple[int, Workspace]]:
    for number in count():
        yield number, Workspace(Home(home.root / str(number)), "p")


def test_a_crash_anywhere_in_make_leaves_the_old_artifact_or_the_new(own: Workspace, base: Partition, dies_before):
    seen, expected = set(), {}
    for number, workspace in numbered(own.home):
        old = make(workspace, base, Built("old"), settings={"s": 0})
        died = dies_before(number, lambda workspace=workspace: make(workspace, base, Built("new")))
        found = workspace.get("stage", base).verify().require_gates()
        text = found.file("below/a.txt").read_text()
        assert found.digest == old.digest if text == "old" else text == "new"
        for folder in (workspace.home.artifacts / "p" / "stage").glob("[!.]*"):
            Artifact.open(folder).verify()
        seen.add(text)
        whole = make(workspace, base, Built("new"))
        expected.setdefault("digest", whole.digest)
        assert whole.verify().digest == expected["digest"]
        assert workspace.get("stage", base) == whole
        assert workspace.partitions("stage") == [base]
        if not died:
            break
    assert number > 15
    assert seen == {"old", "new"}


def test_a_full_disk_anywhere_in_make_leaves_the_old_artifact(own: Workspace, base: Partition):
    for number, workspace in numbered(own.home):
        old, operations, refused = make(workspace, base, Built("old"), settings={"s": 0}), count(), []

        def refuse(operation: str, path: Path, number=number, operations=operations, refused=refused) -> None:
            if next(operations) == number:
                refused.append(operation)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

        with durable.inject(refuse):
            if number == 0:
                with pytest.raises(OSError, match="No space left on device"):
                    make(workspace, base, Built("new"))
            else:
                try:
                    make(workspace, base, Built("new"))
                except OSError as error:
                    assert error.errno == errno.ENOSPC
        found = workspace.get("stage", base).verify()
        assert found == old or found.file("below/a.txt").read_text() == "new"
        names = [entry.name for entry in (workspace.home.artifacts / "p" / "stage").iterdir()]
        assert [name for name in names if name.startswith(".")] == []
        assert make(workspace, base, Built("new")).verify().file("below/a.txt").read_text() == "new"
        if not refused:
            break
    assert number > 15


def test_a_damaged_artifact_is_replaced_when_its_stage_runs_again(own: Workspace, base: Partition):
    built = Built()
    first = make(own, base, built)
    (first.path / "manifest.json").write_text("{}")
    again = make(own, base, built)
    assert (again.digest, built.times) == (first.digest, 2)
    again.verify()
    (again.path / "below" / "a.txt").write_text("changed")
    durable.remove_tree(own.home.index / "p" / "stage" / "keys")
    assert make(own, base, built).verify().digest == first.digest


def test_the_message_to_remove_the_folder_helps(own: Workspace, base: Partition):
    built = Built()
    first = make(own, base, built)
    (first.path / "below" / "a.txt").write_text("changed")
    with pytest.raises(ArtifactError, match="remove the folder and run stage again"):
        own.get("stage", base).verify()
    durable.remove_tree(first.path)
    with pytest.raises(ArtifactError, match=r"found no manifest\.json in"):
        own.get("stage", base)
    assert make(own, base, built).verify().digest == first.digest


MAKE = """
import sys, time
from datetime import date
from pathlib import Path
from dl_pipelines.store.home import Home
from dl_pipelines.store.workspace import Partition, Workspace

def build(draft):
    with open({log!r}, "a") as log:
        log.write("built\\n")
    while len(Path({arrived!r}).read_text().split()) < {others}:
        time.sleep(0.01)
    time.sleep(0.2)  # so that the other is in `make` too
    draft.write_text("a.txt", "x")

with open({arrived!r}, "a") as arrived:
    arrived.write("here\\n")
made = Workspace(Home(Path({home!r})), "p").make(
    "stage", Partition(date(2026, 1, 31), "base"), build, settings={{}}, parents={{}})
print(made.digest)
"""


def started(home: Home, folder: Path, others: int) -> subprocess.Popen[str]:
    """A process that makes an artifact; its build ends when `others` have come to make the same."""
    program = MAKE.format(log=str(folder / "log"), arrived=str(folder / "arrived"), home=str(home.root), others=others)
    return subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True)


def test_two_processes_build_once(own: Workspace, tmp_path: Path):
    both = [started(own.home, tmp_path, 2) for _ in range(2)]
    digests = [process.communicate(timeout=60)[0].strip() for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert digests[0] == digests[1] != ""
    assert (tmp_path / "log").read_text() == "built\n"


def test_a_killed_builder_does_not_block_the_next(own: Workspace, tmp_path: Path):
    hung = started(own.home, tmp_path, 99)
    end = time.monotonic() + 60
    while not (tmp_path / "log").exists():
        assert time.monotonic() < end
        time.sleep(0.02)
    hung.kill()
    hung.communicate()
    base = Partition(DAY, "base")
    assert own.find("stage", base) is None
    made = own.make("stage", base, lambda draft: draft.write_text("a.txt", "x"), settings={}, parents={})
    assert own.get("stage", base) == made


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MB."""
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"no small disk can be mounted here: {mounted.stderr.strip()}")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_disk_that_is_really_full(small_disk: Path, base: Partition):
    workspace = Workspace(Home(small_disk), "p")
    first = make(workspace, base, Built())
    large = "x" * 600_000

    def two(draft: Draft) -> None:
        draft.write_text("a.txt", large)
        draft.write_text("b.txt", large)

    with pytest.raises(OSError, match="No space left on device") as caught:
        make(workspace, base, two, settings={"s": 2})
    assert caught.value.errno == errno.ENOSPC
    assert workspace.get("stage", base).verify() == first
    assert [path.name for path in small_disk.rglob(".*")] == []
    with pytest.raises(OSError, match="No space left on device"):
        durable.write_text(small_disk / "value", large * 2)
    assert not (small_disk / "value").exists()
    make(workspace, base, lambda draft: draft.write_text("a.txt", large), settings={"s": 2})
    assert workspace.get("stage", base).verify().file("a.txt").stat().st_size == len(large)


def test_records_on_a_full_disk(small_disk: Path, base: Partition):
    import pyarrow as pa

    from dl_pipelines.store.records import write_records

    workspace = Workspace(Home(small_disk), "p")
    table = pa.table({"id": [str(number) for number in range(3)], "blob": [os.urandom(600_000) for _ in range(3)]})
    with pytest.raises(OSError, match="No space left on device"):
        workspace.make("stage", base, lambda draft: write_records(draft, table), settings={}, parents={})  # type: ignore
    assert workspace.find("stage", base) is None
    assert list((workspace.home.artifacts / "p" / "stage").iterdir()) == []


@pytest.mark.parametrize(
    ("key", "partition"),
    [("2026-01-31", Partition(DAY)), ("2026-01-31|base", Partition(DAY, "base")), ("2026-01-31|", Partition(DAY))],
)
def test_a_partitions_key_is_dagsters(key: str, partition: Partition):
    assert Partition.parse(key) == partition
    assert partition.key == key.rstrip("|")
    assert partition.daily == Partition(DAY)
    assert "|" not in partition.slug


@pytest.mark.parametrize("key", ["", "today", "2026-02-30", "2026-01-31T00:00|base", "|base"])
def test_a_key_that_is_none(key: str):
    with pytest.raises(ValueError) as caught:
        Partition.parse(key)
    assert str(caught.value) == f"found the partition {key!r}; expected YYYY-MM-DD or YYYY-MM-DD|experiment"


def test_partitions_point_at_artifacts(own: Workspace):
    days = [date(2026, 2, 1), date(2026, 1, 31)]
    given = [Partition(day, experiment) for day in days for experiment in ("base", "a_b")]
    made = {item: make(own, item, Built()) for item in given}
    make(own, Partition(DAY), Built(), settings={"daily": True})
    assert own.partitions("stage") == [Partition(DAY), *sorted(given)]
    assert own.days("stage") == sorted(days)
    for item, artifact in made.items():
        assert own.get("stage", item) == artifact
        assert own.by_digest("stage", artifact.digest) == artifact
    own.point("stage", given[0], made[given[2]])
    assert own.get("stage", given[0]) == made[given[2]]
    assert own.partitions("other") == []
    assert Workspace(own.home, "q").partitions("stage") == []


def test_a_stage_that_has_not_run(own: Workspace, base: Partition):
    assert own.find("stage", base) is None
    with pytest.raises(ArtifactError) as caught:
        own.get("stage", base)
    assert str(caught.value) == (
        "found no stage of p for 2026-01-31|base; expected it to have run; run `dlp run` for that date, or "
        "materialise stage first"
    )
    with pytest.raises(ArtifactError, match=r"found no manifest\.json in .*; expected a finished artifact"):
        own.by_digest("stage", "0" * 64)


def test_progress_goes_to_who_watches(own: Workspace):
    own.progress("stage", "nobody listens")
    seen = []
    Workspace(own.home, "p", seen.append).progress("stage", "half", 1, 2)
    assert seen == [Progress("stage", "half", 1, 2)]


def test_pointers_are_plain_files(own: Workspace, base: Partition):
    made = make(own, base, Built())
    (pointer,) = own.home.index.rglob("partitions/*.json")
    assert json.loads(pointer.read_text()) == {"artifact": made.short, "partition": "2026-01-31|base"}
