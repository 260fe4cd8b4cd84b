"""The router: sends each request to the model that the routing table names, logs the answer, then gives it.

Runs inside Triton's own interpreter, which can't import the library: what they share is `wire/`, copied beside it.
An answer is given only after its log record was written; when the log can't be written the client gets that error.
"""

from __future__ import annotations

import json
import math
import sys
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import numpy as np
import triton_python_backend_utils as pb_utils
from wire.log_format import LogError, LogWriter
from wire.routing import RoutingError, Watched
from wire.summaries import BATCHES


class Asked:
    """One request while it is answered: its rows, its arm, and at last its outputs or its error."""

    def __init__(self, request, input_name: str):
        self.id = request.request_id() or f"unnamed/{uuid.uuid4().hex}"
        self.inputs = pb_utils.get_input_tensor_by_name(request, input_name).as_numpy()
        self.arm = None
        self.outputs: np.ndarray | None = None
        self.error = ""


class TritonPythonModel:
    """One router; one instance, so that requests of a batch go to the model together."""

    def initialize(self, args: dict) -> None:
        """Open a log file of this process's own; places are relative to the model, so that a home can be moved."""
        folder = Path(args["model_repository"])
        config = json.loads(args["model_config"])
        parameters = {key: value["string_value"] for key, value in config["parameters"].items()}
        self.input, self.output = config["input"][0]["name"], config["output"][0]["name"]
        self.rows = max(1, int(config["max_batch_size"]))
        self.summarize = BATCHES[parameters["summary"]]
        self.pool = ThreadPoolExecutor(4)
        self.routing = Watched((folder / parameters["routing"]).resolve())
        self.log = LogWriter((folder / parameters["log_folder"]).resolve(), parameters["durability"])

    def execute(self, requests: list) -> list:
        """Answer every request: route, ask the models, log, respond."""
        at, started = time.time(), time.perf_counter()
        asked = [Asked(request, self.input) for request in requests]
        try:
            table = self.routing.table()
            groups: dict[str, list[Asked]] = {}
            for one in asked:
                one.arm = table.arm(one.id)
                groups.setdefault(one.arm.model, []).append(one)
            list((self.pool.map if len(groups) > 1 else map)(self._ask, groups, groups.values()))
            self._write([one for one in asked if one.outputs is not None], at, started)
        except (RoutingError, LogError) as error:
            for one in asked:
                one.outputs, one.error = None, str(error)
        return [self._response(one) for one in asked]

    def _ask(self, model: str, group: list[Asked]) -> None:
        inputs = group[0].inputs if len(group) == 1 else np.concatenate([one.inputs for one in group])
        request = pb_utils.InferenceRequest(
            model_name=model,
            requested_output_names=[self.output],
            inputs=[pb_utils.Tensor(self.input, inputs)],
        )
        response = request.exec()
        if response.has_error():
            for one in group:
                one.error = f"{model} could not answer: {response.error().message()}"
            return
        outputs = pb_utils.get_output_tensor_by_name(response, self.output).as_numpy()
        start = 0
        for one in group:
            one.outputs = outputs[start : start + len(one.inputs)]
            start += len(one.inputs)

    def _write(self, answered: list[Asked], at: float, started: float) -> None:
        if not answered:
            return
        summaries = self.summarize(np.concatenate([one.inputs for one in answered]))
        summaries = {name: values.tolist() for name, values in summaries.items()}
        milliseconds = round(1000 * (time.perf_counter() - started), 4)
        records, row = [], 0
        for one in answered:
            flat = one.outputs.reshape(len(one.outputs), -1).astype(np.float64).tolist()
            for place, values in enumerate(flat):
                records.append(
                    {
                        "id": one.id if len(flat) == 1 else f"{one.id}#{place}",
                        "at": round(at, 6),
                        "model": one.arm.model,
                        "arm": one.arm.name,
                        "ms": milliseconds,
                        "out": [value if math.isfinite(value) else None for value in values],
                        "sum": {
                            name: round(column[row], 6) if math.isfinite(column[row]) else None
                            for name, column in summaries.items()
                        },
                    }
                )
                row += 1
        self.log.append(records)

    def _response(self, one: Asked):
        if one.outputs is None:
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(one.error))
        return pb_utils.InferenceResponse([pb_utils.Tensor(self.output, np.ascontiguousarray(one.outputs))])

    def finalize(self) -> None:
        """Close the log."""
        self.log.close()
