"""A Python-based Triton backend `openvino`: serves `model.xml` where Triton has no C++ backend for it.

The parameters have the official backend's names, so that one `config.pbtxt` loads in both.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.modules.setdefault("openvino_telemetry", None)  # pyright: ignore[reportArgumentType] - it reports to its makers

import numpy as np  # noqa: E402
import openvino as ov  # noqa: E402
from batching import Settings, answer  # noqa: E402  # pyright: ignore[reportMissingImports]
from line import Line  # noqa: E402  # pyright: ignore[reportMissingImports]

SMALL_BYTES = 2**16
"""An input up to here is copied into a tensor that stays: that takes less than making the runtime a new one."""
NOWHERE = np.empty(0, np.uint8)


class TritonPythonModel:
    """One instance of one model."""

    def initialize(self, args: dict) -> None:
        """Load the model with the same settings under which compression chose it, and try it."""
        self.settings = Settings(args, "model.xml")
        settings = {
            "INFERENCE_NUM_THREADS": self.settings.threads("INFERENCE_NUM_THREADS"),
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
            "EXECUTION_MODE_HINT": "ACCURACY",
            "INFERENCE_PRECISION_HINT": self.settings.parameters.get("INFERENCE_PRECISION_HINT", "f32"),
            "ENABLE_CPU_PINNING": False,
        }
        self.request = ov.Core().compile_model(str(self.settings.file), "CPU", settings).create_infer_request()
        self.place = NOWHERE
        self.settings.warm_up(self._run)
        self.line = Line(args["model_name"], self._run, self.settings.dtype)

    def _run(self, inputs: np.ndarray) -> np.ndarray:
        if inputs.nbytes > SMALL_BYTES:
            self.place = NOWHERE
            shared = np.require(inputs, requirements=("C", "W"))
            self.request.set_input_tensor(ov.Tensor(shared, shared_memory=True))
        else:
            if inputs.shape != self.place.shape:
                self.place = np.empty(inputs.shape, inputs.dtype)
                self.request.set_input_tensor(ov.Tensor(self.place, shared_memory=True))
            self.place[...] = inputs
        self.request.infer(share_outputs=True)
        return self.request.get_output_tensor(0).data.copy()

    def execute(self, requests: list) -> list:
        """Answer all requests by one run."""
        return answer(requests, self.settings, self.line.run)

    def finalize(self) -> None:
        """Free the model."""
        self.line.close()
        del self.request
