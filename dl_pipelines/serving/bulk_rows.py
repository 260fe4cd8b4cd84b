"""The answers of a bulk prediction as rows of its Parquet file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dl_pipelines.tasks.base import Task

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa


@dataclass(frozen=True)
class Row:
    """What became of one input."""

    name: str
    request_id: str = ""
    outputs: np.ndarray | None = None
    error: str | None = None


def table_of(task: Task, rows: Sequence[Row]) -> pa.Table:
    """Columns `input`, `request_id`, `outputs` (flat), `answer_json`, `error`; null is what an input has not."""
    import pyarrow as pa

    columns = {
        "input": [row.name for row in rows],
        "request_id": [row.request_id or None for row in rows],
        "outputs": [None if row.outputs is None else row.outputs.reshape(-1) for row in rows],
        "answer_json": [
            None if row.outputs is None else json.dumps(task.answer(row.outputs), sort_keys=True) for row in rows
        ],
        "error": [row.error for row in rows],
    }
    return pa.table(columns, schema=schema_of(task))


def schema_of(task: Task) -> pa.Schema:
    """Of `table_of`."""
    import numpy as np
    import pyarrow as pa

    text, kind = pa.string(), pa.from_numpy_dtype(np.dtype(task.signature().outputs[0].dtype))
    names = {"input": text, "request_id": text, "outputs": pa.list_(kind), "answer_json": text, "error": text}
    return pa.schema(list(names.items()))
