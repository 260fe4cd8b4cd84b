"""What a person sees of records: some of them as one small picture, how many a class has, why others are kept out."""

from __future__ import annotations

import base64
import html
import io
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dl_pipelines.data.cleaning import field_of, with_targets
from dl_pipelines.data.sources.base import Quarantined
from dl_pipelines.tasks.base import Task

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from PIL.Image import Image

SHOWN = 20
"""Lines of a list that people are shown."""

COLUMNS, ROWS, CELL = 10, 2, 40
"""Of the picture: images across, images down, pixels a side of each."""

LARGEST, QUALITIES = 12_000, (85, 60, 30, 10)
"""Bytes of the picture, which Dagster keeps with every day; of photographs a JPEG that fits."""


def show_records(table: pa.Table, task: Task) -> dict[str, Any]:
    """For `draft.show`, Markdown: `samples` (where inputs are images), `balance` of classes or `totals` of numbers.

    {} without records.
    """
    if not table.num_rows:
        return {}
    counted = not field_of(task, "target").dtype.startswith("float")
    shown: dict[str, Any] = (
        {"balance": {"md": balance_table(table, task)}} if counted else {"totals": {"md": totals_table(table, task)}}
    )
    picture = sample_picture(table, task)
    if picture:
        kind = "png" if picture.startswith(b"\x89PNG") else "jpeg"
        shown["samples"] = {"md": f"![samples](data:image/{kind};base64,{base64.b64encode(picture).decode()})"}
    return shown


def sample_picture(table: pa.Table, task: Task) -> bytes | None:
    """Records spread evenly over the table, 10 x 2, as a PNG, or as a JPEG when that would be larger than `LARGEST`.

    None when the task's input is no image [H, W, 1 or 3].
    """
    from PIL.Image import Resampling, fromarray, new

    shape = task.signature().inputs[0].shape
    if len(shape) != 3 or shape[2] not in (1, 3) or not table.num_rows:
        return None
    count = min(table.num_rows, COLUMNS * ROWS)
    chosen = [place * table.num_rows // count for place in range(count)]
    sheet = new("RGB", (COLUMNS * CELL, -(-count // COLUMNS) * CELL), "white")
    for place, image in enumerate(_inputs(table.take(chosen), task)):
        side = fromarray(image if image.shape[2] == 3 else image[..., 0]).convert("RGB")
        side = side.resize((CELL - 2, CELL - 2), Resampling.NEAREST)
        sheet.paste(side, (place % COLUMNS * CELL + 1, place // COLUMNS * CELL + 1))
    picture = _encoded(sheet, "PNG", optimize=True)
    for quality in QUALITIES:
        if len(picture) <= LARGEST:
            break
        picture = _encoded(sheet, "JPEG", quality=quality)
    return picture


def _encoded(image: Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def balance_table(table: pa.Table, task: Task) -> str:
    """Records and share of each class as a Markdown table; of each target value where the task has no classes."""
    target = field_of(task, "target").name
    counts, labels = Counter(table[target].to_pylist()), task.signature().labels
    names = dict(enumerate(labels)) or {value: str(value) for value in counts}
    others = {value: f"{value} (out of range)" for value in counts if value not in names}
    lines = [
        f"| {name} | {counts[value]:,} | {counts[value] / table.num_rows:.1%} |"
        for value, name in list({**names, **others}.items())[:SHOWN]
    ]
    return "\n".join(["| class | records | share |", "|---|---:|---:|", *lines])


def totals_table(table: pa.Table, task: Task) -> str:
    """Of each column of single numbers: how many are there, missing and zero, their sum and range, as Markdown."""
    import numpy as np

    lines = []
    for field in task.fields():
        if field.role not in ("input", "target") or field.shape or not field.dtype.startswith(("float", "int")):
            continue
        values = table[field.name].drop_null().to_numpy().astype(np.float64)
        there = values[~np.isnan(values)]
        figures = [there.sum(), there.min(), there.max()] if len(there) else [None] * 3
        told = " | ".join("-" if value is None else f"{value:,.6g}" for value in figures)
        counts = f"{len(there):,} | {table.num_rows - len(there):,} | {int((there == 0).sum()):,}"
        lines.append(f"| {_cell(field.name)} | {counts} | {told} |")
    head = ["| column | values | missing | zero | sum | least | most |", "|---|---:|---:|---:|---:|---:|---:|"]
    return "\n".join([*head, *lines[:SHOWN]])


def reasons_table(quarantined: Sequence[Quarantined]) -> str:
    """The first records that are kept out, and why, as a Markdown table."""
    lines = [f"| {_cell(item.uri)} | {_cell(item.reason)} |" for item in quarantined[:SHOWN]]
    more = [f"| {len(quarantined) - SHOWN:,} more | |"] if len(quarantined) > SHOWN else []
    return "\n".join(["| record | reason |", "|---|---|", *lines, *more])


def _inputs(table: pa.Table, task: Task) -> np.ndarray:
    """Inputs [N, ...]; a missing target doesn't matter here."""
    return task.rows(with_targets(table, task)).inputs


def _cell(text: str) -> str:
    return " ".join(html.escape(text).replace("|", "\\|").split())[:200]
