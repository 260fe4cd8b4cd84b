"""What a router logged (`wire/records.py`) as rows of the tables; also what routers logged before there were arms."""

from __future__ import annotations

import base64
import hashlib
import struct
from collections.abc import Iterable, Mapping
from typing import Any

from dl_pipelines.wire.records import ANSWERED, ASSIGNED, BREAKER, FAILED, LONGEST_ID, SHADOW, hashed_unit

Row = dict[str, Any]
PREDICTIONS, SHADOWS, EVENTS = "predictions", "shadow_predictions", "router_events"
_EVENTS = {FAILED: "failed", BREAKER: "breaker", ASSIGNED: "unanswered"}
UNANSWERED = "the router ended before it gave an answer"


def rows_of(project: str, records: Iterable[Mapping[str, Any]]) -> dict[str, list[Row]]:
    """Rows by table, in order. An assignment gives none: see `event`. Raises ValueError on an unknown record."""
    rows: dict[str, list[Row]] = {PREDICTIONS: [], SHADOWS: [], EVENTS: []}
    for record in records:
        kind = record.get("k")
        if kind == ANSWERED:
            rows[PREDICTIONS].append(_answered(project, record))
        elif kind == SHADOW:
            rows[SHADOWS].append(_shadow(project, record))
        elif kind in (FAILED, BREAKER):
            rows[EVENTS].append(event(project, record))
        elif kind is None:
            rows[PREDICTIONS].append(_answered(project, _upgraded(project, record)))
        elif kind != ASSIGNED:
            raise ValueError(f"a record of the kind {kind!r}")
    return rows


def event(project: str, record: Mapping[str, Any]) -> Row:
    """A failure, the end of a challenger, or an assignment that nothing followed: a row of `router_events`."""
    return {
        "project": project, "kind": _EVENTS[record["k"]], "request_id": fitting(record["id"]),
        "unit": record.get("unit", ""), "arm": record["arm"], "model": record["model"], "revision": record["rev"],
        "detail": _sound(record.get("fail", UNANSWERED)), "asked_at": record["at"],
    }  # fmt: skip


def fitting(name: str) -> str:
    """A request id as the tables can hold it: what they can't is replaced, cut, and told apart by a digest."""
    sound = _sound(name)
    if sound == name and len(name) <= LONGEST_ID:
        return name
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    return f"{sound[: LONGEST_ID - 17]}~{digest}"


def _answered(project: str, record: Mapping[str, Any]) -> Row:
    return {
        "project": project, "request_id": fitting(record["id"]), "asked_at": record["at"], "unit": record["unit"],
        "arm": record["arm"], "answered_by": record["by"], "model": record["model"], "revision": record["rev"],
        "latency_ms": record["ms"], "failure": _failure(record), **_outputs(record), "summary": record["sum"],
        "columns": {_sound(name): _sound(value) for name, value in record["col"].items()},
    }  # fmt: skip


def _shadow(project: str, record: Mapping[str, Any]) -> Row:
    return {
        "project": project, "request_id": fitting(record["id"]), "asked_at": record["at"], "model": record["model"],
        "revision": record["rev"], "latency_ms": record["ms"], "failure": _failure(record), **_outputs(record),
    }  # fmt: skip


def _failure(record: Mapping[str, Any]) -> str | None:
    return _sound(record["fail"]) if "fail" in record else None


def _outputs(record: Mapping[str, Any]) -> Row:
    raw = None if record["out"] is None else base64.b64decode(record["out"])
    return {"outputs": raw, "dtype": record["dt"], "shape": record["sh"]}


def _upgraded(project: str, record: Mapping[str, Any]) -> Row:
    """A record of version 0, which had one kind only and its outputs as a list, null for what is not finite."""
    values = [float("nan") if value is None else float(value) for value in record["out"]]
    packed = base64.b64encode(struct.pack(f"<{len(values)}d", *values)).decode("ascii")
    return {
        **record, "unit": hashed_unit(project, record["id"]), "by": record["arm"], "rev": 0, "out": packed,
        "dt": "<f8", "sh": [len(values)], "col": {},
    }  # fmt: skip


def _sound(value: Any) -> Any:
    """Text as every database can hold it: no NUL, no half of a surrogate pair."""
    if not isinstance(value, str):
        return value
    return value.replace("\0", "\ufffd").encode("utf-8", "replace").decode("utf-8")
