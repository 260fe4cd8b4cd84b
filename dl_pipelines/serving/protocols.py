"""Callers of one model with one interface: gRPC (client.Caller), HTTP with binary tensors, and shared memory.

One thread at a time each. A request that is refused or not answered raises tritonclient's InferenceServerException.
"""

from __future__ import annotations

import http.client
import itertools
import json
import os
import socket
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from dl_pipelines.serving import admin, process
from dl_pipelines.serving.client import PATIENCE_MS, Caller, open_client
from dl_pipelines.serving.config import triton_type
from dl_pipelines.serving.server import TritonServer
from dl_pipelines.serving.settings import PROTOCOLS
from dl_pipelines.store.home import Home
from dl_pipelines.tasks.base import Signature

if TYPE_CHECKING:
    import numpy as np

_HEADER = "Inference-Header-Content-Length"
_numbers = itertools.count()


class Calls(Protocol):
    """What calls one model."""

    def __call__(self, inputs: np.ndarray, request_id: str = "") -> np.ndarray:
        """`inputs` [N, ...] in, [N, ...] out. Raises tritonclient's InferenceServerException."""
        ...

    def close(self) -> None:
        """Let go of the connection and of what it holds."""
        ...


def connecting(
    protocol: str, server: TritonServer, model: str, signature: Signature, timeout_ms: float = PATIENCE_MS
) -> Callable[[], Calls]:
    """A function that connects a caller of a model; `protocol` is one of PROTOCOLS. Raises TritonError."""
    assert protocol in PROTOCOLS, protocol
    state = server.state()
    address = server.grpc  # raises when none lives
    assert state is not None
    if protocol == "http":
        return lambda: HttpCaller(state.http, model, signature, timeout_ms)
    if protocol == "shared_memory":
        remove_left(server.home)
        return lambda: SharedMemoryCaller(address, state.http, model, signature, server.home, timeout_ms)
    return lambda: Caller.of(address, model, signature, timeout_ms)


class HttpCaller:
    """KServe v2 over one HTTP connection to 127.0.0.1, tensors as bytes behind the JSON (the binary extension)."""

    def __init__(self, port: int, model: str, signature: Signature, timeout_ms: float = PATIENCE_MS):
        self._connection = _Connection(port, model, timeout_ms / 1000)
        self._given, self._gives = signature.inputs[0].name, signature.outputs[0].name

    def __call__(self, inputs: np.ndarray, request_id: str = "") -> np.ndarray:
        """Raises tritonclient's InferenceServerException."""
        import numpy as np

        data = np.ascontiguousarray(inputs).tobytes()
        tensor = {"name": self._given, "shape": list(inputs.shape), "datatype": triton_type(inputs.dtype),
                  "parameters": {"binary_data_size": len(data)}}  # fmt: skip
        wanted = {"name": self._gives, "parameters": {"binary_data": True}}
        head = json.dumps({"id": request_id, "inputs": [tensor], "outputs": [wanted]}).encode()
        size, body = self._connection.ask(head + data, {_HEADER: str(len(head))})
        told = json.loads(body[:size])["outputs"][0]
        from tritonclient.utils import triton_to_np_dtype

        kind = triton_to_np_dtype(told["datatype"])
        return np.frombuffer(body, kind, offset=size).reshape(told["shape"])

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


class _Connection:
    """HTTP to one model."""

    def __init__(self, port: int, model: str, timeout: float):
        self._port, self._path, self._timeout = port, f"/v2/models/{model}/infer", timeout
        self._open: http.client.HTTPConnection | None = None

    def ask(self, body: bytes, headers: Mapping[str, str]) -> tuple[int, bytes]:
        """Bytes of the answer's JSON and the whole answer; a connection that failed is not used again."""
        connection = self._open or self._connect()
        try:
            connection.request("POST", self._path, body, headers)
            reply = connection.getresponse()
            status, size, answer = reply.status, int(reply.headers.get(_HEADER, 0)), reply.read()
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise _refused(str(error) or type(error).__name__, type(error).__name__) from error
        if status != 200:
            raise _refused(_reason(answer), str(status))
        return size, answer

    def _connect(self) -> http.client.HTTPConnection:
        connection = self._open = http.client.HTTPConnection("127.0.0.1", self._port, timeout=self._timeout)
        try:
            connection.connect()
        except OSError as error:
            self.close()
            raise _refused(str(error), "UNAVAILABLE") from error
        connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    def close(self) -> None:
        if self._open:
            self._open.close()
            self._open = None


def _refused(reason: str, status: str) -> Exception:
    from tritonclient.utils import InferenceServerException

    return InferenceServerException(reason, status)


def _reason(body: bytes) -> str:
    try:
        return str(json.loads(body)["error"])
    except (ValueError, KeyError, TypeError):
        return body.decode(errors="replace")[:300]


class SharedMemoryCaller:
    """Tensors in one region of system shared memory, inputs first, outputs behind them; HTTP says where.

    The region grows with the largest request. Its name starts with the home's prefix and names this process, so that
    it is found and removed when the process was killed (`remove_left`) and when the server has ended.
    """

    def __init__(self, address: str, port: int, model: str, signature: Signature, home: Home,
                 timeout_ms: float = PATIENCE_MS):  # fmt: skip
        """`address` is of gRPC, by which regions are registered."""
        self._client, self._connection = open_client(address), _Connection(port, model, timeout_ms / 1000)
        (self._given,), (self._gives,) = signature.inputs, signature.outputs
        self._prefix, self._region = _prefix(home), _Region(self._client, home, timeout_ms / 1000)
        self._placed: tuple[tuple[int, ...], np.dtype] | None = None
        self._request = ""

    def __call__(self, inputs: np.ndarray, request_id: str = "") -> np.ndarray:
        """Raises tritonclient's InferenceServerException."""
        import numpy as np
        from tritonclient.utils import InferenceServerException, shared_memory

        if self._placed != (inputs.shape, inputs.dtype):
            self._place(inputs)
        shared_memory.set_shared_memory_region(self._region.handle, [inputs])
        try:
            _, answer = self._connection.ask(f'{{"id":{json.dumps(request_id)},{self._request}'.encode(), {})
        except InferenceServerException:
            self._region.close()  # a server that was started anew does not know it
            self._placed = None
            raise
        shape = json.loads(answer)["outputs"][0]["shape"]
        found = shared_memory.get_contents_as_numpy(
            self._region.handle, np.dtype(self._gives.dtype), shape, inputs.nbytes
        )
        return found.copy()

    def _place(self, inputs: np.ndarray) -> None:
        """Room for a request of this shape and type, and what is said of it, which stays until they change."""
        import numpy as np

        assert min(self._gives.shape) > 0, "the room for an answer must be known before"
        row = int(np.prod(self._gives.shape, dtype=np.int64)) * np.dtype(self._gives.dtype).itemsize
        answer = len(inputs) * row
        if inputs.nbytes + answer > self._region.size:
            self._region.open(f"{self._prefix}{next(_numbers)}", inputs.nbytes + answer)
        where = {"shared_memory_region": self._region.name}
        given = {"name": self._given.name, "shape": list(inputs.shape), "datatype": triton_type(inputs.dtype),
                 "parameters": {**where, "shared_memory_byte_size": inputs.nbytes}}  # fmt: skip
        wanted = {"name": self._gives.name, "parameters": {
            **where, "shared_memory_byte_size": answer, "shared_memory_offset": inputs.nbytes,
        }}  # fmt: skip
        self._placed, self._request = (
            (inputs.shape, inputs.dtype),
            json.dumps({"inputs": [given], "outputs": [wanted]})[1:],
        )

    def close(self) -> None:
        """Remove the region and close the connections."""
        self._region.close()
        self._connection.close()
        self._client.close()


class _Region:
    """One region that the server knows, or none yet."""

    def __init__(self, client: Any, home: Home, timeout: float):
        self._client, self._home, self._timeout = client, home, timeout
        self.name, self.size, self.handle = "", 0, None

    def open(self, name: str, size: int) -> None:
        from tritonclient.utils import shared_memory

        self.close()
        self.handle = shared_memory.create_shared_memory_region(name, name, size, create_only=True)
        self.name, self.size = name, size
        self._client.register_system_shared_memory(
            name, name, size, headers=self._admin(), client_timeout=self._timeout
        )

    def close(self) -> None:
        from tritonclient.utils import InferenceServerException, shared_memory

        if self.handle is None:
            return
        try:
            self._client.unregister_system_shared_memory(self.name, self._admin(), self._timeout)
        except InferenceServerException:
            pass  # a server that is gone knows no region
        finally:
            shared_memory.destroy_shared_memory_region(self.handle)
            self.handle, self.size = None, 0

    def _admin(self) -> dict[str, str]:
        return admin.grpc_headers(admin.read_key(self._home))  # another one with each start of the server


def _prefix(home: Home) -> str:
    """What the names of this process's regions start with: the pid alone may be another's one day."""
    born = process.birth(os.getpid())
    assert born is not None
    return f"{process.region_prefix(home)}client_{os.getpid()}_{born.rpartition(':')[2]}_"


def remove_left(home: Home) -> int:
    """Remove the regions of this home's clients that were killed; returns how many."""
    removed = 0
    for path in process.SHARED_MEMORY.glob(f"{process.region_prefix(home)}client_*"):
        pid, born = path.name.rpartition("client_")[2].split("_")[:2]
        if (process.birth(int(pid)) or "").rpartition(":")[2] != born:
            path.unlink(missing_ok=True)
            removed += 1
    return removed
