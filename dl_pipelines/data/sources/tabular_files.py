"""Finding CSV and Parquet files, and reading them as one table with every column as it is there.

What a column means is none of its business: see `series_parse.py`.
"""

from __future__ import annotations

import csv
import glob
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import unquote

from dl_pipelines.data.sources.base import Quarantined, SourceError, legible
from dl_pipelines.store.digest import digest_json

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

Format = Literal["csv", "parquet"]
SUFFIXES: dict[str, Format] = {".csv": "csv", ".tsv": "csv", ".txt": "csv", ".parquet": "parquet", ".pq": "parquet"}
PACKED = (".gz", ".bz2", ".zst")
DELIMITERS = (",", ";", "\t", "|")
HEAD = 65_536
"""Bytes in which a header has to end."""


@dataclass(frozen=True)
class Form:
    """What is said of the files' form; None: as their names and headers say."""

    format: Format | None = None
    delimiter: str | None = None
    encoding: str = "utf-8"


@dataclass(frozen=True)
class File:
    """A file, its name below the place that was asked for, its size and time."""

    path: Path
    name: str
    size: int
    changed: int


@dataclass(frozen=True)
class Found:
    """What lies at `place`; `state` is another when a file is."""

    place: str
    files: tuple[File, ...]
    others: tuple[Quarantined, ...]
    state: str


@dataclass(frozen=True)
class Tabular:
    """All files as one table, its rows' files and numbers [N] (from 1), columns by file, what was overlooked."""

    table: pa.Table
    files: np.ndarray
    numbers: np.ndarray
    columns: dict[str, list[str]]
    where: str
    overlooked: tuple[Quarantined, ...]


def find(place: str, kind: Format | None) -> Found:
    """The files of a path, sorted by name, and those in it that are neither CSV nor Parquet. Raises SourceError."""
    path = Path(place).expanduser()
    if path.is_dir():
        root, found = path, path.rglob("*")
    elif path.is_file():
        root, found = path.parent, [path]
    else:
        fixed = _first_glob(path)
        root = Path(*path.parts[:fixed])
        found = root.glob("/".join(path.parts[fixed:])) if root.is_dir() else ()
    files, others = [], []
    for one in sorted(found):
        name = one.relative_to(root).as_posix()
        if not one.is_file() or any(part[0] in "._" for part in name.split("/")):
            continue
        if one == path or kind or _format(one):
            about = one.stat()
            files.append(File(one, legible(name), about.st_size, about.st_mtime_ns))
        else:
            others.append(Quarantined(legible(name), "not named as a CSV or Parquet file"))
    if not files:
        also = f" ({len(others)} others, the first: {others[0].uri})" if others else ""
        raise SourceError(
            f"found no CSV or Parquet file at {path}{also}; expected a file, a folder or a glob; mend "
            "data.source.params.path, or run from the folder that it is relative to"
        )
    state = digest_json([[str(file.path), file.size, file.changed] for file in files])
    return Found(place, tuple(files), tuple(others), state)


def _first_glob(path: Path) -> int:
    return next((place for place, part in enumerate(path.parts) if glob.has_magic(part)), len(path.parts) - 1)


def _format(path: Path) -> Format | None:
    suffixes = [suffix.lower() for suffix in path.suffixes if suffix.lower() not in PACKED]
    return SUFFIXES.get(suffixes[-1]) if suffixes else None


def read(found: Found, form: Form) -> Tabular:
    """All files as one table. An empty one is overlooked beside others. Raises SourceError."""
    import numpy as np

    files, tables, overlooked, columns = found.files, [], list(found.others), {}
    for file in files:
        if not file.size:
            overlooked.append(Quarantined(file.name, "an empty file"))
            continue
        table = _READERS[form.format or _format(file.path) or "csv"](file, form, overlooked)
        for name, value in _partition(file.name).items():
            if name not in table.column_names:
                table = table.append_column(name, _repeated(value, table.num_rows))
        tables.append(table)
        columns[file.name] = table.column_names
    where = str(files[0].path) if len(files) == 1 else f"{len(files)} files of {found.place}"
    if not tables:
        raise SourceError(f"found nothing in {where}: empty; expected a header and a line for each item and day")
    counts = [table.num_rows for table in tables]
    return Tabular(
        _together(tables),
        np.repeat(np.array(list(columns), object), counts),
        np.concatenate([np.arange(1, count + 1) for count in counts]),
        columns,
        where,
        tuple(overlooked),
    )


def _partition(name: str) -> dict[str, str | None]:
    """`year=2024/shop=A/part.csv` as columns, as Hive writes it."""
    parts = [part.split("=", 1) for part in name.split("/")[:-1] if "=" in part]
    return {key: None if value == "__HIVE_DEFAULT_PARTITION__" else unquote(value) for key, value in parts}


def _repeated(value: str | None, count: int) -> pa.Array:
    import pyarrow as pa

    return pa.array([value] * count, pa.string())


def _together(tables: list[pa.Table]) -> pa.Table:
    """One table; a column with types that don't fit together becomes text."""
    import pyarrow as pa

    try:
        return pa.concat_tables(tables, promote_options="permissive")
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        kinds: dict[str, set[str]] = {}
        for table in tables:
            for item in table.schema:
                kinds.setdefault(item.name, set()).add(str(item.type))
        fixed = []
        for table in tables:
            for place, item in enumerate(table.schema):
                if len(kinds[item.name]) > 1 and not pa.types.is_nested(item.type):
                    table = table.set_column(place, item.name, table[item.name].cast(pa.string()))
            fixed.append(table)
        return pa.concat_tables(fixed, promote_options="permissive")


def _read_csv(file: File, form: Form, overlooked: list[Quarantined]) -> pa.Table:
    """Every column as text. Lines with too many or too few values are overlooked. Raises SourceError."""
    import pyarrow as pa
    import pyarrow.csv

    header, delimiter = _header(file, form)

    def skip(row: Any) -> str:
        reason = f"found {row.actual_columns} values; expected {row.expected_columns}"
        overlooked.append(Quarantined(f"{file.name}, line {row.number}", reason))
        return "skip"

    try:
        return pyarrow.csv.read_csv(
            file.path,
            read_options=pyarrow.csv.ReadOptions(
                column_names=header, skip_rows=1, encoding=form.encoding, use_threads=False
            ),
            parse_options=pyarrow.csv.ParseOptions(
                delimiter=delimiter, newlines_in_values=True, invalid_row_handler=skip
            ),
            convert_options=pyarrow.csv.ConvertOptions(
                column_types={name: pa.string() for name in header}, strings_can_be_null=False
            ),
        )
    except (pa.ArrowInvalid, pa.ArrowKeyError, OSError, UnicodeDecodeError) as error:
        raise _unreadable(file, "CSV", error) from error


def _header(file: File, form: Form) -> tuple[list[str], str]:
    """Column names and the delimiter. Raises SourceError when it is no CSV."""
    import pyarrow as pa

    try:
        with pa.input_stream(str(file.path)) as stream:
            head = stream.read(HEAD)
        codec = "utf-8-sig" if form.encoding.lower().replace("_", "-") in ("utf-8", "utf8") else form.encoding
        line = io.StringIO(head[: head.rfind(b"\n") + 1 or None].decode(codec), newline="").readline()
    except (OSError, ValueError, LookupError) as error:
        raise _unreadable(file, "CSV", error) from error
    if "\0" in line:
        raise _unreadable(file, "CSV", ValueError("a zero byte in its header"))
    delimiter = form.delimiter or max(DELIMITERS, key=line.count)
    names = [name.strip() for name in next(csv.reader([line], delimiter=delimiter), [])]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise SourceError(
            f"found the column {twice[0] or '(without a name)'} twice in {file.path}; expected each once; rename one"
        )
    return names, delimiter


def _read_parquet(file: File, form: Form, overlooked: list[Quarantined]) -> pa.Table:
    """As it is. Raises SourceError."""
    import pyarrow as pa
    import pyarrow.parquet

    try:
        return pyarrow.parquet.ParquetFile(file.path).read()
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(file, "Parquet", error) from error


_READERS: dict[Format, Callable[[File, Form, list[Quarantined]], pa.Table]] = {
    "csv": _read_csv,
    "parquet": _read_parquet,
}


def _unreadable(file: File, kind: str, error: Exception) -> SourceError:
    return SourceError(
        f"found no readable {kind} at {file.path} ({' '.join(str(error).split())[:200]}); expected one with a header "
        "and a record a line; mend the file, or data.source.params (format, delimiter, encoding)"
    )
