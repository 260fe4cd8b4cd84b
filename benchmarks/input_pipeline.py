"""What the input of a training costs: our feed with crop and flip against bare numpy, and training with and without it.

The rows (uint8 112 x 112 x 3) are read from a Lance dataset through the cache that trainings map into memory.
"""

from __future__ import annotations

import functools
import os
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.contract import Comparison, main, paired

ROWS, SIDE, CLASSES, BATCH, PIXELS, SHARE = 6000, 112, 10, 32, 4, 0.5
PAIRS, TRAINED_PAIRS, STEPS = 15, 40, 4
LIMITS = {"memmap": 0.8, "training": 0.99}
Draws = tuple[list[list[int]], list[bool]]


@functools.cache
def rows(folder: Path) -> tuple[Path, dict[str, Any]]:
    """The folder of the cached rows of a window of one day, and what making them took."""
    from dl_pipelines.brief.references import SourceRef
    from dl_pipelines.brief.sections import Data, Split
    from dl_pipelines.data.row_cache import cached_rows
    from dl_pipelines.store.artifacts import Draft, Gate
    from dl_pipelines.store.home import Home
    from dl_pipelines.store.records import write_records
    from dl_pipelines.store.workspace import Partition, Workspace

    workspace, day = Workspace(Home(folder / "home").prepare(), "bench"), Partition(date(2026, 1, 1))

    def dataset(draft: Draft) -> None:
        write_records(draft, records())
        draft.gate(Gate("made", True, "by a benchmark", blocking=True))

    made = workspace.make("augmented_dataset", day, dataset, settings={}, parents={})

    def window(draft: Draft) -> None:
        days = [{"day": day.key, "digest": made.digest, "records": ROWS}]
        draft.write_json("window.json", {"days": days, "as_of": day.key})

    chosen = workspace.make("training_window", day, window, settings={}, parents={"augmented_dataset": made})
    data = Data(source=SourceRef(name="digits"), split=Split(validation=0.01, test=0.01))
    started = time.perf_counter()
    place = cached_rows(workspace, chosen, data, image_task())
    return place, {"decoded_in": round(time.perf_counter() - started, 2)}


def image_task() -> Any:
    """The task of these rows."""
    from dl_pipelines.tasks.image_classification import ImageClassification

    classes = tuple(str(place) for place in range(CLASSES))
    return ImageClassification(ImageClassification.Params(classes=classes, height=SIDE, width=SIDE, channels=3))


def records() -> Any:
    """Random images as a task's records."""
    import pyarrow as pa

    pixels = np.random.default_rng(0).integers(0, 256, ROWS * SIDE * SIDE * 3, np.uint8)
    names, moment = [f"r{place:05d}" for place in range(ROWS)], datetime(2026, 1, 1, tzinfo=UTC)
    plain = {
        "id": names, "date": [moment.date()] * ROWS, "event_time": [moment] * ROWS, "group": names,
        "image": pa.FixedSizeListArray.from_arrays(pa.array(pixels), SIDE * SIDE * 3),
        "label": np.arange(ROWS) % CLASSES, "mode": ["RGB"] * ROWS, "source_height": [SIDE] * ROWS,
        "source_width": [SIDE] * ROWS, "sha256": names, "uri": names,
    }  # fmt: skip
    table = pa.table(plain, schema=image_task().arrow_schema())
    return table.append_column("parent", table["id"]).append_column("copy", pa.array([0] * ROWS, pa.int32()))


def load(folder: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The train rows as a worker reads them."""
    inputs, targets = (np.load(folder / f"train_{name}.npy", mmap_mode="r") for name in ("inputs", "targets"))
    return inputs, targets, np.load(folder / "train_ids.npy")


def our_feed(arrays: tuple[np.ndarray, np.ndarray, np.ndarray]) -> Any:
    """Crop and flip as a brief names them."""
    from dl_pipelines.brief.sections import AugmentationPlan
    from dl_pipelines.data.augmentation import Online
    from dl_pipelines.data.feed import Feed

    online = [{"name": "crop", "params": {"pixels": PIXELS}}, {"name": "flip", "params": {"share": SHARE}}]
    return Feed(arrays, Online(AugmentationPlan.model_validate({"online": online})), BATCH, 0)


def bare(
    inputs: np.ndarray, targets: np.ndarray, order: np.ndarray, draws: Draws
) -> Iterator[tuple[np.ndarray, np.ndarray]]:  # fmt: skip
    """The peer: each image goes from the memory map to its place in the batch in one step, mirrored where it is.

    Of what numpy offers this was the fastest: whole batches are copied once more for each transform, and columns are
    turned round five times faster channel by channel than as pixels.
    """
    inputs, moves, flips = np.asarray(inputs), *draws
    for start in range(0, len(order) - len(order) % BATCH, BATCH):
        chosen = order[start : start + BATCH]
        batch = np.empty((BATCH, *inputs.shape[1:]), np.uint8)
        for place, row in enumerate(chosen.tolist()):
            (down, across), image, made = moves[row], inputs[row], batch[place]
            if flips[row]:
                image, across = image[:, ::-1], -across
            stay, side = (slice(max(down, 0), SIDE + min(down, 0)), slice(max(across, 0), SIDE + min(across, 0)))
            from_rows = slice(max(-down, 0), SIDE + min(-down, 0))
            from_columns = slice(max(-across, 0), SIDE + min(-across, 0))
            if flips[row]:
                for channel in range(3):
                    made[stay, side, channel] = image[from_rows, from_columns, channel]
            else:
                made[stay, side] = image[from_rows, from_columns]
            if across > 0:
                made[stay, :across] = made[stay, across + 1 : 2 * across + 1][:, ::-1]
            elif across < 0:
                made[stay, across:] = made[stay, 2 * across - 1 : across - 1][:, ::-1]
            if down > 0:
                made[:down] = made[down + 1 : 2 * down + 1][::-1]
            elif down < 0:
                made[down:] = made[2 * down - 1 : down - 1][::-1]
        yield batch, targets[chosen]


def drawn(count: int, seed: int) -> tuple[np.ndarray, Draws]:
    """An order and what becomes of each image, all of an epoch at once."""
    rng = np.random.default_rng(seed)
    moves = rng.integers(-PIXELS, PIXELS, (count, 2), endpoint=True)
    return rng.permutation(count), (moves.tolist(), (rng.random(count) < SHARE).tolist())


def require_equal(feed: Any, arrays: tuple[np.ndarray, np.ndarray, np.ndarray]) -> int:
    """That both give the same batches when they draw the same; how many were compared."""
    from dl_pipelines.data.keyed import derived, keys_of, uniform

    epoch, (inputs, targets, ids) = 1, arrays
    keys = derived(keys_of(ids, 0), -epoch)
    moves = np.floor(uniform(derived(keys, 0), 0, 2) * (2 * PIXELS + 1)).astype(int) - PIXELS
    draws = moves.tolist(), (uniform(derived(keys, 1), 0, 1)[:, 0] < SHARE).tolist()
    order, compared = np.random.default_rng([0, epoch]).permutation(len(inputs)), 0
    for ours, theirs in zip(feed.epoch(epoch), bare(inputs, targets, order, draws), strict=False):
        assert (ours[0] == theirs[0]).all() and (ours[1] == theirs[1]).all(), "both arms make the same batches"
        compared += 1
    return compared


def memmap(folder: Path) -> Iterator[Comparison]:
    """One epoch by our feed, one by the peer, each by one thread."""
    import torch

    torch.set_num_threads(1)
    place, about = rows(folder)
    arrays = load(place)
    feed, count = our_feed(arrays), len(arrays[0])
    compared = require_equal(feed, arrays)
    ours, peer = [], []
    for pair in range(PAIRS):
        for arm in ("ours", "peer") if pair % 2 else ("peer", "ours"):
            started = time.perf_counter()
            if arm == "ours":
                seen = sum(len(targets) for _, targets in feed.epoch(pair + 2))
                ours.append(1000 * (time.perf_counter() - started) / seen * count)
            else:
                seen = sum(len(targets) for _, targets in bare(arrays[0], arrays[1], *drawn(count, pair)))
                peer.append(1000 * (time.perf_counter() - started) / seen * count)
    rates = {f"{name}_samples_per_second": round(1000 * count / float(np.median(found)))
             for name, found in (("ours", ours), ("peer", peer))}  # fmt: skip
    yield paired("input_pipeline.memmap", ours, peer, "ms an epoch", limit=LIMITS["memmap"], rows=count, batch=BATCH,
                 image=[SIDE, SIDE, 3], equal_batches=compared, threads=1, **rates, **about)  # fmt: skip


class Cached:
    """A feed that gives one batch again and again."""

    def __init__(self, batch: tuple[np.ndarray, np.ndarray]):
        self.batch, self.steps = batch, STEPS

    def epoch(self, epoch: int, first: int = 0) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """See Feed.epoch."""
        for _ in range(first, STEPS):
            yield self.batch


def training(folder: Path) -> Iterator[Comparison]:
    """As many steps of ResNet-18 by our loop, fed by our feed and by one batch that is there already."""
    place, about = rows(folder)
    arrays = load(place)
    count = STEPS * BATCH
    trainer = make_trainer(place)
    feeds = {"ours": [our_feed(part(arrays, start, count)) for start in range(0, PAIRS * count, count)],
             "peer": [Cached(next(our_feed(arrays).epoch(1)))]}  # fmt: skip
    times: dict[str, list[float]] = {"ours": [], "peer": []}
    trainer._epoch(1, feeds["peer"][0])
    trainer._epoch(1, feeds["ours"][-1])
    for pair in range(TRAINED_PAIRS):
        for arm in ("ours", "peer") if pair % 2 else ("peer", "ours"):
            feed = feeds[arm][pair % len(feeds[arm])]
            assert feed.steps == STEPS
            started = time.perf_counter()
            trainer._epoch(1, feed)
            times[arm].append(time.perf_counter() - started)
    rate = round(count / float(np.median(times["ours"])), 1)
    yield paired("input_pipeline.training", times["ours"], times["peer"], "s", limit=LIMITS["training"], batch=BATCH,
                 steps=STEPS, network="ResNet-18, bf16", image=[SIDE, SIDE, 3], cores=cores(),
                 samples_per_second=rate, **about)  # fmt: skip


def part(arrays: tuple[np.ndarray, np.ndarray, np.ndarray], start: int, count: int) -> Any:
    """Some of the rows."""
    return tuple(array[start : start + count] for array in arrays)


def make_trainer(place: Path) -> Any:
    """Our loop for ResNet-18 as a brief asks for it."""
    import torch

    from dl_pipelines.brief.references import FamilyRef
    from dl_pipelines.brief.sections import AugmentationPlan, Training
    from dl_pipelines.data.augmentation import Online
    from dl_pipelines.data.row_cache import statistics_of
    from dl_pipelines.models.registry import FAMILIES
    from dl_pipelines.training.communicators.single import SingleCommunicator
    from dl_pipelines.training.loop import Trainer

    torch.set_num_threads(cores())
    torch.manual_seed(0)
    given = Training(batch_size=BATCH, precision="bf16", compile="off", optimizer="sgd", learning_rate=0.01)
    task = image_task()
    family = FAMILIES.make(FamilyRef(name="cnn", params={"network": "resnet18"}))
    recipe = family.recipe(task, statistics_of(place), given)
    return Trainer(recipe, task, given, Online(AugmentationPlan()), SingleCommunicator())


def cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as scratch:
        parts = {item.__name__: functools.partial(item, Path(scratch)) for item in (memmap, training)}
        main(parts, __doc__ or "")
