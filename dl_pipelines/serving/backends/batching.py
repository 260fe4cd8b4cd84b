"""What our two Triton backends share: one run of the model for all requests of a batch, answers cut apart again.

Runs inside Triton's own interpreter: numpy and Triton's utilities only. Copied beside each backend's `model.py`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import triton_python_backend_utils as pb_utils  # pyright: ignore[reportMissingImports]

Run = Callable[[np.ndarray], np.ndarray]
"""[N, ...] -> [N, ...]: one call of the runtime."""


class Settings:
    """What `initialize` is told: the model file, the names and types of the tensors, the parameters."""

    def __init__(self, args: dict, default_file: str):
        config = json.loads(args["model_config"])
        name = config.get("default_model_filename") or default_file
        self.file = Path(args["model_repository"]) / args["model_version"] / name
        self.parameters = {key: value["string_value"] for key, value in config.get("parameters", {}).items()}
        (self.input,) = [tensor["name"] for tensor in config["input"]]
        (output,) = config["output"]
        self.output = output["name"]
        self.dtype = pb_utils.triton_string_to_numpy(output["data_type"])
        self._warmups = config.get("model_warmup", [])

    def threads(self, key: str) -> int:
        """CPU threads by the name that the official backend has for them; 1 when not given."""
        return int(self.parameters.get(key, "1"))

    def warm_up(self, run: Run) -> None:
        """Run zeros as the config's own warm-ups will, so that a model that fails at them is refused here.

        Triton 2.51 often ends with all of its models (SIGSEGV) when a warm-up of its own fails. Raises what `run` does.
        """
        for sample in self._warmups:
            given = sample["inputs"][self.input]
            shape = [int(sample["batch_size"]), *map(int, given["dims"])]
            run(np.zeros(shape, pb_utils.triton_string_to_numpy(given["data_type"])))


def answer(requests: list, settings: Settings, run: Run) -> list:
    """One response a request, in order. A failed run is an error of every request that was in it."""
    arrays = [pb_utils.get_input_tensor_by_name(request, settings.input).as_numpy() for request in requests]
    try:
        outputs = run(arrays[0] if len(arrays) == 1 else np.concatenate(arrays))
    except Exception as error:  # noqa: BLE001 - the runtimes' own error types are not public; the client is told
        failure = pb_utils.TritonError(f"the model failed on {len(arrays)} requests: {type(error).__name__}: {error}")
        return [pb_utils.InferenceResponse(error=failure) for _ in requests]
    outputs = np.ascontiguousarray(outputs, dtype=settings.dtype)
    if len(arrays) == 1:
        return [pb_utils.InferenceResponse([pb_utils.Tensor(settings.output, outputs)])]
    ends = np.cumsum([len(array) for array in arrays])
    return [
        pb_utils.InferenceResponse([pb_utils.Tensor(settings.output, outputs[end - len(array) : end])])
        for end, array in zip(ends, arrays, strict=True)
    ]
