"""Predictions over gRPC, through the router or from one model. What was answered is noted as acknowledged."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dl_pipelines.serving.message import METHOD, Message, outputs_of
from dl_pipelines.serving.process import TritonError
from dl_pipelines.store.home import Home
from dl_pipelines.store.workspace import Workspace
from dl_pipelines.tasks.base import Signature, Task
from dl_pipelines.wire.log_format import LogWriter

if TYPE_CHECKING:
    import numpy as np
    from tritonclient.grpc import InferenceServerClient

THREADS = 4
PATIENCE_MS = 30_000.0


class PredictError(ValueError):
    """A request was refused or not answered; says how many and why."""


CHANNEL = (
    ("grpc.enable_http_proxy", 0),
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.use_local_subchannel_pool", 1),
)
"""A connection of its own; never through a proxy: the server is on loopback."""


def open_client(address: str) -> InferenceServerClient:
    """A gRPC client of its own connection."""
    from tritonclient.grpc import InferenceServerClient

    return InferenceServerClient(address, channel_args=list(CHANNEL))


class Caller:
    """Calls one model: `inputs` [N, ...] in, [N, ...] out; all for one `unit`, if given. One thread at a time."""

    def __init__(
        self, address: str, model: str, given: str, gives: str, timeout_ms: float = PATIENCE_MS, unit: str = ""
    ):
        import grpc

        self._channel, self._message = grpc.insecure_channel(address, CHANNEL), Message(model, given, gives, unit)
        self._infer, self._timeout = self._channel.unary_unary(METHOD), timeout_ms / 1000

    @classmethod
    def of(
        cls, address: str, model: str, signature: Signature, timeout_ms: float = PATIENCE_MS, unit: str = ""
    ) -> Caller:
        """A caller of a model with this signature; a request without an answer after `timeout_ms` fails."""
        return cls(address, model, signature.inputs[0].name, signature.outputs[0].name, timeout_ms, unit)

    def __call__(self, inputs: np.ndarray, request_id: str = "") -> np.ndarray:
        """Raises tritonclient's InferenceServerException."""
        import grpc

        try:
            reply = self._infer(self._message.of(inputs, request_id), timeout=self._timeout)
        except grpc.RpcError as error:
            raise _refused(error) from error
        return outputs_of(reply)

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()


def _refused(error: Any) -> Exception:
    """An error of gRPC as tritonclient's own client raises it."""
    from tritonclient.utils import InferenceServerException

    return InferenceServerException(error.details(), str(error.code()), error.debug_error_string())


def check_inputs(task: Task, inputs: np.ndarray) -> None:
    """Raises PredictError unless `inputs` are rows as the task's signature says."""
    (given,) = task.signature().inputs
    fits = inputs.ndim == len(given.shape) + 1 and all(
        wanted in (-1, found) for wanted, found in zip(given.shape, inputs.shape[1:], strict=True)
    )
    if not fits or str(inputs.dtype) != given.dtype:
        raise PredictError(
            f"found inputs of {inputs.dtype} {list(inputs.shape)}; expected {given.dtype} [N, "
            f"{', '.join(map(str, given.shape))}] ({given.name})"
        )


def batched(call: Caller, inputs: np.ndarray, batch: int) -> np.ndarray:
    """Outputs [N, ...] of a model for [N, ...], N > 0, `batch` rows a request; closes the caller."""
    import numpy as np

    try:
        return np.concatenate([call(inputs[at : at + batch]) for at in range(0, len(inputs), batch)])
    finally:
        call.close()


def predict(workspace: Workspace, task: Task, inputs: np.ndarray, request_ids: Sequence[str]) -> np.ndarray:
    """Ask the router for each row of `inputs` [N, ...] under its id; the answers [N, ...], in order.

    A server that died is started again; rows without an answer in time (serving.timeout_ms) are asked once more.
    Raises PredictError, NoChampion, TritonError.
    """
    import numpy as np

    from dl_pipelines.serving.champion import artifact_of
    from dl_pipelines.serving.repair import ensure_served, serving

    check_inputs(task, inputs)
    if len(inputs) != len(request_ids) or not all(request_ids):
        raise PredictError(f"found {len(request_ids)} request ids for {len(inputs)} rows; expected one for each")
    answers: dict[int, np.ndarray] = {}
    failures: dict[int, str] = {}
    with serving(workspace) as server:
        timeout_ms = float(artifact_of(workspace).read_json("model.json")["timeout_ms"])
        for attempt in range(2):
            if attempt:
                ensure_served(workspace, server)
            left = [row for row in range(len(inputs)) if row not in answers]
            try:
                call = functools.partial(Caller.of, server.grpc, workspace.project, task.signature(), timeout_ms)
            except TritonError as error:  # it died after it was found
                failures = dict.fromkeys(left, str(error))
                continue
            failures = _ask(call, inputs, request_ids, left, answers)
            if not failures:
                break
    acknowledge(workspace.home, workspace.project, [request_ids[row] for row in sorted(answers)])
    if failures:
        raise PredictError(
            f"found {len(failures)} of {len(inputs)} requests without an answer ({next(iter(failures.values()))}); "
            "expected an answer to each; look at server/server.log in the home"
        )
    outputs = [answers[row] for row in range(len(inputs))]
    return np.stack(outputs) if outputs else np.zeros((0, *task.signature().outputs[0].shape), np.float32)


def _ask(
    make: Callable[[], Caller], inputs: np.ndarray, ids: Sequence[str], rows: list[int], answers: dict[int, np.ndarray]
) -> dict[int, str]:
    """Ask for these rows by a few threads; fills `answers`, returns the reason of each row that failed."""
    from tritonclient.utils import InferenceServerException

    failures: dict[int, str] = {}

    def work(mine: list[int]) -> None:
        call = make()
        try:
            for row in mine:
                try:
                    answers[row] = call(inputs[row : row + 1], ids[row])[0]
                except InferenceServerException as error:
                    failures[row] = f"{ids[row]}: {error.message()}"
        finally:
            call.close()

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(work, [rows[start::THREADS] for start in range(min(THREADS, len(rows)))]))
    return failures


def acknowledged_folder(home: Home, project: str) -> Path:
    """Where clients of this home note which requests were answered, apart from the router's log."""
    return home.predictions / project / "acknowledged"


def acknowledge(home: Home, project: str, ids: list[str]) -> None:
    """Note that these requests were answered. Raises LogError."""
    if ids:
        writer = LogWriter(acknowledged_folder(home, project))
        writer.append({"id": name} for name in ids)
        writer.close()
