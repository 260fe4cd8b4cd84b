"""A training as plain data: what the parent writes for the workers, which share nothing else with it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dl_pipelines.brief.references import FamilyRef, TaskRef
from dl_pipelines.brief.sections import AugmentationPlan, Distributed, Pretrained, Training
from dl_pipelines.store import durable
from dl_pipelines.tasks.base import Rows
from dl_pipelines.training.changes import ChangeRef

RESULT = "result.json"
PROGRESS = "progress.jsonl"
FINAL = "final.safetensors"


@dataclass(frozen=True)
class Job:
    """`folder` holds the checkpoints and what the workers write, `rows` the rows (`train_inputs.npy` ...).

    Many jobs may read the rows of one folder.
    """

    folder: Path
    task: TaskRef
    family: FamilyRef
    training: Training
    distributed: Distributed
    augmentation: AugmentationPlan
    statistics: dict[str, Any]
    rows: Path
    pretrained: Pretrained | None = None
    changes: tuple[ChangeRef, ...] = ()

    def write(self) -> Path:
        """As `job.json` in its folder."""
        plain: dict[str, Any] = {
            name: value.model_dump(mode="json") if hasattr(value, "model_dump") else value
            for name, value in vars(self).items()
            if name != "folder"
        }
        plain["rows"] = str(self.rows)
        plain["changes"] = [change.model_dump(mode="json") for change in self.changes]
        path = self.folder / "job.json"
        durable.write_json(path, plain)
        return path

    @classmethod
    def read(cls, path: Path) -> Job:
        """From `job.json`."""
        plain = durable.read_json(path)
        models = {"task": TaskRef, "family": FamilyRef, "training": Training, "distributed": Distributed,
                  "augmentation": AugmentationPlan}  # fmt: skip
        made = {name: model.model_validate(plain[name]) for name, model in models.items()}
        weights = plain["pretrained"]
        pretrained = None if weights is None else Pretrained.model_validate(weights)
        changes = tuple(ChangeRef.model_validate(change) for change in plain["changes"])
        return cls(
            folder=path.parent, statistics=plain["statistics"], rows=Path(plain["rows"]), pretrained=pretrained,
            changes=changes, **made,
        )  # fmt: skip


def write_rows(folder: Path, split: str, rows: Rows) -> None:
    """The rows of a split as the workers read them, by mapping into memory."""
    import numpy as np

    for name, value in (("inputs", rows.inputs), ("targets", rows.targets), ("ids", rows.ids.astype(str))):
        np.save(folder / f"{split}_{name}.npy", value, allow_pickle=False)


@dataclass(frozen=True)
class Epoch:
    """One line of the curves. Losses in nats a record, seconds of wall time, the rate at the end of the epoch."""

    epoch: int
    train_loss: float
    validation: dict[str, float]
    learning_rate: float
    seconds: float

    def plain(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)
