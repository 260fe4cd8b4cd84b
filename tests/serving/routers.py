"""A router of its own in front of hand-written models, inside a running server: nothing has to be trained or published.

The models take `x` float32 [N, 4] and give `y` float32 [N, 2]: the sum of a row, and that times the model's factor. A
model does what the file `mode` in its folder says: ok, raise, picky (raise at -7), slow, hang, stuck (for
ever, above a million), nan, shape, dtype.
"""

from __future__ import annotations

import json
import os
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np

from dl_pipelines.brief.live import Serving
from dl_pipelines.serving import config, repository
from dl_pipelines.serving.server import TritonServer
from dl_pipelines.store import durable
from dl_pipelines.tasks.base import Signature, Tensor
from dl_pipelines.wire.log_reading import read_folder
from dl_pipelines.wire.routing import CHALLENGER, CHAMPION, Arm, RoutingTable

SIGNATURE = Signature((Tensor("x", "float32", (4,)),), (Tensor("y", "float32", (2,)),))
SETTINGS = Serving(max_batch=8, queue_delay_ms=0)
CODE = """
import pathlib, time
import numpy as np
import triton_python_backend_utils as pb

class TritonPythonModel:
    def initialize(self, args):
        self.folder = pathlib.Path(args["model_repository"])
        self.factor = float((self.folder / "factor").read_text())

    def execute(self, requests):
        mode = (self.folder / "mode").read_text()
        with open(self.folder / "calls", "a") as calls:
            calls.write("." * len(requests))
        if mode in ("hang", "slow"):
            time.sleep(1.2 if mode == "hang" else 0.4)
        if mode == "stuck" and any((pb.get_input_tensor_by_name(one, "x").as_numpy() > 1e6).any() for one in requests):
            time.sleep(600)
        return [self.answer(pb.get_input_tensor_by_name(request, "x").as_numpy(), mode) for request in requests]

    def answer(self, x, mode):
        if mode == "raise" or (x == -13).any() or (mode == "picky" and (x == -7).any()):
            return pb.InferenceResponse(error=pb.TritonError("this model is broken"))
        sums = x.sum(axis=1)
        y = np.stack([sums, sums * self.factor], axis=1).astype(np.float32)
        y[x[:, 0] == -1, 1] = np.nan
        if mode == "nan":
            y[:, 0] = np.inf
        if mode == "shape":
            y = y[:, :1].copy()
        return pb.InferenceResponse([pb.Tensor("y", y.astype(np.float16) if mode == "dtype" else y)])
"""


class Routed:
    """A router `name`, with the models that a test adds."""

    def __init__(self, server: TritonServer, name: str, serving: Serving = SETTINGS):
        self.server, self.name, self.home = server, name, server.home
        self.log = self.home.predictions / name
        base = (repository.ROUTER / "config.pbtxt").read_text()
        parameters = config.router_parameters(name, SIGNATURE, serving)
        text = config.router_config(base, SIGNATURE, serving, parameters)
        repository.install(self.home, name, repository.router_files(text))

    def load(self) -> None:
        """Load the router, or load it anew."""
        self.server.control.load(self.name)

    def add(self, model: str, factor: float) -> None:
        """A model that is loaded."""
        text = config.model_config(SIGNATURE, "onnxruntime", SETTINGS).replace('"onnxruntime"', '"python"')
        files = {"config.pbtxt": text.encode(), "1/model.py": CODE.encode(), "factor": str(factor).encode()}
        repository.install(self.home, model, {**files, "mode": b"ok", "calls": b""})
        self.server.control.load(model)

    def mode(self, model: str, mode: str) -> None:
        """What it does from now on."""
        (self.home.repository / model / "mode").write_text(mode)

    def calls(self, model: str) -> int:
        """How many requests it has got since it was added, warm-up included."""
        return len((self.home.repository / model / "calls").read_text())

    def route(self, champion: str, challenger: str = "", share: float = 0.0, **fields) -> RoutingTable:
        """Write the routing table."""
        arms = [Arm(CHAMPION, champion, 1 - share)]
        if challenger:
            arms.append(Arm(CHALLENGER, challenger, share))
        table = RoutingTable(self.name, champion, tuple(arms), 1, **fields)
        durable.write_json(self.server.routing(self.name), table.plain())
        return table

    def records(self, kind: str = "") -> list[dict]:
        """What the router has logged, of one kind or all."""
        return [record for record in read_folder(self.log) if kind in ("", record["k"])]

    def metrics(self) -> dict[str, float]:
        """Our own lines of /metrics about this router."""
        state = self.server.state()
        assert state
        text = _opener().open(f"http://127.0.0.1:{state.metrics}/metrics", timeout=5).read().decode()
        lines = [line.rsplit(" ", 1) for line in text.splitlines() if f'project="{self.name}"' in line]
        return {name: float(value) for name, value in lines if name.startswith("dlp_")}

    def stub(self) -> int:
        """The process of the router."""
        mine = f"{self.home.repository}/{self.name}/".encode()
        for path in Path("/proc").glob("[0-9]*"):
            try:
                words = (path / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if words[0].endswith(b"triton_python_backend_stub") and words[1].startswith(mine):
                return int(path.name)
        raise AssertionError(f"no process of {self.name}")


class Client:
    """An unmodified tritonclient over gRPC."""

    def __init__(self, routed: Routed, model: str = ""):
        from tritonclient.grpc import InferenceServerClient

        self._client = InferenceServerClient(routed.server.grpc, channel_args=[("grpc.enable_http_proxy", 0)])
        self._model = model or routed.name

    def __call__(self, rows, request_id: str = "", timeout: float = 10, **parameters) -> np.ndarray:
        """y of some rows."""
        from tritonclient.grpc import InferInput

        x = np.atleast_2d(np.asarray(rows, np.float32))
        tensor = InferInput("x", list(x.shape), "FP32")
        tensor.set_data_from_numpy(x)
        found = self._client.infer(
            self._model, [tensor], request_id=request_id, parameters=parameters or None, client_timeout=timeout
        )
        assert found
        y = found.as_numpy("y")
        assert y is not None
        return y

    def close(self) -> None:
        """Close the connection."""
        self._client.close()


def post(routed: Routed, body: bytes | dict, model: str = "", **headers: str) -> tuple[int, dict]:
    """Any body to the router over plain HTTP: status and JSON."""
    state = routed.server.state()
    assert state
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    url = f"http://127.0.0.1:{state.http}/v2/models/{model or routed.name}/infer"
    request = urllib.request.Request(url, data, {name.replace("_", "-"): value for name, value in headers.items()})
    try:
        with _opener().open(request, timeout=20) as reply:
            return reply.status, json.loads(reply.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read() or b"{}")


def asked(rows, **fields) -> dict:
    """The JSON body of a request."""
    x = np.atleast_2d(np.asarray(rows, np.float32))
    tensor = {"name": "x", "shape": list(x.shape), "datatype": "FP32", "data": x.ravel().tolist()}
    return {"inputs": [tensor], **fields}


def until(holds, seconds: float = 10.0):
    """Wait until `holds()` gives something true, and return that."""
    deadline = time.monotonic() + seconds
    while not (found := holds()):
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.02)
    return found


def _opener():
    return urllib.request.build_opener(urllib.request.ProxyHandler({}))  # the server is on loopback


def texts_of(folder: Path) -> bytes:
    """Every byte of the files under a folder."""
    return b"".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file() and os.access(path, 4))
