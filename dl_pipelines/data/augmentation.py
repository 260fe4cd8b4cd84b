"""`augmented_dataset`: a day's clean records with the stored variants of those that may train; and online variants.

Each variant is a function of (seed, record id, copy) or (seed, record id, epoch), so that it is the same on any
machine, in any order and on resume.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from dl_pipelines.brief.references import AugmentationRef
from dl_pipelines.brief.sections import AugmentationPlan, Data
from dl_pipelines.data.cleaning import field_of
from dl_pipelines.data.keyed import derived, keys_of
from dl_pipelines.data.registry import AUGMENTATIONS, SOURCES
from dl_pipelines.store.artifacts import Artifact, Draft, Gate
from dl_pipelines.store.records import read_records, write_records
from dl_pipelines.store.workspace import Partition, Workspace
from dl_pipelines.tasks.base import Signature, Task

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    from dl_pipelines.data.augmentations import Transform

STAGE = "augmented_dataset"
VERSION = 2


def make_augmented_dataset(workspace: Workspace, partition: Partition, data: Data, task: Task) -> Artifact:
    """Clean records (`copy` 0) and train copies (`copy` 1 to factor - 1) with `parent`, in `records.lance`.

    Raises ArtifactError when the day's validated data has no passing report, StageSkipped on a day without records.
    """
    SOURCES.make(data.source).require_day(partition.day, data.start)
    validated = workspace.get("validated_data", partition.daily).require_gates()

    def build(draft: Draft) -> None:
        table = read_records(validated)
        split = task.split(table, partition.day, data.split)
        workspace.progress(STAGE, f"{int((split == 'train').sum())} train records x {data.augmentation.factor}")
        grown = grow(table, split == "train", data.augmentation, task)
        write_records(draft, grown)
        _gates(draft, table, grown, split, data, task, partition)
        draft.show(records=table.num_rows, copies=grown.num_rows - table.num_rows, factor=data.augmentation.factor)

    settings = {
        "factor": data.augmentation.factor,
        "offline": [ref.model_dump(mode="json") for ref in data.augmentation.offline],
        "seed": data.augmentation.seed,
        "split": data.split.model_dump(mode="json"),
        "task": task.name,
    }
    parents = {"validated_data": validated}
    return workspace.make(STAGE, partition.daily, build, settings=settings, parents=parents, version=VERSION)


def _gates(
    draft: Draft, table: pa.Table, grown: pa.Table, split: np.ndarray, data: Data, task: Task, partition: Partition
) -> None:
    import numpy as np

    copies = np.array(grown["copy"].to_pylist()) > 0
    splits = task.split(grown, partition.day, data.split)
    only_train = bool((splits[copies] == "train").all()) and int((~copies).sum()) == table.num_rows
    expected = int((split == "train").sum()) * (data.augmentation.factor - 1 if data.augmentation.offline else 0)
    summary = f"{int(copies.sum())} copies, {expected} expected, all of train records: {only_train}"
    draft.gate(Gate("only_train_grows", only_train and int(copies.sum()) == expected, summary, blocking=True))
    target = field_of(task, "target").name
    before = dict(zip(table["id"].to_pylist(), table[target].to_pylist(), strict=True))
    pairs = zip(grown["parent"].to_pylist(), grown[target].to_pylist(), strict=True)
    kept = all(before[parent] == value for parent, value in pairs)
    draft.gate(Gate("targets_with_inputs", kept, "each copy has the target of its parent", blocking=True))


def grow(table: pa.Table, trains: np.ndarray, plan: AugmentationPlan, task: Task) -> pa.Table:
    """The records and, of those that train (bool [N]), factor - 1 variants each; adds `parent` and `copy`."""
    import numpy as np
    import pyarrow as pa

    ids = np.array(table["id"].to_pylist(), dtype=object)
    parts = [_with_origin(table, ids, 0)]
    if plan.offline and trains.any():
        originals = table.filter(pa.array(trains))
        rows = task.rows(originals)
        field = field_of(task, "input").name
        for copy in range(1, plan.factor):
            images, _ = variants(rows.inputs, rows.targets, ids[trains], plan.offline, plan.seed, copy)
            column = pa.FixedSizeListArray.from_arrays(pa.array(images.reshape(-1)), int(np.prod(images.shape[1:])))
            made = originals.set_column(originals.schema.get_field_index(field), originals.schema.field(field), column)
            names = pa.array([f"{name}~{copy}" for name in ids[trains]])
            made = made.set_column(made.schema.get_field_index("id"), "id", names)
            parts.append(_with_origin(made, ids[trains], copy))
    return pa.concat_tables(parts).combine_chunks()


def _with_origin(table: pa.Table, parents: np.ndarray, copy: int) -> pa.Table:
    import pyarrow as pa

    table = table.append_column("parent", pa.array(list(parents), pa.string()))
    return table.append_column("copy", pa.array([copy] * table.num_rows, pa.int32()))


def variants(
    inputs: np.ndarray, targets: np.ndarray, ids: Iterable[str], transforms: Sequence[AugmentationRef], seed: int,
    draw: int,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """One variant of each input [N, ...] with its target [N, ...], decided by (seed, id, draw) alone.

    The transforms follow each other in order (a mixed record also depends on its partner in the batch).
    """
    return Drawn([AUGMENTATIONS.make(ref) for ref in transforms], seed)(inputs.copy(), targets, ids, draw)


class Drawn:
    """Transforms with a seed: what `variants` does, for many batches."""

    def __init__(self, transforms: Sequence[Transform], seed: int):
        self.transforms, self.seed = transforms, seed

    def keys(self, ids: Iterable[str]) -> np.ndarray:
        """What `__call__` would work out for these ids [N] each time, uint64 [N]."""
        import numpy as np

        return keys_of(np.asarray(ids), self.seed)

    def __call__(
        self, inputs: np.ndarray, targets: np.ndarray, ids: Iterable[str], draw: int, keys: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """See variants; `keys` are those of the ids, where they are at hand. The inputs may be overwritten."""
        drawn = derived(self.keys(ids) if keys is None else keys, draw)
        for place, transform in enumerate(self.transforms):
            inputs, targets = transform.apply_batch(inputs, targets, derived(drawn, place))
        return inputs, targets


class Online:
    """The variants that are drawn anew each epoch and never stored; `signature` tells which columns hold codes."""

    def __init__(self, plan: AugmentationPlan, signature: Signature | None = None):
        self.plan = plan
        made: list[Transform] = [AUGMENTATIONS.make(ref) for ref in plan.online]
        if signature is not None:
            codes = tuple(signature.columns.index(name) for name in signature.codes)
            for transform in made:
                transform.codes = codes
        self._drawn = Drawn(made, plan.seed)
        self.moves = bool(made) and made[0].moves
        """Whether inputs may come as augmentations.Picked, which the first transform reads from where they lie."""

    def keys(self, ids: np.ndarray) -> np.ndarray | None:
        """Keys of all records [N] of a training, made once; None when no transform needs them."""
        return self._drawn.keys(ids) if self.plan.online else None

    def __call__(
        self, inputs: np.ndarray, targets: np.ndarray, ids: Iterable[str], epoch: int, keys: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Variants of inputs [N, ...] with their targets for an epoch (counted from 1), the same in any order.

        `keys` [N] are those of the ids, where they are at hand. The inputs may be overwritten.
        """
        if not self.plan.online:
            return inputs, targets
        return self._drawn(inputs, targets, ids, -epoch, keys)
