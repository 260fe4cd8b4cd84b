"""The answers of a bulk prediction beside its output, piece by piece: what a second run goes on with.

A piece is written durably under its final name; the output itself is one rename.
"""

from __future__ import annotations

import contextlib
import io
import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dl_pipelines.serving.client import PredictError
from dl_pipelines.store import durable
from dl_pipelines.store.digest import digest_bytes
from dl_pipelines.store.home import Home

if TYPE_CHECKING:
    import pyarrow as pa

ABOUT = "inputs.json"
DIGEST = b"dlp.digest"


class Pieces:
    """Pieces of one list of inputs (`digest`) and the file `out` that they become."""

    def __init__(self, out: Path, digest: str):
        self._out, self._digest = out, digest
        self._folder = out.with_name(f".{out.name}.pieces")
        self._unborn = self._folder / "whole"

    def begin(self) -> tuple[str, bool]:
        """Make room for pieces: the run that they are of; True when there were some of other inputs, which are gone.

        A run that goes on is the one that began (one of an older version has no name); every other one has a name of
        its own, so that no answer of it is taken for one that the log has already. One that had its output has ended.
        """
        known = self._known()
        ended = known.get("whole", False) and not self._unborn.exists()
        goes_on = known.get("digest") == self._digest and not ended
        other = not goes_on and not ended and any(self._folder.glob("*.parquet"))
        if not goes_on:
            durable.remove_tree(self._folder)
            known = {"digest": self._digest, "run": secrets.token_hex(4)}
            durable.write_json(self._folder / ABOUT, known)
        return known.get("run", ""), other

    def clear(self) -> None:
        """Remove what a crash left of the pieces of an output that is there."""
        if self._known().get("digest") == self._digest:
            durable.remove_tree(self._folder)

    def is_done(self) -> bool:
        """Whether the output is there already, of these very inputs."""
        import pyarrow.parquet as pq

        with contextlib.suppress(OSError, ValueError):
            return (pq.read_schema(self._out).metadata or {}).get(DIGEST) == self._digest.encode()
        return False

    def refused(self) -> list[tuple[str, str]]:
        """Inputs without an answer and why, in order, of the output that is there already."""
        return list(_failed(self._out))

    def has(self, start: int) -> bool:
        """Whether the piece that starts with this input is there."""
        return self._path(start).exists()

    def put(self, start: int, table: pa.Table) -> None:
        """Store a piece. Raises OSError (no space)."""
        import pyarrow.parquet as pq

        sink = io.BytesIO()
        pq.write_table(table, sink)
        durable.write_bytes(self._path(start), sink.getvalue())

    def failed(self, starts: Sequence[int]) -> Iterator[tuple[str, str]]:
        """Inputs without an answer and why, in order."""
        for start in starts:
            yield from _failed(self._path(start))

    def finish(self, starts: Sequence[int], schema: pa.Schema, facts: Mapping[str, Any]) -> None:
        """Put all pieces into the output, by a rename; they are gone then. Raises OSError (no space)."""
        import pyarrow.parquet as pq

        named = {DIGEST: self._digest.encode()} | {
            f"dlp.{key}".encode(): str(value).encode() for key, value in facts.items()
        }
        whole = schema.with_metadata(named)
        with pq.ParquetWriter(self._unborn, whole) as writer:
            for start in starts:
                writer.write_table(pq.read_table(self._path(start)).cast(whole))
        with self._unborn.open("rb") as file:
            os.fsync(file.fileno())
        durable.write_json(self._folder / ABOUT, {**self._known(), "whole": True})  # and when it is gone: see begin
        durable.rename(self._unborn, self._out)
        durable.remove_tree(self._folder)

    def _known(self) -> dict[str, Any]:
        about = self._folder / ABOUT
        return durable.read_json(about) if about.exists() else {}

    def _path(self, start: int) -> Path:
        return self._folder / f"{start:012d}.parquet"


def _failed(path: Path) -> Iterator[tuple[str, str]]:
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    rows = pq.read_table(path, columns=["input", "error"], filters=pc.field("error").is_valid())
    for row in rows.to_pylist():
        yield row["input"], row["error"]


@contextlib.contextmanager
def alone(home: Home, out: Path) -> Iterator[None]:
    """Nobody else of this home writes this output. Raises PredictError."""
    from filelock import FileLock, Timeout

    home.locks.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(home.locks / f"predict-{digest_bytes(str(out.absolute()).encode())[:16]}.lock", timeout=0):
            yield
    except Timeout:
        raise PredictError(f"found another `dlp predict` writing {out}; expected none; wait for it to end") from None
