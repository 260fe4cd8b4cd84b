"""How the router and a model's process talk past Triton: an array there, an array back, over a Unix socket.

Both are Python backends of one server. A call through the server (BLS) wakes seven threads one after the other and
takes 0.4 ms and more; this wakes two. Small arrays go in the message, large ones through memory that both have mapped.
Who listens is found by name (abstract, so it is gone with its process) below the server that both belong to; only
processes of the same user talk. Copied beside the router and the backends: standard library and numpy only.
"""

from __future__ import annotations

import contextlib
import hashlib
import mmap
import os
import socket
import struct
from pathlib import Path

import numpy as np

INLINE_BYTES = 2**16
"""An array up to here is in the message itself; the system's smallest buffer for one is more than three times this."""
_HERE, _THERE, _ERROR, _ENDING = 1, 2, 3, 4
_HEAD, _SIZE = struct.Struct("<BB8s"), 8
_CREDENTIALS = struct.Struct("3i")
_FD_SPACE = socket.CMSG_SPACE(4)
_LISTENING = "00010000"
"""The flag __SO_ACCEPTCON as /proc/net/unix writes it."""
_KINDS = "biufc"
"""Types of numbers by numpy's `dtype.kind` that may be sent; bool and text may not."""


class Gone(Exception):
    """The other side is not there, or is ending: what it was sent last it has not looked at."""


class Died(Exception):
    """The other side ended with a call under way."""


class Failed(Exception):
    """The other side gave an error instead of an array."""


class Channel:
    """One end of a connection; one call at a time."""

    def __init__(self, connection: socket.socket):
        """Raises Gone when the other side is not of this user."""
        self._socket = connection
        self._mine = self._theirs = np.empty(0, np.uint8)
        _, user, _ = _CREDENTIALS.unpack(
            connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        )
        if user != os.getuid():
            connection.close()
            raise Gone(f"found user {user} on the other side; expected {os.getuid()}")

    def send(self, array: np.ndarray) -> None:
        """Send numbers of any shape. Raises Gone, and TypeError for what is not numbers."""
        if array.dtype.kind not in _KINDS:
            raise TypeError(f"found the type {array.dtype}; expected numbers")
        head = [_HEAD.pack(_HERE, array.ndim, array.dtype.str.encode()), struct.pack(f"<{array.ndim}q", *array.shape)]
        if array.nbytes <= INLINE_BYTES:
            self._send(b"".join([*head, array.tobytes()]))
            return
        memory = [] if array.nbytes <= len(self._mine) else [self._grow(array.nbytes)]
        try:
            self._mine[: array.nbytes].view(array.dtype).reshape(array.shape)[...] = array
            self._send(bytes([_THERE]) + b"".join(head)[1:], memory)
        finally:
            for handle in memory:
                os.close(handle)

    def fail(self, text: str) -> None:
        """Send an error. Raises Gone."""
        self._send(bytes([_ERROR]) + text.encode("utf-8", "replace")[:INLINE_BYTES])

    def receive(self) -> np.ndarray:
        """What the other side sent; a large array is its memory, and holds until it is sent something again.

        Raises Failed with its error, Gone when it is ending, Died when it did.
        """
        try:
            message, extra, _, _ = self._socket.recvmsg(INLINE_BYTES + 1024, _FD_SPACE)
        except OSError as error:
            raise Died(str(error)) from error
        if extra:
            self._map(extra[0][2])
        if not message:
            raise Died("it ended")
        if message[0] == _ERROR:
            raise Failed(message[1:].decode("utf-8", "replace"))
        if message[0] == _ENDING:
            raise Gone("it is ending")
        kind, axes, name = _HEAD.unpack_from(message)
        start = _HEAD.size + _SIZE * axes
        shape, dtype = struct.unpack_from(f"<{axes}q", message, _HEAD.size), np.dtype(name.rstrip(b"\0").decode())
        if kind == _HERE:
            return np.frombuffer(message, dtype, offset=start).reshape(shape)
        size = int(np.prod(shape)) * dtype.itemsize
        return self._theirs[:size].view(dtype).reshape(shape)

    def end(self) -> None:
        """Say that what came last was not looked at. Raises Gone."""
        self._send(bytes([_ENDING]))

    def close(self) -> None:
        """End it; who waits on the other side is told."""
        self._socket.close()

    def hang_up(self) -> None:
        """Take no more, from another thread than that in `receive`: it gets what has come, then Died."""
        with contextlib.suppress(OSError):  # it has ended already
            self._socket.shutdown(socket.SHUT_RD)

    def _send(self, message: bytes, memory: list[int] | None = None) -> None:
        try:
            if memory:
                socket.send_fds(self._socket, [message], memory)
            else:
                self._socket.send(message)
        except OSError as error:
            raise Gone(str(error)) from error

    def _grow(self, size: int) -> int:
        """Memory that holds so many bytes; a handle of it for the other side."""
        size = 1 << (size - 1).bit_length()
        handle = os.memfd_create("dlp-channel", os.MFD_CLOEXEC)
        try:
            os.ftruncate(handle, size)
            self._mine = np.frombuffer(mmap.mmap(handle, size), np.uint8)
        except BaseException:
            os.close(handle)
            raise
        return handle

    def _map(self, data: bytes) -> None:
        (handle,) = struct.unpack("i", data[:4])
        try:
            self._theirs = np.frombuffer(mmap.mmap(handle, 0), np.uint8)
        finally:
            os.close(handle)


class Listener:
    """Where a model's process is called; it belongs to this process's parent, the server."""

    def __init__(self, model: str):
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.bind(f"\0{_place(os.getppid(), model)}{os.getpid()}-{id(self):x}")
        self._socket.listen(16)

    def accept(self) -> Channel:
        """The next caller. Raises Gone after `close`."""
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError as error:
                raise Gone(str(error)) from error
            try:
                return Channel(connection)
            except Gone:
                continue  # somebody else's: not talked to

    def close(self) -> None:
        """Nobody can call any more."""
        with contextlib.suppress(OSError):  # nobody waits in `accept`
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


def connect(model: str) -> Channel:
    """A channel to a process of the same server that listens for a model. Raises Gone when there is none."""
    for name in _listening(_place(os.getppid(), model)):
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            connection.connect(f"\0{name}")
            return Channel(connection)
        except (OSError, Gone):
            connection.close()
    raise Gone(f"nobody listens for {model}")


def _place(server: int, model: str) -> str:
    return f"dlp-{server}-{hashlib.sha256(model.encode()).hexdigest()[:20]}-"


def _listening(place: str) -> list[str]:
    """Names that begin so, the newest first."""
    try:
        lines = Path("/proc/net/unix").read_text(encoding="utf-8", errors="replace").splitlines()[1:]
    except OSError:
        return []
    found = [line.split(maxsplit=7) for line in lines]
    return [
        parts[7][1:] for parts in reversed(found)
        if len(parts) == 8 and parts[3] == _LISTENING and parts[7].startswith(f"@{place}")
    ]  # fmt: skip
