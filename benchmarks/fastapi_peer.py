"""The peer of `serving.fastapi`: a model behind FastAPI and uvicorn, as a team would write it; nothing of ours in it.

Run as `python -m benchmarks.fastapi_peer PORT` with `.venv-bench` on PYTHONPATH. The environment says which model
(PEER_MODEL, `.onnx` for ONNX Runtime, `.xml` for OpenVINO), PEER_WORKERS processes with PEER_THREADS threads each, and
PEER_POOL: 1 to run the model in a pool of threads, else it runs in the event loop. Raw bytes in, raw bytes out.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable

import numpy as np
from fastapi import FastAPI, Request, Response  # pyright: ignore[reportMissingImports]
from starlette.concurrency import run_in_threadpool


def open_model(path: str, threads: int) -> Callable[[np.ndarray], np.ndarray]:
    """The model, for any thread that has its turn."""
    if path.endswith(".onnx"):
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name
        return lambda inputs: session.run(None, {name: inputs})[0]  # pyright: ignore[reportReturnType]
    import openvino as ov

    settings = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "PERFORMANCE_HINT": "LATENCY",
                "ENABLE_CPU_PINNING": False}  # fmt: skip
    request = ov.Core().compile_model(path, "CPU", settings).create_infer_request()

    def run(inputs: np.ndarray) -> np.ndarray:
        request.set_input_tensor(ov.Tensor(inputs, shared_memory=True))
        request.infer(share_outputs=True)
        return request.get_output_tensor(0).data

    return run


def make_app() -> FastAPI:
    """The application; uvicorn calls it in each worker."""
    run = open_model(os.environ["PEER_MODEL"], int(os.environ["PEER_THREADS"]))
    kind, shape = np.dtype(os.environ["PEER_DTYPE"]), [int(size) for size in os.environ["PEER_SHAPE"].split(",")]
    pool, turn, app = os.environ["PEER_POOL"] == "1", threading.Lock(), FastAPI()

    def answer(body: bytearray) -> bytes:
        with turn:
            return run(np.frombuffer(body, kind).reshape(-1, *shape)).tobytes()

    @app.post("/predict")
    async def predict(request: Request) -> Response:
        body = bytearray()  # OpenVINO takes it as it is; `await request.body()` would have to be copied
        async for part in request.stream():
            body += part
        found = await run_in_threadpool(answer, body) if pool else answer(body)
        return Response(found, media_type="application/octet-stream")

    @app.get("/worker")
    async def worker() -> int:
        return os.getpid()

    return app


if __name__ == "__main__":
    import uvicorn

    uvicorn.run(
        "benchmarks.fastapi_peer:make_app", factory=True, host="127.0.0.1", port=int(sys.argv[1]), loop="uvloop",
        http="httptools", workers=int(os.environ["PEER_WORKERS"]), log_level="warning", access_log=False,
        timeout_keep_alive=600,
    )  # fmt: skip
