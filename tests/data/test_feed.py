"""Batches of a rank: which records, in which order, by a thread or not; augmented ones are the records' own."""

from __future__ import annotations

import itertools
import threading

import numpy as np
import pytest
import torch

from dl_pipelines.brief.sections import AugmentationPlan
from dl_pipelines.data.augmentation import Online, variants
from dl_pipelines.data.feed import Feed

COUNT = 103
PLAN = AugmentationPlan.model_validate({"online": ["crop", "flip", "noise"], "seed": 4})
PLAIN = Online(AugmentationPlan())


@pytest.fixture(scope="module")
def arrays():
    inputs = np.random.default_rng(0).integers(0, 256, (COUNT, 8, 6, 3), np.uint8)
    return inputs, np.arange(COUNT), np.array([f"r{place}" for place in range(COUNT)])


def batches(feed: Feed, epoch: int = 1, first: int = 0) -> list[tuple[np.ndarray, np.ndarray]]:
    return list(feed.epoch(epoch, first))


def same(one, other) -> bool:
    return len(one) == len(other) and all((a == b).all() for pair in zip(one, other, strict=True)
                                          for a, b in zip(*pair, strict=True))  # fmt: skip


@pytest.fixture
def no_threads_left():
    before = threading.active_count()
    yield
    assert threading.active_count() == before


def test_the_order_is_a_permutation_by_seed_and_epoch(arrays):
    order = np.random.default_rng([7, 2]).permutation(COUNT)
    feed = Feed(arrays, PLAIN, 10, 7)
    assert np.concatenate([targets for _, targets in batches(feed, 2)]).tolist() == order.tolist()
    for inputs, targets in batches(feed, 2):
        assert (inputs == arrays[0][targets]).all()
        assert inputs.flags.c_contiguous and inputs.flags.writeable
    assert same(batches(feed, 2), batches(Feed(arrays, PLAIN, 10, 7), 2))
    assert not same(batches(feed, 2)[:1], batches(feed, 1)[:1])
    assert not same(batches(feed, 2)[:1], batches(Feed(arrays, PLAIN, 10, 8), 2)[:1])


@pytest.mark.parametrize(("size", "steps", "records"), [(1, 11, 103), (2, 5, 100), (3, 4, 102), (50, 1, 100)])
def test_ranks_share_the_records_and_take_as_many_steps(arrays, size, steps, records):
    feeds = [Feed(arrays, PLAIN, 10, 0, rank, size) for rank in range(size)]
    taken = [np.concatenate([targets for _, targets in batches(feed)]) for feed in feeds]
    assert {feed.steps for feed in feeds} == {len(batches(feed)) for feed in feeds} == {steps}
    together = np.concatenate(taken).tolist()
    assert len(set(together)) == len(together) == records


@pytest.mark.parametrize(
    ("records", "batch", "expected"),
    [(100, 10, [10] * 10), (101, 10, [10] * 10), (102, 10, [10] * 10 + [2]), (1, 10, [1])],
)
def test_a_last_batch_of_one_record_is_left_out(arrays, records, batch, expected):
    feed = Feed(tuple(array[:records] for array in arrays), PLAIN, batch, 0)
    assert [len(targets) for _, targets in batches(feed)] == expected
    assert feed.steps == len(expected)


@pytest.mark.parametrize("ahead", [0, 1, 3, 50])
@pytest.mark.parametrize("first", [0, 4, 10, 11])
def test_batches_made_ahead_are_the_same_from_any_step(arrays, ahead, first, no_threads_left):
    whole = batches(Feed(arrays, Online(PLAN), 10, 3))
    assert same(batches(Feed(arrays, Online(PLAN), 10, 3, ahead=ahead), first=first), whole[first:])


@pytest.mark.parametrize("online", [["crop", "flip", "noise"], ["translation"], ["flip", "crop"]])
def test_an_augmented_record_is_the_same_in_any_batch_and_rank(arrays, online):
    plan = AugmentationPlan.model_validate({"online": online, "seed": 4})
    wanted, _ = variants(*arrays, plan.online, plan.seed, -2)
    for size, batch in ((1, 10), (1, 64), (2, 7)):
        for rank in range(size):
            for inputs, targets in Feed(arrays, Online(plan), batch, 0, rank, size).epoch(2):
                assert (inputs == wanted[targets]).all()


def test_a_feed_that_is_left_early_leaves_no_thread(arrays, no_threads_left):
    feed = Feed(arrays, Online(PLAN), 10, 3, ahead=2)
    assert same(list(itertools.islice(feed.epoch(1), 2)), batches(Feed(arrays, Online(PLAN), 10, 3))[:2])


def test_an_error_of_the_thread_is_raised_in_its_place(arrays, no_threads_left):
    class Broken(Online):
        def __call__(self, inputs, targets, *rest, **named):
            if 5 in targets:
                raise ValueError("found a record that can't be used")
            return inputs, targets

    feed = Feed(arrays, Broken(AugmentationPlan()), 10, 3, ahead=2)
    good, seen = [targets for _, targets in itertools.takewhile(lambda batch: 5 not in batch[1],
                                                                batches(Feed(arrays, PLAIN, 10, 3)))], []  # fmt: skip
    with pytest.raises(ValueError, match="found a record that can't be used"):
        for _, targets in feed.epoch(1):
            seen.append(targets.tolist())
    assert seen == [targets.tolist() for targets in good]


def test_batches_for_a_device_lie_in_pinned_memory(arrays, monkeypatch):
    made = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: (made.append(tensor.clone()), made[-1])[1])
    given = batches(Feed(arrays, Online(PLAN), 10, 3, ahead=1, pinned=True))
    assert same(given, batches(Feed(arrays, Online(PLAN), 10, 3)))
    assert len(made) == 2 * len(given)
    assert all(
        torch.from_numpy(array).data_ptr() in {tensor.data_ptr() for tensor in made} for pair in given for array in pair
    )


def test_memory_maps_are_read_as_arrays_are(arrays, tmp_path):
    for name, array in zip("abc", arrays, strict=True):
        np.save(tmp_path / f"{name}.npy", array)
    mapped = tuple(np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in "abc")
    assert same(batches(Feed(mapped, Online(PLAN), 10, 3)), batches(Feed(arrays, Online(PLAN), 10, 3)))
    for inputs, _ in Feed(mapped, PLAIN, 10, 3).epoch(1):
        assert type(inputs) is np.ndarray and inputs.flags.writeable
