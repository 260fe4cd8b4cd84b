"""Who may load, unload and configure models: whoever knows the server's admin key. Everybody else may only ask models.

gRPC takes the key as `triton-grpc-protocol-dlp-admin`, HTTP as `dlp-admin`. A home's key is made for each start of its
server and lies in a file that only its user can read; Triton takes it on its command line alone, which everybody can
read: there it is overwritten as soon as Triton knows it. Standard library only.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path

from dl_pipelines.serving.process import birth
from dl_pipelines.store.home import Home

HEADER = "dlp-admin"
RESTRICTED = ("model-repository", "model-config", "shared-memory", "trace", "logging")
"""Triton's names of what a client has no business with; what is asked with a wrong key is refused."""


def restricted(key: str) -> list[str]:
    """Flags of tritonserver that ask for a key."""
    names = ",".join(RESTRICTED)
    return [f"--http-restricted-api={names}:{HEADER}={key}", f"--grpc-restricted-protocol={names}:{HEADER}={key}"]


def http_headers(key: str) -> dict[str, str]:
    """What an HTTP request shows; nothing without a key."""
    return {HEADER: key} if key else {}


def grpc_headers(key: str) -> dict[str, str]:
    """What a gRPC call shows as metadata; nothing without a key."""
    return {f"triton-grpc-protocol-{HEADER}": key} if key else {}


def key_file(home: Home) -> Path:
    """Where the key of a home's server is."""
    return home.server / "admin.key"


def new_key(home: Home) -> str:
    """A key for a server that is about to start, written for its user only (mode 0600). Raises OSError."""
    key, path = secrets.token_hex(32), key_file(home)
    fresh = path.with_name(f".{path.name}-{os.getpid()}")
    with contextlib.suppress(FileNotFoundError):
        fresh.unlink()
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:
        file.write(key)
    fresh.replace(path)
    return key


def hide_key(pid: int, born: str, key: str) -> None:
    """Overwrite the key in the command line of a server that has read it. Raises OSError when the system forbids that.

    Of a server that has not yet, it would become the key. Another process, not `born` then, is left alone. Where the
    command line lies: proc_pid_stat(5).
    """
    memory = os.open(f"/proc/{pid}/mem", os.O_RDWR)
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        start, end = int(fields[45]), int(fields[46])
        if birth(pid) != born:  # looked at last: what was opened and read before is of this process
            return
        text = os.pread(memory, end - start, start)
        at = text.find(key.encode())
        while key and at >= 0:
            os.pwrite(memory, b"x" * len(key), start + at)
            at = text.find(key.encode(), at + 1)
    finally:
        os.close(memory)


def read_key(home: Home) -> str:
    """The key of the home's server; empty when there is none: no server, or one of an older version, which asks none.

    Raises OSError when it is another user's.
    """
    with contextlib.suppress(FileNotFoundError):
        return key_file(home).read_text(encoding="ascii").strip()
    return ""
