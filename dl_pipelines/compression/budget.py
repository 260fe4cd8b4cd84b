"""What is said of the accuracy budget when all is decided: of what serves, and whether anything that was tried met it.

Plain data in, plain data out; which trial may serve is decided in ledger.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dl_pipelines.evaluation.slices import GATED_ROWS

Row = Mapping[str, Any]


def budget_told(
    rows: Sequence[Row], max_loss: float, metric: str, count: int
) -> tuple[bool | None, str, dict[str, Any]]:  # fmt: skip
    """Whether the budget was met on `count` rows, a sentence and facts, from a ledger with the row that serves marked.

    It was not when what serves loses more (overall or on a slice), or when everything that was tried and measured
    does: then the uncompressed model serves, and `nearest` is the one that came closest, with what it loses. With
    fewer rows than a slice needs it is undecided (None): where none of them changes, the interval is [0, 0].
    """
    met, summary, facts = _told_of(rows, max_loss, metric)
    facts["rows"] = count
    if count < GATED_ROWS:
        return None, f"only {count} validation rows, {GATED_ROWS} are needed to decide; {summary}", facts
    return met, f"{summary} ({count} validation rows)", facts


def _told_of(rows: Sequence[Row], max_loss: float, metric: str) -> tuple[bool, str, dict[str, Any]]:
    served = next(row for row in rows if row["chosen"])
    if served["loss"] is None:
        return False, f"the loss of {metric} could not be measured on the validation rows", {"budget": max_loss}
    facts: dict[str, Any] = {"budget": max_loss, **served["loss"]}
    where, loss = _worst(served)
    summary = f"{_name(served)} loses {_told(loss)} {metric}{where}; the budget is {max_loss:g}"
    if loss["high"] > max_loss:
        return False, summary, facts
    tried = [row for row in rows if row["step"] and row["loss"] is not None]
    if not tried or any(_worst(row)[1]["high"] <= max_loss for row in tried):
        return True, summary, facts
    near = min(tried, key=lambda row: _worst(row)[1]["high"])
    where, loss = _worst(near)
    facts["nearest"] = {"variant": near["variant"], "runtime": near["runtime"], **loss}
    return False, (
        f"none of the {len(tried)} that were tried meets the budget of {max_loss:g}: {_name(near)} comes closest and "
        f"loses {_told(loss)} {metric}{where}; {_name(served)} serves"
    ), facts  # fmt: skip


def _worst(row: Row) -> tuple[str, Mapping[str, float]]:
    """Where a row loses most by the end of its interval, and the loss there."""
    places = [("", row["loss"]), *((f" on {name}", loss) for name, loss in row["slices"].items())]
    return max(places, key=lambda place: place[1]["high"])


def _name(row: Row) -> str:
    return f"{row['variant']} on {row['runtime']}"


def _told(loss: Mapping[str, float]) -> str:
    return f"{loss['value']:.4g} [{loss['low']:.4g}, {loss['high']:.4g}]"
