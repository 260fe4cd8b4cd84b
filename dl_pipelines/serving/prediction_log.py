"""The stage `prediction_log`: what the router answered, joined with the labels that came later.

A record is what the router wrote before it answered; a request that was asked twice counts once, as first answered.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Protocol

from dl_pipelines.brief.live import Monitoring
from dl_pipelines.brief.sections import Data
from dl_pipelines.serving.champion import champion
from dl_pipelines.serving.client import acknowledged_folder
from dl_pipelines.store.artifacts import Artifact, Draft, Gate
from dl_pipelines.store.database import Database, now
from dl_pipelines.store.records import records_digest, write_records
from dl_pipelines.store.workspace import Partition, Workspace
from dl_pipelines.tasks.base import Task
from dl_pipelines.wire.log_reading import read_folder

if TYPE_CHECKING:
    import pyarrow as pa

STAGE = "prediction_log"
SUMMARY = "summary_"
LONGEST_ID = 80


class Traffic(Protocol):
    """Who may send live requests before the log is read."""

    @property
    def windows(self) -> tuple[str, ...]:
        """Names of the windows that are known before anything is sent: each has a check of its own."""
        ...

    def send(self, workspace: Workspace, task: Task, data: Data) -> list[str]:
        """Send what has not been sent; names of the windows."""
        ...


class LabelError(ValueError):
    """A label can't be stored; says why."""


def read_log(workspace: Workspace) -> pa.Table:
    """Every answer of the project's router, by time.

    Columns: `request_id`, `asked_at`, `model`, `arm`, `outputs` (list of floats), `latency_ms` (inside the router),
    and a float column `summary_NAME` for each number of the input's summary. Raises LogError when a log is damaged
    elsewhere than at its end.
    """
    import pyarrow as pa

    found: dict[str, dict[str, Any]] = {}
    for record in read_folder(workspace.home.predictions / workspace.project):
        first = found.setdefault(record["id"], record)
        if record["at"] < first["at"]:
            found[record["id"]] = record
    records = sorted(found.values(), key=lambda record: (record["at"], record["id"]))
    times = [datetime.fromtimestamp(record["at"], UTC) for record in records]
    columns: dict[str, pa.Array] = {
        "request_id": pa.array([record["id"] for record in records], pa.string()),
        "asked_at": pa.array(times, pa.timestamp("us", tz="UTC")),
        "model": pa.array([record["model"] for record in records], pa.string()),
        "arm": pa.array([record["arm"] for record in records], pa.string()),
        "outputs": pa.array([record["out"] for record in records], pa.list_(pa.float64())),
        "latency_ms": pa.array([record["ms"] for record in records], pa.float64()),
    }
    for name in dict.fromkeys(name for record in records for name in record["sum"]):
        columns[f"{SUMMARY}{name}"] = pa.array([record["sum"].get(name) for record in records], pa.float64())
    return pa.table(columns)


def add_labels(workspace: Workspace, labels: Mapping[str, Any]) -> int:
    """Store the true outcome (plain data) of requests by id; an id that has one keeps it. Returns how many are new.

    Raises LabelError for an id that no request can have, and for a label that JSON can't hold.
    """
    import sqlalchemy as sa

    from dl_pipelines.store.tables import labels as table

    for name, label in labels.items():
        if not name or len(name) > LONGEST_ID:
            raise LabelError(f"found the request id {name!r}; expected 1 to {LONGEST_ID} characters")
        _require_plain(name, label)
    database = Database.of(workspace.home)
    with contextlib.closing(database), database.begin() as connection:
        query = sa.select(table.c.request_id).where(table.c.project == workspace.project)
        known = set(connection.execute(query).scalars())
        rows = [
            {"project": workspace.project, "request_id": name, "label": label, "at": now()}
            for name, label in labels.items()
            if name not in known
        ]
        if rows:
            connection.execute(table.insert(), rows)
    return len(rows)


def _require_plain(name: str, label: Any) -> None:
    try:
        json.dumps(label, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise LabelError(
            f"found a label of {name} that JSON can't hold ({error}); expected plain data, null for what is missing"
        ) from error


def read_labels(workspace: Workspace) -> dict[str, Any]:
    """Labels by request id."""
    import sqlalchemy as sa

    from dl_pipelines.store.tables import labels as table

    database = Database.of(workspace.home)
    with contextlib.closing(database), database.begin() as connection:
        query = sa.select(table.c.request_id, table.c.label).where(table.c.project == workspace.project)
        return {row.request_id: row.label for row in connection.execute(query)}


def window_of(request_id: str, asked_at: datetime) -> str:
    """The window a request belongs to: its id's middle part (`replay/calm/...`), else the day it was asked."""
    parts = request_id.split("/")
    return parts[1] if len(parts) >= 3 and parts[1] else asked_at.date().isoformat()


def make_prediction_log(
    workspace: Workspace, partition: Partition, monitoring: Monitoring, data: Data, task: Task,
    traffic: Traffic | None = None,
) -> Artifact:  # fmt: skip
    """`records.lance`: what the model of this partition answered, with `window`, `label` (or null) and `answer_json`.

    `traffic` sends first, when the model is the champion. The same log and labels give the same artifact. Gate:
    `nothing_missing` (blocking). Raises LogError, ArtifactError when nothing was published.
    """
    published = workspace.get("triton_repository", partition).require_gates()
    model = published.read_json("model.json")["model"]
    serves = champion(workspace)
    if traffic is not None and serves and serves.model == model:
        workspace.progress(STAGE, "sending live requests")
        traffic.send(workspace, task, data)
    logged = read_log(workspace)
    table, missing = _records(workspace, logged, model, task), missing_ids(workspace, logged)
    reason = _why_empty(table.num_rows, model, serves.model if serves else None)

    def build(draft: Draft) -> None:
        write_records(draft, table)
        told = f"{len(missing)} acknowledged requests are not in the log" + (f": {missing[0]}" if missing else "")
        draft.gate(Gate("nothing_missing", not missing, told, blocking=True, facts={"missing": missing[:10]}))
        _tell(draft, table, reason)

    # The log grows by itself: what is in it decides, with the labels, whether there is something new.
    settings = {"log": records_digest(table), "missing": missing, "reason": reason}
    return workspace.make(STAGE, partition, build, settings=settings, parents={"triton_repository": published})


def missing_ids(workspace: Workspace, logged: pa.Table) -> list[str]:
    """Requests that a client of this home got an answer to and that no log has, sorted."""
    acknowledged = {record["id"] for record in read_folder(acknowledged_folder(workspace.home, workspace.project))}
    return sorted(acknowledged - set(logged["request_id"].to_pylist()))


def _records(workspace: Workspace, logged: pa.Table, model: str, task: Task) -> pa.Table:
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    table = logged.filter(pc.field("model") == model)
    ids, times = table["request_id"].to_pylist(), table["asked_at"].to_pylist()
    labels = read_labels(workspace)
    shape = task.signature().outputs[0].shape
    answers = [
        json.dumps(task.answer(np.array(row, np.float64).reshape(shape)), sort_keys=True)
        for row in table["outputs"].to_pylist()
    ]
    windows = [window_of(name, at) for name, at in zip(ids, times, strict=True)]
    known = pa.array([labels.get(name) for name in ids], task.label_type())
    return (
        table.append_column("answer_json", pa.array(answers, pa.string()))
        .append_column("window", pa.array(windows, pa.string()))
        .append_column("label", known)
    )


def _why_empty(rows: int, model: str, serves: str | None) -> str | None:
    if rows:
        return None
    if serves == model:
        return f"{model} has the traffic, but nobody has asked it yet"
    return f"{model} never had the traffic" + (f": {serves} serves" if serves else ": nothing serves")


def _tell(draft: Draft, table: pa.Table, reason: str | None) -> None:
    from collections import Counter

    import numpy as np

    windows = Counter(table["window"].to_pylist())
    labelled = table.num_rows - table["label"].null_count
    draft.measure(records=table.num_rows, labelled=labelled, windows=dict(sorted(windows.items())))
    draft.show(records=table.num_rows, labelled=labelled)
    if reason:
        draft.measure(reason=reason)
        draft.show(reason=reason)
        return
    p50, p95 = np.percentile(table["latency_ms"].to_numpy(), [50, 95])
    draft.measure(latency={"p50_ms": round(float(p50), 4), "p95_ms": round(float(p95), 4)})
    rows = "\n".join(f"| {name} | {count} |" for name, count in sorted(windows.items()))
    draft.show(windows={"md": f"| window | records |\n|---|---|\n{rows}"})
