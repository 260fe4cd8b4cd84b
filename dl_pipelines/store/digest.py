"""Content digests: of bytes, files, plain data and folders. sha256 everywhere, shown as hexadecimal."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

SHORT = 16
"""Hexadecimal digits of a digest used in names: 64 bits, enough for one home."""


def digest_bytes(data: bytes) -> str:
    """sha256 of bytes, 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def digest_file(path: Path) -> str:
    """sha256 of a file's bytes. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def canonical_json(value: Any) -> bytes:
    """One spelling of plain data: sorted keys, no spaces, no NaN. Raises ValueError or TypeError on other data."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False).encode()


def digest_json(value: Any) -> str:
    """sha256 of plain data in its one spelling."""
    return digest_bytes(canonical_json(value))


def list_files(folder: Path) -> list[str]:
    """Relative POSIX paths of every file below `folder`, sorted."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def digest_folder(folder: Path) -> str:
    """sha256 over the relative path and content of every file below `folder`."""
    return digest_json({name: digest_file(folder / name) for name in list_files(folder)})
