"""The session's window of digits with the answers of a classifier that is fitted in a second, and prediction logs."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from dl_pipelines.brief import Brief
from dl_pipelines.data.augmentation import variants
from dl_pipelines.data.batches import window_rows
from dl_pipelines.data.registry import SOURCES
from dl_pipelines.monitoring.traffic import DRAW, Day
from dl_pipelines.store.artifacts import Artifact, Draft, Gate
from dl_pipelines.store.home import Home
from dl_pipelines.store.records import write_records
from dl_pipelines.store.workspace import Partition, Workspace
from dl_pipelines.tasks.base import Rows, Task
from dl_pipelines.wire.summaries import BATCHES

Answer = Callable[[np.ndarray], np.ndarray]


@pytest.fixture(scope="session")
def rows_of(training_window: Artifact, workspace: Workspace, brief: Brief, task: Task) -> Callable[[str], Rows]:
    """A function: the rows of a split."""
    return lambda split: window_rows(workspace, training_window, split, brief.data, task)


@pytest.fixture(scope="session")
def answer(rows_of: Callable[[str], Rows]) -> Answer:
    """A function: logits [N, 10] of a logistic regression on the train rows."""
    from sklearn.linear_model import LogisticRegression

    train = rows_of("train")
    model = LogisticRegression(max_iter=200).fit(_flat(train.inputs), train.targets)
    return lambda inputs: model.decision_function(_flat(inputs))


def _flat(inputs: np.ndarray) -> np.ndarray:
    return inputs.reshape(len(inputs), -1) / 255


@pytest.fixture
def make_line(
    training_window: Artifact, workspace: Workspace, partition: Partition, rows_of: Callable[[str], Rows],
    answer: Answer, tmp_path: Path,
) -> Callable[[str], Workspace]:  # fmt: skip
    """A function: a home of its own with the session's window and the answers on its validation rows."""

    def build(draft: Draft) -> None:
        np.save(draft.file("outputs_validation.npy"), answer(rows_of("validation").inputs), allow_pickle=False)
        draft.gate(Gate("parity", True, "made by a test", blocking=True))

    def make(name: str = "home") -> Workspace:
        line = Workspace(Home(tmp_path / name).prepare(), workspace.project)
        for stage in ("augmented_dataset", "training_window"):
            for root in ("artifacts", "index"):
                part = Path(root, workspace.project, stage)
                shutil.copytree(workspace.home.root / part, line.home.root / part)
        line.make("compressed_model", partition, build, settings={}, parents={})
        return line

    return make


@pytest.fixture
def line(make_line: Callable[[str], Workspace]) -> Workspace:
    """One such home."""
    return make_line("home")


@pytest.fixture(scope="session")
def live_inputs(brief: Brief, task: Task) -> dict[str, np.ndarray]:
    """What the demo's replay sends: uint8 [250, 8, 8, 1] for each of its days."""
    found, start = {}, 0
    for item in brief.monitoring.traffic.params["days"]:
        day = Day.model_validate(item)
        rows = task.rows(SOURCES.make(brief.data.source).live(start, day.records, task))
        found[day.name] = variants(rows.inputs, rows.targets, rows.ids, day.shift, brief.data.augmentation.seed, DRAW)[
            0
        ]
        start += day.records
    return found


@pytest.fixture
def write_log(partition: Partition, task: Task, answer: Answer) -> Callable[..., Artifact]:
    """A function: a prediction_log of windows by name (inputs uint8 [N, 8, 8, 1]), as its stage leaves it.

    Of so many more rows of each window (`unkept`) neither answer nor summary was kept.
    """

    def write(line: Workspace, windows: Mapping[str, np.ndarray], complete: bool = True, unkept: int = 0) -> Artifact:
        parts = [_records(name, inputs, answer, task) for name, inputs in windows.items()]
        parts += [_unkept(part.slice(0, unkept)) for part in parts if unkept]

        def build(draft: Draft) -> None:
            write_records(draft, pa.concat_tables(parts) if parts else _records("none", None, answer, task))
            draft.gate(Gate("nothing_missing", complete, "1 acknowledged requests are not in the log", blocking=True))
            if not parts:
                draft.measure(reason="digits__abc has the traffic, but nobody has asked it yet")

        settings = {name: [len(inputs), int(inputs.sum())] for name, inputs in windows.items()}
        settings = {**settings, "complete": complete, "unkept": unkept}
        return line.make("prediction_log", partition, build, settings=settings, parents={})

    return write


def _records(window: str, inputs: np.ndarray | None, answer: Answer, task: Task) -> pa.Table:
    """As `make_prediction_log` writes them; None for no records."""
    count = 0 if inputs is None else len(inputs)
    inputs = np.zeros((1, 8, 8, 1), np.uint8) if inputs is None else inputs
    summaries = BATCHES[task.signature().summary](inputs)
    columns = {
        "request_id": pa.array([f"replay/{window}/{place}" for place in range(len(inputs))], pa.string()),
        "asked_at": pa.array([datetime(2026, 1, 2, tzinfo=UTC)] * len(inputs), pa.timestamp("us", tz="UTC")),
        "outputs": pa.array(answer(inputs).tolist(), pa.list_(pa.float64())),
        **{f"summary_{name}": pa.array(values, pa.float64()) for name, values in summaries.items()},
        "window": pa.array([window] * len(inputs), pa.string()),
    }
    return pa.table(columns).slice(0, count)


def _unkept(table: pa.Table) -> pa.Table:
    """The same rows as they are where they are outside of the log's sample."""
    names = [name for name in table.column_names if name == "outputs" or name.startswith("summary_")]
    for name in names:
        place, kind = table.column_names.index(name), table.schema.field(name).type
        table = table.set_column(place, name, pa.nulls(table.num_rows, kind))
    return table
