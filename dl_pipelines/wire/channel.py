"""How the router and a model's process talk past Triton: an array there, an array back, over a Unix socket.

Both are Python backends of one server. A call through the server (BLS) wakes thread after thread in three processes;
this wakes two. Small arrays go in the message, large ones through memory that both have mapped. Who listens is found by
name (abstract, so it is gone with its process); only processes of one user and one server talk. Copied beside the
router and the backends: standard library and numpy only.
"""

from __future__ import annotations

import contextlib
import hashlib
import mmap
import os
import random
import socket
import struct
import time
from pathlib import Path

import numpy as np

INLINE_BYTES = 2**16
"""An array up to here is in the message itself; the system's usual buffer for one is more than three times this."""
GREETING_S = 1.0
"""Within this who listens has to take a caller."""
PAUSE_S = 0.05
_HERE, _THERE, _ERROR, _ENDING = 1, 2, 3, 4
_HELLO = 6
"""Changes with what messages look like: a process of another version is not talked to."""
_HEAD, _SIZE, _ALIGNED = struct.Struct("<BB8sd"), 8, 16
_CREDENTIALS = struct.Struct("3i")
_FD_SPACE = socket.CMSG_SPACE(4)
_LISTENING = "00010000"
"""The flag __SO_ACCEPTCON as /proc/net/unix writes it."""
_KINDS = "biufc"
"""Types by numpy's `dtype.kind` that may be sent: numbers and bool, not text."""


class Gone(Exception):
    """The other side is not there, or is ending: what it was sent last it has not looked at."""


class Died(Exception):
    """The other side ended with a call under way."""


class Failed(Exception):
    """The other side gave an error instead of an array."""


class Channel:
    """One end of a connection; one call at a time. `process` is the other side's, who listens or who called."""

    def __init__(self, connection: socket.socket):
        """Raises Gone when the other side is not of this user and this server."""
        self._socket = connection
        self._mine = self._theirs = np.empty(0, np.uint8)
        self.seconds = 0.0
        found = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        self.process, user, _ = _CREDENTIALS.unpack(found)
        if user != os.getuid() or _parent(self.process) != os.getppid():
            connection.close()
            raise Gone(f"found process {self.process} of user {user} on the other side; expected one of this server")

    def send(self, array: np.ndarray, seconds: float = 0.0) -> None:
        """Send numbers of any shape, and how long they took. Raises Gone, and TypeError for what is not numbers."""
        if array.dtype.kind not in _KINDS:
            raise TypeError(f"found the type {array.dtype}; expected numbers")
        here, axes = array.nbytes <= INLINE_BYTES, array.ndim
        head = _HEAD.pack(_HERE if here else _THERE, axes, array.dtype.str.encode(), seconds)
        head += struct.pack(f"<{axes}q", *array.shape) + bytes(_start(axes) - _HEAD.size - _SIZE * axes)
        if here:
            self._send(head + array.tobytes())
        elif array.nbytes <= len(self._mine):
            _put(array, self._mine)
            self._send(head)
        else:
            self._send_new(array, head)

    def fail(self, text: str) -> None:
        """Send an error. Raises Gone."""
        self._send(bytes([_ERROR]) + text.encode("utf-8", "replace")[:INLINE_BYTES])

    def receive(self) -> np.ndarray:
        """What the other side sent; a large array is its memory, and holds until it is sent something again.

        `seconds` is then how long it took, as the other side says.
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
        kind, axes, name, self.seconds = _HEAD.unpack_from(message)
        shape, dtype = struct.unpack_from(f"<{axes}q", message, _HEAD.size), np.dtype(name.rstrip(b"\0").decode())
        if kind == _HERE:
            return np.frombuffer(message, dtype, offset=_start(axes)).reshape(shape)
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

    def greet(self) -> None:
        """Say to a caller that it was taken. Raises Gone."""
        self._send(bytes([_HELLO]))

    def require_greeting(self) -> None:
        """Raises Gone unless who listens takes this caller soon."""
        self._socket.settimeout(GREETING_S)
        try:
            taken = self._socket.recv(1) == bytes([_HELLO])
        except OSError as error:
            raise Gone(str(error)) from error
        if not taken:
            raise Gone("it takes no more callers")
        self._socket.settimeout(None)

    def _send(self, message: bytes, memory: int | None = None) -> None:
        try:
            if memory is not None:
                socket.send_fds(self._socket, [message], [memory])
            else:
                self._socket.send(message)
        except OSError as error:
            raise Gone(str(error)) from error

    def _send_new(self, array: np.ndarray, head: bytes) -> None:
        """Send an array in new memory, which is used again from then on."""
        size = 1 << (array.nbytes - 1).bit_length()
        try:
            handle = os.memfd_create("dlp-channel", os.MFD_CLOEXEC)
        except OSError as error:
            raise Gone(str(error)) from error
        try:
            os.ftruncate(handle, size)
            fresh = np.frombuffer(mmap.mmap(handle, size), np.uint8)
            _put(array, fresh)
            self._send(head, handle)
        except OSError as error:
            raise Gone(str(error)) from error
        finally:
            os.close(handle)
        self._mine = fresh

    def _map(self, data: bytes) -> None:
        (handle,) = struct.unpack("i", data[:4])
        try:
            self._theirs = np.frombuffer(mmap.mmap(handle, 0), np.uint8)
        finally:
            os.close(handle)


class Listener:
    """Where a model's process is called; it belongs to this process's parent, the server."""

    def __init__(self, model: str):
        """Raises OSError where the system allows no such socket."""
        self._closed = False
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.bind(f"\0{_place(model)}{os.getpid()}-{id(self):x}")
        self._socket.listen(16)

    def accept(self) -> Channel:
        """The next caller, to be greeted. Raises Gone after `close`."""
        while not self._closed:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                if not self._closed:
                    time.sleep(PAUSE_S)  # no more handles, say: not for ever
                continue
            with contextlib.suppress(Gone):  # somebody else's: not talked to
                return Channel(connection)
        raise Gone("closed")

    def close(self) -> None:
        """Nobody can call any more; who was not accepted is told."""
        self._closed = True
        with contextlib.suppress(OSError):  # nobody waits in `accept`
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


def connect(model: str) -> Channel:
    """A channel to any process of this server that listens for a model. Raises Gone when there is none."""
    names = _listening(_place(model))
    random.shuffle(names)
    for name in names:
        with contextlib.suppress(OSError, Gone):
            return _connected(name)
    raise Gone(f"nobody listens for {model}")


def _connected(name: str) -> Channel:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        connection.setblocking(False)  # one whose queue is full is not waited for
        connection.connect(f"\0{name}")
        channel = Channel(connection)
        channel.require_greeting()
    except BaseException:
        connection.close()
        raise
    return channel


def _start(axes: int) -> int:
    """Where the numbers begin in a message: aligned for every type."""
    return -(-(_HEAD.size + _SIZE * axes) // _ALIGNED) * _ALIGNED


def _put(array: np.ndarray, memory: np.ndarray) -> None:
    memory[: array.nbytes].view(array.dtype).reshape(array.shape)[...] = array


def _place(model: str) -> str:
    """How the names of who listens for a model of this server begin. Containers may share names, but not processes."""
    namespace = os.stat("/proc/self/ns/pid").st_ino  # noqa: PTH116
    return f"dlp-{namespace}-{os.getppid()}-{hashlib.sha256(model.encode()).hexdigest()[:20]}-"


def _listening(place: str) -> list[str]:
    """Names that begin so."""
    try:
        lines = Path("/proc/net/unix").read_text(encoding="utf-8", errors="replace").splitlines()[1:]
    except OSError:
        return []
    found = [line.split(maxsplit=7) for line in lines]
    return [
        parts[7][1:] for parts in found
        if len(parts) == 8 and parts[3] == _LISTENING and parts[7].startswith(f"@{place}")
    ]  # fmt: skip


def _parent(process: int) -> int:
    """Of a living process; 0 when it can't be told."""
    try:
        text = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return 0
    return int(text.rpartition(")")[2].split()[1])
