"""What a router writes into its log of each request: plain data, for `log_format`.

Copied beside the router: standard library and numpy only. A request is `assigned` to an arm before that arm is asked,
where the table has several; then it is `answered` (a record a row), or `failed`. `shadow` is an answer that nobody got,
`breaker` the end of a challenger. A request's own inputs are never written.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np

ASSIGNED, ANSWERED, FAILED, SHADOW, BREAKER = "a", "r", "e", "s", "b"
"""The kind `k` of a record."""
UNIT_DIGITS = 20
LONGEST_ID = 80

Record = dict[str, Any]


def hashed_unit(project: str, unit: str) -> str:
    """What is written of a unit id, which may name a person: the same unit of a project gives the same digits."""
    return hashlib.sha256(f"{project}:unit:{unit}".encode()).hexdigest()[:UNIT_DIGITS]


def row_id(request_id: str, row: int, rows: int) -> str:
    """The id of one row of a request: the request's own where it has one row."""
    return request_id if rows == 1 else f"{request_id}#{row}"


def assigned(request_id: str, rows: int, at: float, unit: str, arm: str, model: str, revision: int) -> Record:
    """A request of so many rows goes to an arm. `at` in seconds since 1970, `unit` hashed."""
    return {
        "k": ASSIGNED, "id": request_id, "n": rows, "at": round(at, 6), "unit": unit, "arm": arm, "model": model,
        "rev": revision,
    }  # fmt: skip


def answered(
    row: str, at: float, unit: str, arm: str, by: str, model: str, revision: int, milliseconds: float,
    outputs: np.ndarray | None, summary: Mapping[str, float | None], columns: Mapping[str, Any], failure: str = "",
) -> Record:  # fmt: skip
    """One row's answer, as it is given: `arm` was assigned, `by` answered (`model`); `failure` says why they differ.

    `outputs` [...] without a batch dimension; None (and no summary) outside of the sample.
    """
    record: Record = {
        "k": ANSWERED, "id": row, "at": round(at, 6), "unit": unit, "arm": arm, "by": by, "model": model,
        "rev": revision, "ms": round(milliseconds, 4), **packed(outputs), "sum": dict(summary), "col": dict(columns),
    }  # fmt: skip
    return {**record, "fail": failure} if failure else record


def failed(request_id: str, at: float, unit: str, arm: str, model: str, revision: int, why: str) -> Record:
    """A request that was assigned and got an error."""
    return {
        "k": FAILED, "id": request_id, "at": round(at, 6), "unit": unit, "arm": arm, "model": model, "rev": revision,
        "fail": why,
    }  # fmt: skip


def shadow(
    row: str, at: float, model: str, revision: int, milliseconds: float, outputs: np.ndarray | None, failure: str = ""
) -> Record:
    """What the shadow answered to one row, or why it did not (outputs None)."""
    record: Record = {
        "k": SHADOW, "id": row, "at": round(at, 6), "model": model, "rev": revision, "ms": round(milliseconds, 4),
        **packed(outputs),
    }  # fmt: skip
    return {**record, "fail": failure} if failure else record


def breaker(at: float, arm: str, model: str, revision: int, why: str) -> Record:
    """A challenger (or a shadow) is not asked again under this revision of the routing table."""
    return {"k": BREAKER, "id": "", "at": round(at, 6), "arm": arm, "model": model, "rev": revision, "fail": why}


def packed(outputs: np.ndarray | None) -> Record:
    """An array as text, bit for bit: base64 of its little-endian bytes, dtype, shape."""
    if outputs is None:
        return {"out": None, "dt": "", "sh": []}
    array = np.ascontiguousarray(outputs, outputs.dtype.newbyteorder("<"))
    return {"out": base64.b64encode(array.tobytes()).decode("ascii"), "dt": array.dtype.str, "sh": list(outputs.shape)}


def unpacked(record: Mapping[str, Any]) -> np.ndarray | None:
    """The array of a record; None where none was kept."""
    if record["out"] is None:
        return None
    return np.frombuffer(base64.b64decode(record["out"]), np.dtype(record["dt"])).reshape(record["sh"])
