"""The router: sends each request to the model that the routing table names, logs the answer, then gives it.

Runs inside Triton's own interpreter, which can't import the library: what they share is `wire/`, copied beside it.
Here is what touches Triton; how a request gets its answer is in answering.py.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import gc
import json
import sys
import time
import uuid
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import numpy as np
import triton_python_backend_utils as pb_utils
from answering import Answering
from asked import INVALID, Answer, Asked, Content, ModelError
from breaker import Breaker
from checks import parameters_of, refusal, require_id, require_rows, require_shape, unit_of
from counters import Counters, Publisher
from hanging import Hanging, end_processes
from journal import Journal
from lines import Lines
from wire.routing import RoutingError, Watched
from wire.summaries import BATCHES

SWITCH_S = 0.0005
"""After so long another thread gets its turn: a challenger's answer does not wait for the champion's to be logged."""


class Reply:
    """The answer to one request of Triton's: returned with its batch, or sent later when it was detached."""

    __slots__ = ("_given", "_output", "_request", "_sender", "detached", "response")

    def __init__(self, request, output: str):
        self._request, self._output = request, output
        self._sender = self.response = None
        self.detached = self._given = False

    def detach(self) -> None:
        """It will be sent by another thread, after `execute` returned."""
        if not self.detached:
            self._sender, self.detached = self._request.get_response_sender(), True

    def give(self, asked: Asked) -> None:
        """Give outputs or error, unless something was given before."""
        if self._given:
            return
        self._given = True
        if asked.outputs is None:
            response = _error(asked.error, asked.code)
        else:
            outputs, tensor = asked.answer or (None, None)
            if asked.outputs is not outputs:
                tensor = pb_utils.Tensor(self._output, np.ascontiguousarray(asked.outputs))
            response = pb_utils.InferenceResponse([tensor])
        if self._sender is None:
            self.response = response
        else:
            self._sender.send(response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    def refuse(self, why: str) -> None:
        """It could not be read: no model is asked, nothing else is given."""
        self._given, self.response = True, _error(why, INVALID)


def _error(text: str, code: str):
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(text, getattr(pb_utils.TritonError, code)))


class TritonPythonModel:
    """One router; one instance, so that requests of a batch go to the model together and one breaker counts them."""

    def initialize(self, args: dict) -> None:
        """Places are relative to the model, so that a home can be moved."""
        sys.setswitchinterval(SWITCH_S)
        folder, config = Path(args["model_repository"]), json.loads(args["model_config"])
        given = {key: value["string_value"] for key, value in config["parameters"].items()}
        (tensor,), (output,) = config["input"], config["output"]
        self.input, self.output = tensor["name"], output["name"]
        self.dims = [int(size) for size in tensor["dims"]]
        self.spread = "reshape" in tensor  # the router sees [rows, 1, ...], so that a request of 0 rows counts as 1
        # A table of times has gaps: what is missing is not finite, and the task's own models know that.
        self.finite = given.get("finite", "no" if given["summary"] == "series" else "yes") == "yes"
        routing = (folder / given["routing"]).resolve()
        journal = Journal(
            (folder / given["log_folder"]).resolve(), given["durability"], int(given.get("segment_bytes", 2**24))
        )
        columns = json.loads(given.get("columns", "[]"))
        self.content = Content(BATCHES[given["summary"]], float(given.get("sample", "1")), columns)
        self.counters, self.journal = Counters(args["model_name"]), journal
        limit = float(given.get("limit_seconds", "inf"))
        self.hanging = Hanging(limit, functools.partial(end_processes, folder.parent, limit))
        self.lines = Lines(self.hanging.asks)
        self.routing = Watched(routing).table
        dtype = np.dtype(pb_utils.triton_string_to_numpy(output["data_type"]))
        self.answering = Answering(
            self._ask, self.routing, journal, self.content, Breaker(routing.with_suffix(".breaker")),
            self.counters, [int(size) for size in output["dims"]], dtype,
        )  # fmt: skip
        self.publisher = Publisher(self.counters, Family, self._tick)
        gc.freeze()  # what stays for ever is not looked through again and again

    def execute(self, requests: list) -> list:
        """Answer every request; None for those that a challenger has to answer."""
        at, started = time.time(), time.perf_counter()
        replies, asked = [], []
        for request in requests:
            replies.append(Reply(request, self.output))
            if one := self._read(request, replies[-1], at, started):
                asked.append(one)
        self.answering.take(asked)
        return [reply.response for reply in replies]

    def _read(self, request, reply: Reply, at: float, started: float) -> Asked | None:
        """A request as the router knows it; None for one that no model may see: it has got its error."""
        try:
            given = request.request_id()
            (tensor,) = request.inputs()
            inputs = tensor.as_numpy()
            if self.spread:  # of 0 rows there is no such dimension
                inputs = inputs[:, 0] if inputs.ndim == len(self.dims) + 2 else inputs[0]
            one = Asked(given or f"unnamed/{uuid.uuid4().hex}", "", inputs, tensor, {}, at, started, reply)
            require_shape(self.input, one.inputs, self.dims)
            require_id(one.id, one.rows)
            require_rows(self.input, one.inputs, self.finite)
            one.parameters = parameters_of(request.parameters())
            one.unit = unit_of(one.parameters, one.id)
        except Exception as error:  # noqa: BLE001 - the others of its batch have nothing to do with it
            self.counters.request("", "refused")
            reply.refuse(refusal(error))
            return None
        return one

    def _ask(self, model: str, group: Sequence[Asked]) -> Answer:
        inputs = group[0].inputs if len(group) == 1 else np.concatenate([one.inputs for one in group])
        self.hanging.asks(model)
        try:
            answer = self.lines.ask(model, inputs, functools.partial(self.content.begin, group))
            if answer is None:
                self.hanging.require_alive()
                self.hanging.asks(model)
                answer = self._through_triton(model, group, inputs)
        except Exception:
            self.hanging.require_alive()
            raise
        finally:
            self.hanging.done()
        return answer

    def _through_triton(self, model: str, group: Sequence[Asked], inputs: np.ndarray) -> Answer:
        handed_on = len(group) == 1 and not self.spread
        tensor = group[0].tensor if handed_on else pb_utils.Tensor(self.input, inputs)
        started = time.perf_counter()
        response = pb_utils.InferenceRequest(
            model_name=model, requested_output_names=[self.output], inputs=[tensor]
        ).exec()
        seconds = time.perf_counter() - started
        if response.has_error():
            raise ModelError(response.error().message())
        tensor = pb_utils.get_output_tensor_by_name(response, self.output)
        if tensor is None:
            raise ModelError(f"found no output {self.output}; expected one")
        outputs = tensor.as_numpy()
        if len(group) > 1:
            return Answer(np.array(outputs), seconds)  # a copy: the memory goes with the response
        group[0].answer = outputs, tensor  # handed on as it is
        return Answer(outputs, seconds)

    def _tick(self) -> None:
        self.hanging.look()
        self.answering.tick()
        with contextlib.suppress(RoutingError):
            self.lines.keep(self.routing().models)

    def finalize(self) -> None:
        """End the threads, close the log."""
        self.answering.close()
        self.publisher.close()
        self.lines.keep(())
        self.journal.close()


class Family:
    """A family of metrics that outlives this router, as its metrics do.

    A router that is loaded anew has metrics of the same names and labels, and the server keeps one count for both: were
    the old one's taken back it would free what the new one counts in, and end soon after.
    """

    def __init__(self, name: str, text: str, gauge: bool):
        kind = pb_utils.MetricFamily.GAUGE if gauge else pb_utils.MetricFamily.COUNTER
        self._family = _for_ever(pb_utils.MetricFamily(name=name, description=text, kind=kind))

    def metric(self, labels: dict[str, str]):
        """The metric of some labels; counting goes on where a router before left off."""
        return _for_ever(self._family.Metric(labels=labels))


def _for_ever(thing):
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))  # its destructor, which takes it back, is never called
    return thing
