"""Images that the tests draw, and the data stages on them; no brief, no training."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, date, datetime, time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from dl_pipelines.brief.sections import AugmentationPlan, Data
from dl_pipelines.store.artifacts import Artifact, Gate
from dl_pipelines.store.home import Home
from dl_pipelines.store.records import write_records
from dl_pipelines.store.workspace import Partition, Workspace
from dl_pipelines.tasks.base import Task
from dl_pipelines.tasks.image_classification import ImageClassification

FIRST = date(2026, 3, 1)


@pytest.fixture(scope="session")
def animals() -> ImageClassification:
    """Three classes, 8 x 8 pixels, grey."""
    return ImageClassification(ImageClassification.Params(classes=("cat", "dog", "owl")))


@pytest.fixture(scope="session")
def digits_task() -> ImageClassification:
    """The demo's task."""
    return ImageClassification(ImageClassification.Params(classes=tuple("0123456789")))


@pytest.fixture
def home(tmp_path: Path) -> Workspace:
    """A workspace in a home of its own."""
    return Workspace(Home(tmp_path / "home").prepare(), "animals")


Paint = Callable[..., Path]


@pytest.fixture(scope="session")
def paint() -> Paint:
    """paint(path, seed, day, size, mode): a random image file, a function of the seed, with the file time of a day."""
    from PIL import Image

    def draw(path: Path, seed: int, day: date = FIRST, size=(12, 10), mode: str = "L", **save: Any) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
        Image.fromarray(pixels).convert(mode).save(path, **save)
        return at(path, datetime.combine(day, time(12), tzinfo=UTC))

    return draw


def at(path: Path, moment: datetime) -> Path:
    """Set a file's time."""
    os.utime(path, (moment.timestamp(), moment.timestamp()))
    return path


@pytest.fixture(scope="session")
def set_time() -> Callable[[Path, datetime], Path]:
    """set_time(path, moment)."""
    return at


@pytest.fixture
def album(tmp_path: Path, paint: Paint) -> Path:
    """60 images on the first day, 12 on the second, of three classes."""
    root = tmp_path / "images"
    for number in range(72):
        day = FIRST if number < 60 else date(2026, 3, 2)
        paint(root / ("cat", "dog", "owl")[number % 3] / f"{number:03d}.png", number, day)
    return root


@pytest.fixture(scope="session")
def data_of() -> Callable[..., Data]:
    """data_of(root, **data): the brief's data section about a folder."""

    def make(root: Path, params: dict[str, Any] | None = None, **data: Any) -> Data:
        source = {"name": "image_folder", "params": {"path": str(root), **(params or {})}}
        return Data.model_validate({"source": source, **data})

    return make


Stages = Callable[[Workspace, date, Data, Task], dict[str, Artifact]]


@pytest.fixture(scope="session")
def run_day() -> Stages:
    """run_day(workspace, day, data, task): raw, validated and augmented records of a day, by stage."""

    def run(workspace: Workspace, day: date, data: Data, task: Task) -> dict[str, Artifact]:
        from dl_pipelines.data.augmentation import make_augmented_dataset
        from dl_pipelines.data.raw import make_raw_data
        from dl_pipelines.data.validation import make_validated_data

        makers = (make_raw_data, make_validated_data, make_augmented_dataset)
        made = [make(workspace, Partition(day), data, task) for make in makers]
        return {artifact.stage: artifact for artifact in made}

    return run


@pytest.fixture
def two_days(tmp_path, paint, data_of) -> Data:
    """A source with two days; the files don't matter."""
    paint(tmp_path / "images/cat/1.png", 1, FIRST)
    paint(tmp_path / "images/dog/2.png", 2, date(2026, 3, 2))
    return data_of(tmp_path / "images")


def stored(workspace, task, day: date, records: list[dict], factor: int = 1) -> Artifact:
    """The three artifacts of a day with these records, written as their contracts say, without Great Expectations."""
    from dl_pipelines.data.augmentation import grow

    rows = [
        {"id": f"{day}-{number}", "date": day, "event_time": datetime(2026, 3, 1, tzinfo=UTC),
         "group": f"{day}-{number}", "image": np.random.default_rng(number).integers(0, 256, 64).tolist(),
         "label": number % 3, "mode": "L", "source_height": 8, "source_width": 8, "sha256": f"{day} {number}",
         "uri": "", **record}
        for number, record in enumerate(records)
    ]  # fmt: skip
    table = pa.Table.from_pylist(rows, schema=task.arrow_schema())
    parents: dict[str, Artifact] = {}
    plan = AugmentationPlan.model_validate({"factor": factor, "offline": ["translation"]})
    trains = task.split(table, day, Data.model_validate({"source": "digits"}).split) == "train"
    for stage in ("raw_data", "validated_data", "augmented_dataset"):
        content = grow(table, trains, plan, task) if stage == "augmented_dataset" else table

        def build(draft, content=content):
            write_records(draft, content)
            draft.gate(Gate("fine", True, "", blocking=True))

        artifact = workspace.make(stage, Partition(day), build, settings={"rows": str(rows)}, parents=parents)
        parents = {stage: artifact}
    return artifact
