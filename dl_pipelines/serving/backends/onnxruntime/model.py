"""A Python-based Triton backend `onnxruntime`: serves `model.onnx` where Triton has no C++ backend for it.

The parameters have the official backend's names, so that one `config.pbtxt` loads in both.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import numpy as np
import onnxruntime as ort
from batching import Settings, answer  # pyright: ignore[reportMissingImports]
from line import Line  # pyright: ignore[reportMissingImports]


class TritonPythonModel:
    """One instance of one model."""

    def initialize(self, args: dict) -> None:
        """Load the model, one thread an operator unless the parameters say more, and try it."""
        self.settings = Settings(args, "model.onnx")
        options = ort.SessionOptions()
        options.intra_op_num_threads = self.settings.threads("intra_op_thread_count")
        options.inter_op_num_threads = 1
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        options.use_deterministic_compute = True
        options.log_severity_level = 3
        # Idle threads must not spin: on a shared machine they take the router's core.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.session = ort.InferenceSession(str(self.settings.file), options, providers=["CPUExecutionProvider"])
        self.settings.warm_up(self._run)
        self.line = Line(args["model_name"], self._run, self.settings.dtype)

    def _run(self, inputs: np.ndarray) -> np.ndarray:
        (outputs,) = self.session.run([self.settings.output], {self.settings.input: inputs})
        return np.asarray(outputs)

    def execute(self, requests: list) -> list:
        """Answer all requests by one run."""
        return answer(requests, self.settings, self.line.run)

    def finalize(self) -> None:
        """Free the model."""
        self.line.close()
        del self.session
