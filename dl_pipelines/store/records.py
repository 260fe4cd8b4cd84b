"""Records as a Lance dataset inside an artifact. The digest is of the content (schema and sorted record hashes)."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from dl_pipelines.store.artifacts import Artifact, ArtifactError, Draft
from dl_pipelines.store.digest import digest_bytes

if TYPE_CHECKING:
    import lance
    import pyarrow as pa

RECORDS = "records.lance"


def write_records(draft: Draft, table: pa.Table, name: str = RECORDS) -> str:
    """Store a table as a Lance dataset of the draft; returns the content digest. Raises OSError (no space)."""
    import lance

    lance.write_dataset(table, str(draft.path / name), mode="create")
    digest = records_digest(table)
    draft.content(name, digest)
    return digest


def open_records(artifact: Artifact, name: str = RECORDS) -> lance.LanceDataset:
    """The dataset, opened lazily for scans and `take`. Raises ArtifactError when it is missing or corrupt."""
    import lance

    if name not in artifact.contents:
        raise ArtifactError(f"found no {name} in {artifact.stage} {artifact.short}; expected a dataset of records")
    artifact.verify()
    try:
        return lance.dataset(str(artifact.path / name))
    except (OSError, ValueError) as error:
        raise ArtifactError(
            f"found a corrupt dataset in {artifact.path / name} ({error}); expected Lance; remove the folder "
            f"{artifact.path} and run {artifact.stage} again"
        ) from error


def read_records(artifact: Artifact, columns: list[str] | None = None, name: str = RECORDS) -> pa.Table:
    """The whole dataset as an Arrow table. Raises ArtifactError when it is missing or corrupt."""
    dataset = open_records(artifact, name)
    with _readable(artifact, name):
        return dataset.to_table(columns=columns)


def read_pieces(artifact: Artifact, most_bytes: int, name: str = RECORDS) -> Iterator[pa.Table]:
    """The dataset in its order, as tables of about so many bytes at most, one record at least; see read_records."""
    dataset = open_records(artifact, name)
    with _readable(artifact, name):
        total, one = dataset.count_rows(), dataset.to_table(limit=1)
    count = max(1, most_bytes // max(1, one.nbytes))
    for start in range(0, total, count):
        with _readable(artifact, name):
            table = dataset.to_table(offset=start, limit=count)
        yield table


@contextlib.contextmanager
def _readable(artifact: Artifact, name: str) -> Iterator[None]:
    """Tell what is wrong with a dataset that can't be read."""
    try:
        yield
    except (OSError, ValueError) as error:  # a page that can't be decoded is Arrow's ValueError
        raise ArtifactError(
            f"found a corrupt dataset in {artifact.path / name} ({error}); remove the folder and run "
            f"{artifact.stage} again"
        ) from error


def records_digest(table: pa.Table) -> str:
    """sha256 over the schema and the sorted sha256 of each record: the same for the same records in any order."""
    hashers = [hashlib.sha256() for _ in range(table.num_rows)]
    for column in table.column_names:
        for hasher, value in zip(hashers, _encoded(table[column]), strict=True):
            hasher.update(len(value).to_bytes(8, "little"))
            hasher.update(value)
    rows = sorted(hasher.digest() for hasher in hashers)
    schema = "\n".join(f"{field.name}:{field.type}" for field in table.schema)
    return digest_bytes(schema.encode() + b"\0" + b"".join(rows))


def _encoded(column: pa.ChunkedArray) -> list[bytes]:
    import pyarrow as pa

    if pa.types.is_fixed_size_list(column.type) and column.null_count == 0 and len(column):
        width = column.type.list_size
        flat = pa.concat_arrays(column.chunks).flatten().to_numpy(zero_copy_only=False)
        return [row.tobytes() for row in flat.reshape(-1, width)]
    return [_encode(value) for value in column.to_pylist()]


def _encode(value: Any) -> bytes:
    return value if isinstance(value, bytes) else f"{type(value).__name__}:{value!r}".encode()
