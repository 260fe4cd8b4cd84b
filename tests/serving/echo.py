"""A home whose server has something to load in no time: a project `echo` of a router and two models that only copy."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

from dl_pipelines.serving.control import Control
from dl_pipelines.serving.process import birth
from dl_pipelines.serving.server import TritonServer
from dl_pipelines.serving.stubs import group_of
from dl_pipelines.store import durable
from dl_pipelines.store.home import Home
from dl_pipelines.wire.routing import Arm, RoutingTable

MODELS = ("echo", "echo__champion", "echo__challenger")
CODE = """
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        given = [pb_utils.get_input_tensor_by_name(request, "in").as_numpy() for request in requests]
        return [pb_utils.InferenceResponse([pb_utils.Tensor("out", values)]) for values in given]
"""
CONFIG = """
backend: "python"
input { name: "in" data_type: TYPE_FP32 dims: [1] }
output { name: "out" data_type: TYPE_FP32 dims: [1] }
instance_group { count: 1 kind: KIND_CPU }
"""


def echo_home(root: Path) -> Home:
    """Its repository and its routing table; nothing runs yet."""
    home = Home(root).prepare()
    for model in MODELS:
        durable.write_text(home.repository / model / "config.pbtxt", CONFIG)
        durable.write_text(home.repository / model / "1" / "model.py", CODE)
    arms = (Arm("champion", MODELS[1], 1.0), Arm("challenger", MODELS[2], 1.0))
    table = RoutingTable("echo", MODELS[1], arms, 1)
    durable.write_json(TritonServer(home).routing("echo"), table.plain())
    return home


def answers(port: int, model: str = "echo", timeout: float = 3) -> bool:
    """Whether a model of the server at this HTTP port answers."""
    body = {"inputs": [{"name": "in", "datatype": "FP32", "shape": [1], "data": [1.5]}]}
    try:
        status, reply = Control(port)._ask("POST", f"/v2/models/{model}/infer", body, timeout)
    except OSError:
        return False
    return status == 200 and b"1.5" in reply


def until(condition: Callable[[], object], seconds: float = 60) -> float:
    """Waits for it; returns how long that took. Raises AssertionError."""
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < seconds, f"not within {seconds} s"
        time.sleep(0.02)
    return time.monotonic() - started


def finish(home: Home) -> None:
    """End what runs, at once: a server takes a second for each of its models."""
    server = TritonServer(home)
    last = server.last()
    if last and birth(last.guardian) == last.guardian_born:
        os.kill(last.guardian, signal.SIGKILL)
    if last and birth(last.pid) == last.born:
        os.killpg(last.pid, signal.SIGKILL)
    server.stop()


def stubs_of(server: int, model: str) -> list[int]:
    """The backends' processes of a model."""
    mine, found = f"/{model}/".encode(), list[int]()
    for pid in group_of(server):
        with contextlib.suppress(OSError):  # it has just ended
            if mine in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(pid)
    return found
