"""Stored and drawn variants: functions of (seed, record, copy) alone, of train records alone, with their targets."""

from __future__ import annotations

import subprocess
import sys
from datetime import date
from itertools import count
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from dl_pipelines.brief.sections import AugmentationPlan, Data
from dl_pipelines.data import augmentation
from dl_pipelines.data.augmentation import Online, grow, make_augmented_dataset, variants
from dl_pipelines.data.raw import make_raw_data
from dl_pipelines.data.sources.digits import Digits
from dl_pipelines.data.validation import make_validated_data
from dl_pipelines.store.artifacts import ArtifactError, Gate
from dl_pipelines.store.digest import digest_bytes
from dl_pipelines.store.home import Home
from dl_pipelines.store.records import read_records
from dl_pipelines.store.workspace import Partition, Workspace

DAY = Partition(date(2026, 1, 2))
PLAN = AugmentationPlan.model_validate(
    {"factor": 3, "seed": 5, "offline": ["rotation", "translation"], "online": ["noise"]}
)


@pytest.fixture(scope="module")
def rows(digits_task):
    return digits_task.rows(Digits(Digits.Params()).read_day(DAY.day, digits_task)[0])


@pytest.fixture(scope="module")
def data() -> Data:
    return Data.model_validate({"source": "digits", "augmentation": PLAN.model_dump()})


@pytest.fixture(scope="module")
def validated(tmp_path_factory, data, digits_task) -> Workspace:
    """A home with the clean records of a day of 40 digits."""
    workspace = Workspace(Home(tmp_path_factory.mktemp("home")).prepare(), "digits")
    make_raw_data(workspace, DAY, data, digits_task)
    make_validated_data(workspace, DAY, data, digits_task)
    return workspace


def test_a_variant_does_not_depend_on_batch_or_order(rows):
    whole = variants(rows.inputs, rows.targets, rows.ids, PLAN.offline, 5, 1)[0]
    order = np.random.default_rng(0).permutation(len(rows))
    assert (
        variants(rows.inputs[order], rows.targets[order], rows.ids[order], PLAN.offline, 5, 1)[0] == whole[order]
    ).all()
    for place in (0, 17, 39):
        one = variants(rows.inputs[place:][:1], rows.targets[place:][:1], rows.ids[place:][:1], PLAN.offline, 5, 1)[0]
        assert (one[0] == whole[place]).all()


def test_a_variant_depends_on_seed_record_and_copy(rows):
    whole = variants(rows.inputs, rows.targets, rows.ids, PLAN.offline, 5, 1)[0]
    for seed, draw in ((6, 1), (5, 2)):
        other = variants(rows.inputs, rows.targets, rows.ids, PLAN.offline, seed, draw)[0]
        assert (other != whole).any(axis=(1, 2, 3)).mean() > 0.9
    same = np.repeat(rows.inputs[:1], 8, axis=0)
    made = variants(same, same, [f"record {number}" for number in range(8)], PLAN.offline, 5, 1)[0]
    assert len({image.tobytes() for image in made}) >= 7


def test_a_variant_is_the_same_in_another_process(rows):
    code = (
        "import hashlib\nimport numpy as np\n"
        "from dl_pipelines.brief.sections import AugmentationPlan\n"
        "from dl_pipelines.data.augmentation import variants\n"
        "plan = AugmentationPlan.model_validate({'offline': ['rotation', 'noise']})\n"
        "images = np.arange(128, dtype=np.uint8).reshape(2, 8, 8, 1)\n"
        "print(hashlib.sha256(variants(images, images, ['a', 'b'], plan.offline, 5, 1)[0].tobytes()).hexdigest())\n"
    )
    root = Path(__file__).parents[2]
    other = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    plan = AugmentationPlan.model_validate({"offline": ["rotation", "noise"]})
    images = np.arange(128, dtype=np.uint8).reshape(2, 8, 8, 1)
    assert other.stdout.strip() == digest_bytes(variants(images, images, ["a", "b"], plan.offline, 5, 1)[0].tobytes())


def test_online_variants_are_new_each_epoch_and_the_same_on_resume(rows):
    online = Online(PLAN)

    def drawn(epoch, part=slice(None)):
        return online(rows.inputs[part].copy(), rows.targets[part], rows.ids[part], epoch)[0]

    first, second = drawn(1), drawn(2)
    assert (first == drawn(1)).all()
    assert (first != second).any(axis=(1, 2, 3)).all()
    assert (first[7] == drawn(1, slice(7, 8))[0]).all()
    stored = variants(rows.inputs, rows.targets, rows.ids, PLAN.online, 5, 1)[0]
    assert (first != stored).any(axis=(1, 2, 3)).all(), "an epoch is no copy"
    found, targets = Online(AugmentationPlan())(rows.inputs, rows.targets, rows.ids, 1)
    assert found is rows.inputs and targets is rows.targets


def test_variants_leave_what_they_are_made_from(rows):
    before = rows.inputs.copy()
    for name in ("noise", "flip", "crop", "brightness", "rotation", "translation"):
        plan = AugmentationPlan.model_validate({"offline": [name]})
        assert (variants(rows.inputs, rows.targets, rows.ids, plan.offline, 5, 1)[0] != before).any()
        assert (rows.inputs == before).all(), name


def test_only_train_grows_by_the_factor(validated, data, digits_task):
    made = make_augmented_dataset(validated, DAY, data, digits_task)
    clean, grown = read_records(validated.get("validated_data", DAY)), read_records(made)
    train = digits_task.split(clean, DAY.day, data.split) == "train"
    copies = grown.filter(pa.array(grown["copy"].to_numpy() > 0))
    assert 0 < train.sum() < 40
    assert grown.num_rows == 40 + 2 * train.sum()
    names = clean["id"].to_numpy(zero_copy_only=False)
    assert sorted(copies["id"].to_pylist()) == sorted(f"{name}~{copy}" for name in names[train] for copy in (1, 2))
    assert set(copies["parent"].to_pylist()) == set(names[train])
    originals = grown.filter(pa.array(grown["copy"].to_numpy() == 0)).drop_columns(["parent", "copy"])
    assert originals.equals(clean)
    assert {gate.name: gate.passed for gate in made.gates} == {"only_train_grows": True, "targets_with_inputs": True}


def test_a_copy_is_the_variant_of_its_parent_with_its_target(validated, data, digits_task):
    grown = read_records(make_augmented_dataset(validated, DAY, data, digits_task))
    rows, parents, copies = digits_task.rows(grown), grown["parent"].to_pylist(), grown["copy"].to_pylist()
    by_id = {name: place for place, name in enumerate(rows.ids)}
    for place in np.flatnonzero(np.array(copies) > 0):
        parent = by_id[parents[place]]
        given = rows.inputs[parent][None], rows.targets[parent][None], [parents[place]]
        wanted, _ = variants(*given, PLAN.offline, PLAN.seed, copies[place])
        assert (rows.inputs[place] == wanted[0]).all()
        assert rows.targets[place] == rows.targets[parent]


@pytest.mark.parametrize("plan", [{"factor": 1, "offline": ["rotation"]}, {"factor": 3, "offline": []}])
def test_nothing_grows_without_factor_or_transforms(validated, data, digits_task, plan):
    data = data.model_copy(update={"augmentation": AugmentationPlan.model_validate(plan)})
    made = make_augmented_dataset(validated, DAY, data, digits_task)
    assert read_records(made).num_rows == 40
    assert all(gate.passed for gate in made.gates)


FRESH = count(1000)
"""Seeds that no other dataset of this home has: it is made, not found."""


def gates(monkeypatch, validated, data, task, spoil) -> dict[str, Gate]:
    """The gates of a dataset that a wrong `grow` made."""
    monkeypatch.setattr(augmentation, "grow", lambda *given: spoil(grow, *given))
    seeded = data.model_copy(update={"augmentation": PLAN.model_copy(update={"seed": next(FRESH)})})
    made = make_augmented_dataset(validated, DAY, seeded, task)
    with pytest.raises(ArtifactError, match=r"augmented_dataset \w+ may not be used"):
        made.require_gates()
    return {gate.name: gate for gate in made.gates}


def test_the_gate_sees_copies_of_records_that_may_not_train(monkeypatch, validated, data, digits_task):
    found = gates(monkeypatch, validated, data, digits_task,
                  lambda real, table, trains, *rest: real(table, np.ones_like(trains), *rest))  # fmt: skip
    assert found["only_train_grows"].passed is False
    assert found["only_train_grows"].summary.startswith("80 copies, ")
    assert found["only_train_grows"].summary.endswith("expected, all of train records: False")


def test_the_gate_sees_missing_copies_and_lost_records(monkeypatch, validated, data, digits_task):
    found = gates(monkeypatch, validated, data, digits_task, lambda real, *given: real(*given).slice(0, 45))
    assert found["only_train_grows"].passed is False
    assert found["only_train_grows"].summary.startswith("5 copies, ")
    found = gates(monkeypatch, validated, data, digits_task, lambda real, *given: real(*given).slice(1))
    assert found["only_train_grows"].passed is False


def test_the_gate_sees_a_target_that_changed(monkeypatch, validated, data, digits_task):
    def swapped(real, *given):
        grown = real(*given)
        labels = pa.array(np.roll(grown["label"].to_numpy(), 1))
        return grown.set_column(grown.schema.get_field_index("label"), "label", labels)

    found = gates(monkeypatch, validated, data, digits_task, swapped)
    assert found["targets_with_inputs"].passed is False
    assert found["only_train_grows"].passed is True


def test_the_same_inputs_have_the_same_digest_in_a_second_home(validated, data, digits_task, run_day, tmp_path):
    other = Workspace(Home(tmp_path).prepare(), "digits")
    there = run_day(other, DAY.day, data, digits_task)
    assert there["augmented_dataset"].digest == make_augmented_dataset(validated, DAY, data, digits_task).digest
    assert there["validated_data"].digest == validated.get("validated_data", DAY).digest


def test_a_day_that_was_not_validated(home, data, digits_task):
    with pytest.raises(ArtifactError) as caught:
        make_augmented_dataset(home, DAY, data, digits_task)
    assert str(caught.value) == (
        "found no validated_data of animals for 2026-01-02; expected it to have run; run `dlp run` for that date, or "
        "materialise validated_data first"
    )
