"""Which records of a day are fit to be used, and why the others are not; and the table of facts that is validated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dl_pipelines.data.sources.base import Quarantined
from dl_pipelines.tasks.base import Field, Task

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import pyarrow as pa


@dataclass(frozen=True)
class Cleaned:
    """What is left, what is kept out, and how many of those repeat another record."""

    table: pa.Table
    quarantined: list[Quarantined]
    duplicates: int


def clean(table: pa.Table, task: Task, earlier: dict[str, object]) -> Cleaned:
    """Keep records that the task's schema allows and that no earlier record repeats.

    `earlier` maps the sha256 of every record of earlier days to its target. Never raises: the reasons are returned.
    """
    import pyarrow as pa

    target = next(field for field in task.fields() if field.role == "target")
    seen, ids = dict(earlier), set()
    keep, quarantined, duplicates = [], [], 0
    columns = [table[name].to_pylist() for name in ("id", "sha256", target.name, "uri", "event_time")]
    for name, sha256, value, uri, event_time in zip(*columns, strict=True):
        reason = _reason(name, sha256, value, event_time, target, ids, seen)
        keep.append(reason is None)
        if reason is not None:
            duplicates += sha256 in seen
            quarantined.append(Quarantined(str(uri or name), reason))
            continue
        ids.add(name)
        seen[sha256] = value
    return Cleaned(table.filter(pa.array(keep, pa.bool_())), quarantined, duplicates)


def _reason(
    name: object, sha256: object, value: object, event_time: object, target: Field, ids: set, seen: dict
) -> str | None:
    if not name or sha256 is None or event_time is None:
        return "no id, no checksum or no time"
    if value is None:
        return f"no {target.name}"
    low, high = target.low, target.high
    if isinstance(value, int | float) and low is not None and high is not None and not low <= value <= high:
        return f"{target.name} {value} out of range; expected {low:g} to {high:g}"
    if sha256 in seen:
        other = seen[sha256]
        return "repeats an earlier record" if other == value else f"same content, other {target.name} ({other})"
    return f"the id {name!r} twice" if name in ids else None


def facts(table: pa.Table, task: Task) -> pd.DataFrame:
    """One row a record: id, shape, dtype, mode, label, mean, std, sha256; what the suite is about."""
    import pandas as pd

    rows = task.rows(table)
    flat: np.ndarray = rows.inputs.reshape(len(rows), -1)
    target = next(field.name for field in task.fields() if field.role == "target")
    frame = {
        "id": table["id"].to_pylist(),
        "shape": ["x".join(map(str, rows.inputs.shape[1:]))] * len(rows),
        "dtype": [str(rows.inputs.dtype)] * len(rows),
        "label": table[target].to_pylist(),
        "mean": flat.mean(axis=1) if len(rows) else [],
        "std": flat.std(axis=1) if len(rows) else [],
        "sha256": table["sha256"].to_pylist(),
    }
    if "mode" in table.column_names:
        frame["mode"] = table["mode"].to_pylist()
    return pd.DataFrame(frame)
