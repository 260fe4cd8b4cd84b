"""Which records of a day are fit to be used, and why the others are not; and the table of facts that is validated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from dl_pipelines.data.sources.base import Quarantined
from dl_pipelines.tasks.base import Field, Role, Task

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import pyarrow as pa


class Known(NamedTuple):
    """A clean record of an earlier day."""

    id: str
    target: Any
    day: str


@dataclass(frozen=True)
class Cleaned:
    """What is left, what is kept out, and for every record that arrived whether it repeats another, int8 [N]."""

    table: pa.Table
    quarantined: list[Quarantined]
    repeats: np.ndarray
    kept: np.ndarray

    @property
    def duplicates(self) -> int:
        """Records that repeat another's content."""
        return int(self.repeats.sum())


def clean(table: pa.Table, task: Task, earlier: Mapping[str, Known]) -> Cleaned:
    """Keep records that the task's schema allows and whose content and id no other has. Returns reasons, never raises.

    `earlier` maps the sha256 of records of earlier days. Of equal records the first is kept, so that no content is in
    two splits; where their targets differ nobody knows which is right: none of the same day is kept.
    """
    import numpy as np
    import pyarrow as pa

    target = field_of(task, "target")
    columns = [table[name].to_pylist() for name in ("id", "sha256", "event_time", "uri", target.name)]
    present = has_content(table, task).tolist()
    names, contents, times, _, values = columns
    unfit = [_unfit(row, target) for row in zip(names, contents, times, present, values, strict=True)]
    claims: dict[str, set[Any]] = {}
    for sha256, value, reason in zip(contents, values, unfit, strict=True):
        if reason is None:
            claims.setdefault(sha256, set()).add(value)
    seen, ids = dict(earlier), {known.id: known for known in earlier.values()}
    kept, repeats, quarantined = np.zeros(len(unfit), bool), np.zeros(len(unfit), np.int8), []
    met = set(earlier)
    for place, (name, sha256, _, uri, value) in enumerate(zip(*columns, strict=True)):
        reason = unfit[place]
        if reason is None:
            repeats[place] = sha256 in met
            met.add(sha256)
            reason = _conflict(name, sha256, value, seen, ids, claims[sha256], target, sha256 in earlier)
        if reason is None:
            seen[sha256] = ids[name] = Known(name, value, "the same day")
            kept[place] = True
        else:
            quarantined.append(Quarantined(str(uri or name), reason))
    return Cleaned(table.filter(pa.array(kept)), quarantined, repeats, kept)


def _unfit(row: tuple[Any, ...], target: Field) -> str | None:
    """Why a record (id, sha256, time, whether it has content, target) can't be used whatever else there is."""
    name, sha256, event_time, present, value = row
    missing = [what for what, there in (("id", name), ("checksum", sha256), ("time", event_time), ("content", present),
                                        (target.name, value is not None or target.optional)) if not there]  # fmt: skip
    if missing:
        return f"no {', no '.join(missing)}"
    low, high = target.low, target.high
    if not isinstance(value, int | float):
        return None
    if (low is not None and value < low) or (high is not None and value > high):
        least, most = "" if low is None else f"{low:g}", "" if high is None else f"{high:g}"
        allowed = f"{least} to {most}" if least and most else f"at least {least}" if least else f"at most {most}"
        return f"{target.name} {value} out of range; expected {allowed}"
    return None


def _conflict(
    name: str,
    sha256: str,
    value: Any,
    seen: Mapping[str, Known],
    ids: Mapping[str, Known],
    claims: set[Any],
    target: Field,
    is_earlier: bool,
) -> str | None:
    """Why a record can't be used beside those that are there; `claims` are the day's targets for this content."""
    if not is_earlier and len(claims) > 1:
        several = ", ".join(str(item) for item in sorted(claims))
        return f"the same content with the {target.name} {several}; nobody knows which is right"
    known = seen.get(sha256)
    if known is None:
        return f"the id {name!r} a second time (first on {ids[name].day})" if name in ids else None
    if known.target == value:
        return f"repeats {known.id} of {known.day}"
    return f"the same content as {known.id} of {known.day} with another {target.name} ({value}, there {known.target})"


def facts(table: pa.Table, task: Task, cleaned: Cleaned) -> pd.DataFrame:
    """One row a record that arrived with content, what the suite is about.

    The task's own facts, and beside them id, sha256, duplicates (1 when it repeats another), kept (1 when it is clean).
    """
    import numpy as np
    import pandas as pd
    import pyarrow as pa

    present = has_content(table, task)
    table = table.filter(pa.array(present))
    return pd.DataFrame(
        {
            "id": table["id"].to_pylist(),
            **task.facts(table),
            "sha256": table["sha256"].to_pylist(),
            "duplicates": cleaned.repeats[present],
            "kept": cleaned.kept[present].astype(np.int8),
        }
    )


def has_content(table: pa.Table, task: Task) -> np.ndarray:
    """Whether each record has every input that the task can't do without, bool [N]."""
    import numpy as np

    there = np.ones(table.num_rows, bool)
    for field in task.fields():
        if field.role == "input" and not field.optional:
            there &= table[field.name].is_valid().to_numpy()
    return there


def field_of(task: Task, role: Role) -> Field:
    """The task's first column of a role."""
    return next(field for field in task.fields() if field.role == role)


def with_targets(table: pa.Table, task: Task) -> pa.Table:
    """The table with a missing target set to 0, for code that looks at inputs only."""
    import pyarrow.compute as pc

    name = field_of(task, "target").name
    if not table[name].null_count:
        return table
    return table.set_column(table.schema.get_field_index(name), name, pc.fill_null(table[name], 0))
