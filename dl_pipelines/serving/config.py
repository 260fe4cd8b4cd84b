"""`config.pbtxt` of a served model and of its router, made from Triton's own protobuf messages, never from strings.

The same file loads in the embedded server (our Python-based backends) and in the official container (its C++ ones).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from dl_pipelines.brief.live import Serving
from dl_pipelines.inference.runtimes import PRECISION_HINTS
from dl_pipelines.store import durable
from dl_pipelines.tasks.base import Signature, Tensor

if TYPE_CHECKING:
    import numpy as np

Config = Any
"""A `ModelConfig` message; protobuf's generated classes have no types."""

LABELS = "labels.txt"
HUNG_TIMES, HUNG_SECONDS = 5, 5.0
"""A model hangs that ends no call for so many times serving.timeout_ms, and so many seconds."""


def write_labels(signature: Signature, folder: Path) -> None:
    """The model's labels into `folder`, one a line in their order; nothing where it has none."""
    if signature.labels:
        durable.put_text(folder / LABELS, "\n".join(signature.labels) + "\n")


def model_config(signature: Signature, runtime: str, serving: Serving, precision: str = "fp32") -> str:
    """Of a model: batching without a delay (the router has waited already), warm-up with one row and a full batch.

    `precision` is the one that compression chose it in (`choice.json`).
    """
    config = _messages().ModelConfig(backend=runtime, max_batch_size=serving.max_batch)
    _tensors(config, signature)
    if signature.labels:
        config.output[0].label_filename = LABELS
    config.dynamic_batching.max_queue_delay_microseconds = 0
    config.instance_group.append(
        _messages().ModelInstanceGroup(count=serving.instances, kind=_messages().ModelInstanceGroup.KIND_CPU)
    )
    _parameters(config, runtime_parameters(runtime, serving.threads, precision))
    for rows in sorted({1, serving.max_batch}):
        warmup = _messages().ModelWarmup(name=f"rows_{rows}", batch_size=rows)
        for tensor in config.input:
            given = warmup.inputs[tensor.name]
            given.data_type, given.zero_data = tensor.data_type, True
            given.dims.extend(abs(size) for size in tensor.dims)
        config.model_warmup.append(warmup)
    return _text(config)


def router_config(base: str, signature: Signature, serving: Serving, parameters: Mapping[str, str]) -> str:
    """Of a router: `base` (the hand-written part) with the task's tensors, the queue and the router's parameters.

    What the router sees of its input has a first dimension of 1: Triton's Python backend counts a request that says 0
    rows by what comes next in its shape, and fails all of a batch that seems too large. So it counts 1, as the batcher
    did.

    No queue policy with a timeout: with one, this server's batcher sleeps for half a second now and then (a third of
    the throughput at four clients). Deadlines are the clients'.
    """
    from google.protobuf import text_format

    config = text_format.Parse(base, _messages().ModelConfig())
    config.max_batch_size = serving.max_batch
    _tensors(config, signature)
    for tensor in config.input:
        if tensor.dims[0] != 1:
            tensor.reshape.shape.extend([1, *tensor.dims])
    config.dynamic_batching.max_queue_delay_microseconds = round(serving.queue_delay_ms * 1000)
    _parameters(config, parameters)
    return _text(config)


def router_parameters(project: str, signature: Signature, serving: Serving) -> dict[str, str]:
    """What a project's router is told of the brief. Places are relative to its folder, so that a home can be moved.

    `finite`: inputs with NaN or infinity are refused, except in tables of times, where what is missing is NaN.
    """
    return {
        "summary": signature.summary,
        "finite": "no" if signature.summary == "series" else "yes",
        "limit_seconds": f"{max(HUNG_SECONDS, HUNG_TIMES * serving.timeout_ms / 1000):g}",
        "durability": serving.durability,
        "sample": f"{serving.log.sample!r}",
        "columns": json.dumps(list(serving.log.columns)),
        "segment_bytes": str(round(serving.log.segment_mb * 2**20)),
        "routing": f"../../server/routing/{project}.json",
        "log_folder": f"../../predictions/{project}",
    }


def with_parameters(text: str, parameters: Mapping[str, str]) -> str:
    """A config with some parameters replaced."""
    from google.protobuf import text_format

    config = text_format.Parse(text, _messages().ModelConfig())
    _parameters(config, parameters)
    return _text(config)


def ends(text: str) -> dict[str, list[str]]:
    """Inputs and outputs of a config, each as `name dtype [shape]`: what two models must share to be compared."""
    from google.protobuf import text_format

    config = text_format.Parse(text, _messages().ModelConfig())
    kind = _messages().DataType.Name

    def told(tensors: Config) -> list[str]:
        return [f"{item.name} {kind(item.data_type).removeprefix('TYPE_')} {list(item.dims)}" for item in tensors]

    return {"inputs": told(config.input), "outputs": told(config.output)}


def runtime_parameters(runtime: str, threads: int, precision: str = "fp32") -> dict[str, str]:
    """Threads in the words of the official backends, which ours understand too, and what to compute in.

    Of a precision the official OpenVINO backend knows a hint for bfloat16; ours is told by OpenVINO's own property.
    """
    if runtime == "onnxruntime":
        return {"intra_op_thread_count": str(threads), "inter_op_thread_count": "1"}
    if runtime == "openvino":
        # The batch is free in the graph; the official backend must not try to set it.
        threaded = {"INFERENCE_NUM_THREADS": str(threads), "NUM_STREAMS": "1", "SKIP_OV_DYNAMIC_BATCHSIZE": "YES"}
        hint = {"INFERENCE_PRECISION_HINT": PRECISION_HINTS[precision]} if precision in PRECISION_HINTS else {}
        return threaded | hint | ({"HINT_BF16": "YES"} if precision == "bf16" else {})
    raise ValueError(f"found the runtime {runtime!r}; expected onnxruntime or openvino")


def triton_type(dtype: str | np.dtype) -> str:
    """Triton's name of a numpy dtype, as requests say it (`UINT8`). Raises ValueError."""
    import numpy as np
    from tritonclient.utils import np_to_triton_dtype

    name = np_to_triton_dtype(np.dtype(dtype))
    if name is None:
        raise ValueError(f"found the dtype {dtype!r} in a signature; expected one that Triton has")
    return name


def _messages() -> ModuleType:
    from tritonclient.grpc import model_config_pb2

    return model_config_pb2


def _tensors(config: Config, signature: Signature) -> None:

    def kind(tensor: Tensor):
        return _messages().DataType.Value(f"TYPE_{triton_type(tensor.dtype)}")

    for tensor in signature.inputs:
        config.input.append(_messages().ModelInput(name=tensor.name, data_type=kind(tensor), dims=tensor.shape))
    for tensor in signature.outputs:
        config.output.append(_messages().ModelOutput(name=tensor.name, data_type=kind(tensor), dims=tensor.shape))


def _parameters(config: Config, values: Mapping[str, str]) -> None:
    for key, value in values.items():
        config.parameters[key].string_value = value


def _text(config: Config) -> str:
    from google.protobuf import text_format

    return text_format.MessageToString(config)
