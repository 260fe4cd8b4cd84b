"""The stage `prediction_log`: what the router answered, joined with the labels that came later.

A record is what the router wrote before it answered; a request that was asked twice counts once, as first answered.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Protocol

from dl_pipelines.brief.live import Monitoring
from dl_pipelines.brief.sections import Data
from dl_pipelines.serving.carried_rows import fitting
from dl_pipelines.serving.carry import carry_log
from dl_pipelines.serving.champion import champion
from dl_pipelines.serving.client import acknowledged_folder
from dl_pipelines.serving.expiry import expire_log
from dl_pipelines.serving.label_inbox import read_key, take_labels
from dl_pipelines.serving.labels import LabelError, fitting_label, read_labels
from dl_pipelines.store.artifacts import Artifact, Draft, Gate
from dl_pipelines.store.database import Database
from dl_pipelines.store.records import records_digest, write_records
from dl_pipelines.store.workspace import Partition, Workspace
from dl_pipelines.tasks.base import Task
from dl_pipelines.wire.log_reading import read_folder

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    import sqlalchemy as sa

STAGE = "prediction_log"
SUMMARY = "summary_"


class Traffic(Protocol):
    """Who may send live requests before the log is read."""

    @property
    def windows(self) -> tuple[str, ...]:
        """Names of the windows that are known before anything is sent: each has a check of its own."""
        ...

    def send(self, workspace: Workspace, task: Task, data: Data) -> list[str]:
        """Send what has not been sent; names of the windows."""
        ...


def read_log(workspace: Workspace, model: str | None = None) -> pa.Table:
    """Every answer that was logged, or those of one model, by time; what the segments have is carried first.

    Columns: `request_id`, `asked_at`, `model` and `arm` that answered, `outputs` (list of floats, flat; null outside of
    the sample), `latency_ms` (in models), `unit` (hashed), `assigned` (the arm), `failure` (why that one did
    not answer, else null), and a float column `summary_NAME` for each number of the input's summary. Raises LogError,
    DatabaseError.
    """
    import pyarrow as pa

    carry_log(workspace)
    rows = _rows(workspace, model)
    times = [datetime.fromtimestamp(row.asked_at, UTC) for row in rows]
    texts = {"model": "model", "arm": "answered_by", "unit": "unit", "assigned": "arm", "failure": "failure"}
    columns: dict[str, pa.Array] = {
        "request_id": pa.array([row.request_id for row in rows], pa.string()),
        "asked_at": pa.array(times, pa.timestamp("us", tz="UTC")),
        **{name: pa.array([getattr(row, of) for row in rows], pa.string()) for name, of in texts.items()},
        "outputs": pa.array([_floats(row.outputs, row.dtype) for row in rows], pa.list_(pa.float64())),
        "latency_ms": pa.array([row.latency_ms for row in rows], pa.float64()),
    }
    for name in dict.fromkeys(name for row in rows for name in row.summary):
        columns[f"{SUMMARY}{name}"] = pa.array([row.summary.get(name) for row in rows], pa.float64())
    return pa.table(columns)


def _rows(workspace: Workspace, model: str | None) -> Sequence[sa.Row[Any]]:
    import sqlalchemy as sa

    from dl_pipelines.store.tables import predictions as table

    query = sa.select(table).where(table.c.project == workspace.project)
    query = query.order_by(table.c.asked_at, table.c.request_id)
    database = Database.of(workspace.home, workspace.project)
    with contextlib.closing(database), database.begin() as connection:
        return connection.execute(query if model is None else query.where(table.c.model == model)).all()


def _floats(raw: bytes | None, dtype: str) -> np.ndarray | None:
    import numpy as np

    return None if raw is None else np.frombuffer(raw, dtype).astype(np.float64)


def answered_ids(workspace: Workspace) -> set[str]:
    """The ids of all requests (rows of requests) that were answered; what the segments have is carried first."""
    import sqlalchemy as sa

    from dl_pipelines.store.tables import predictions as table

    carry_log(workspace)
    database = Database.of(workspace.home, workspace.project)
    with contextlib.closing(database), database.begin() as connection:
        query = sa.select(table.c.request_id).where(table.c.project == workspace.project)
        return set(connection.execute(query).scalars())


def window_of(request_id: str, asked_at: datetime) -> str:
    """The window a request belongs to: its id's middle part (`replay/calm/...`), else the day it was asked."""
    parts = request_id.split("/")
    return parts[1] if len(parts) >= 3 and parts[1] else asked_at.date().isoformat()


def make_prediction_log(
    workspace: Workspace, partition: Partition, monitoring: Monitoring, data: Data, task: Task,
    traffic: Traffic | None = None, keep_days: int | None = None,
) -> Artifact:  # fmt: skip
    """`records.lance`: `read_log` of the model of this partition, with `window`, `label` and `answer_json` (or null).

    `traffic` sends first, when the model is the champion; then the segments are carried, signed labels taken, and what
    is older than `keep_days` removed. The same log and labels give the same artifact. Gate: `nothing_missing`
    (blocking): what a client of this home got an answer to is in the tables. Raises LogError, LabelError,
    DatabaseError, ArtifactError when nothing was published.
    """
    published = workspace.get("triton_repository", partition).require_gates()
    model = published.read_json("model.json")["model"]
    serves = champion(workspace)
    if traffic is not None and serves and serves.model == model:
        workspace.progress(STAGE, "sending live requests")
        traffic.send(workspace, task, data)
    carry_log(workspace)
    refused = _take_labels(workspace, task)
    expire_log(workspace, keep_days)
    table, missing = _records(workspace, read_log(workspace, model), task), missing_ids(workspace)
    reason = _why_empty(table.num_rows, model, serves.model if serves else None)

    def build(draft: Draft) -> None:
        write_records(draft, table)
        told = f"{len(missing)} acknowledged requests are not in the log" + (f": {missing[0]}" if missing else "")
        draft.gate(Gate("nothing_missing", not missing, told, blocking=True, facts={"missing": missing[:10]}))
        _tell(draft, table, reason, refused)

    # The log grows by itself: what is in it decides, with the labels, whether there is something new.
    settings = {"log": records_digest(table), "missing": missing, "reason": reason}
    return workspace.make(STAGE, partition, build, settings=settings, parents={"triton_repository": published})


def missing_ids(workspace: Workspace) -> list[str]:
    """Requests that a client of this home got an answer to and that the tables have not, sorted."""
    acknowledged = {record["id"] for record in read_folder(acknowledged_folder(workspace.home, workspace.project))}
    return sorted({fitting(name) for name in acknowledged} - answered_ids(workspace)) if acknowledged else []


def _take_labels(workspace: Workspace, task: Task) -> int:
    """Take what the inbox has, where the home has a label key; how many rows of it were refused."""
    key = read_key(workspace.home)
    if key is None:
        return 0
    taken = take_labels(workspace, key, task)
    if taken.refused:
        workspace.progress(STAGE, f"{taken.refused} rows of the label inbox are refused")
    return taken.refused


def _records(workspace: Workspace, table: pa.Table, task: Task) -> pa.Table:
    import numpy as np
    import pyarrow as pa

    ids, times = table["request_id"].to_pylist(), table["asked_at"].to_pylist()
    shape = task.signature().outputs[0].shape
    answers = [
        None if row is None else json.dumps(task.answer(np.array(row, np.float64).reshape(shape)), sort_keys=True)
        for row in table["outputs"].to_pylist()
    ]
    windows = [window_of(name, at) for name, at in zip(ids, times, strict=True)]
    known = _labels(workspace, task, ids)
    return (
        table.append_column("answer_json", pa.array(answers, pa.string()))
        .append_column("window", pa.array(windows, pa.string()))
        .append_column("label", known)
    )


def _labels(workspace: Workspace, task: Task, ids: list[str]) -> pa.Array:
    import pyarrow as pa

    labels = read_labels(workspace)
    try:
        return pa.array([labels.get(name) for name in ids], task.label_type())
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        for name in ids:
            if labels.get(name) is not None:
                try:
                    fitting_label(task, labels[name])
                except LabelError as error:
                    raise LabelError(f"{name}: {error}; remove it from the table labels") from error
        raise


def _why_empty(rows: int, model: str, serves: str | None) -> str | None:
    if rows:
        return None
    if serves == model:
        return f"{model} has the traffic, but nobody has asked it yet"
    return f"{model} never had the traffic" + (f": {serves} serves" if serves else ": nothing serves")


def _tell(draft: Draft, table: pa.Table, reason: str | None, refused: int) -> None:
    from collections import Counter

    import numpy as np

    windows = Counter(table["window"].to_pylist())
    labelled = table.num_rows - table["label"].null_count
    kept = table.num_rows - table["outputs"].null_count
    draft.measure(records=table.num_rows, labelled=labelled, windows=dict(sorted(windows.items())))
    draft.measure(kept=kept, labels_refused=refused)
    draft.show(records=table.num_rows, labelled=labelled)
    if reason:
        draft.measure(reason=reason)
        draft.show(reason=reason)
        return
    p50, p95 = np.percentile(table["latency_ms"].to_numpy(), [50, 95])
    draft.measure(latency={"p50_ms": round(float(p50), 4), "p95_ms": round(float(p95), 4)})
    rows = "\n".join(f"| {name} | {count} |" for name, count in sorted(windows.items()))
    draft.show(windows={"md": f"| window | records |\n|---|---|\n{rows}"})
