"""A model whose code never returns: its clients get an error in time, and it answers again."""

from __future__ import annotations

import signal
import subprocess
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from dl_pipelines.serving import config, repository, stubs
from dl_pipelines.serving.server import running
from dl_pipelines.store.home import Home
from dl_pipelines.wire import records
from tests.serving.echo import stubs_of
from tests.serving.router_code import hanging
from tests.serving.routers import SETTINGS, SIGNATURE, Client, Routed, until

ONE = [1, 2, 3, 4]
POISON = [1e9, 0, 0, 0]
LIMIT = 1.5


def looping() -> bytes:
    """An ONNX model: a row's sum, and twice that; while a number is above a million it goes round for ever."""
    import onnx
    from onnx import TensorProto, helper

    flag, number = TensorProto.BOOL, TensorProto.FLOAT
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["goes_on"]), helper.make_node("Sqrt", ["had"], ["has"])], "round",
        [helper.make_tensor_value_info("turn", TensorProto.INT64, []), helper.make_tensor_value_info("go", flag, []),
         helper.make_tensor_value_info("had", number, [])],
        [helper.make_tensor_value_info("goes_on", flag, []), helper.make_tensor_value_info("has", number, [])],
    )  # fmt: skip
    nodes = [
        helper.make_node("ReduceMax", ["x"], ["most"], keepdims=0),
        helper.make_node("Greater", ["most", "million"], ["begin"]),
        helper.make_node("Loop", ["", "begin", "zero"], ["nothing"], body=body),
        helper.make_node("MatMul", ["x", "weights"], ["rows"]),
        helper.make_node("Add", ["rows", "nothing"], ["y"]),
    ]
    values = {
        "million": np.float32(1e6),
        "zero": np.float32(0),
        "weights": np.stack([np.ones(4), 2 * np.ones(4)], 1).astype(np.float32),
    }
    graph = helper.make_graph(
        nodes, "looping", [helper.make_tensor_value_info("x", number, ["n", 4])],
        [helper.make_tensor_value_info("y", number, ["n", 2])],
        [onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in values.items()],
    )  # fmt: skip
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(made)
    return made.SerializeToString()


@pytest.fixture(scope="module")
def routed(tmp_path_factory):
    """A router with two champions to choose from: `looping`, one of our backends, and `plain`, which has no line."""
    with running(Home(tmp_path_factory.mktemp("hanging") / "home").prepare()) as server:
        routed = Routed(server, "patient")
        path = server.home.repository / "patient" / "config.pbtxt"
        path.write_text(config.with_parameters(path.read_text(), {"limit_seconds": str(LIMIT)}))
        text = config.model_config(SIGNATURE, "onnxruntime", SETTINGS)
        repository.install(server.home, "looping", {"config.pbtxt": text.encode(), "1/model.onnx": looping()})
        server.control.load("looping")
        routed.add("plain", 2)
        routed.route("looping")
        routed.load()
        yield routed


def asked(routed, *given) -> list[tuple[float, str]]:
    """Clients that ask at the same time: seconds that each waited, and what it got."""
    told: list[tuple[float, str]] = [(0.0, "")] * len(given)

    def work(place: int, row: list[float]) -> None:
        mine, started = Client(routed), time.monotonic()
        try:
            found = str(mine(row, f"hanging/{time.time_ns()}").tolist())
        except Exception as error:  # noqa: BLE001 - looked at by the test
            found = str(error)
        told[place] = time.monotonic() - started, found
        mine.close()

    threads = [threading.Thread(target=work, args=(place, row)) for place, row in enumerate(given)]
    for thread in threads:
        thread.start()
        time.sleep(0.1)
    for thread in threads:
        thread.join()
    return told


@pytest.mark.parametrize("model", ["looping", "plain"])
def test_a_model_that_never_returns_is_ended_and_comes_back(routed, model):
    routed.route(model)
    assert asked(routed, ONE)[0][1] == "[[10.0, 20.0]]"
    server, router = routed.server.state().pid, routed.stub()
    if model == "plain":
        routed.mode("plain", "stuck")
    hung, *_ = asked(routed, POISON, ONE, ONE)
    routed.mode("plain", "ok")
    assert f"{model} could not answer: no answer for 1.5 s; its process was ended, to be started again" in hung[1]
    assert LIMIT <= hung[0] < LIMIT + 4
    until(lambda: asked(routed, ONE)[0][1] == "[[10.0, 20.0]]", 30)
    assert (routed.server.state().pid, routed.stub()) == (server, router), "one model, not the others"
    log = routed.server.log.read_text()
    assert f" of {model}, which hangs" in log and f"loads {model} again: a process of it is gone" in log
    (failed,) = [record for record in routed.records(records.FAILED) if "no answer for 1.5 s" in record["fail"]][-1:]
    assert failed["model"] == model


def test_a_challenger_that_never_returns_is_ended_too_and_comes_back(routed):
    routed.route("plain", "looping", 1, revision=3, timeout_ms=200)
    (before,) = stubs_of(routed.server.state().pid, "looping")
    waited, found = asked(routed, POISON)[0]
    assert found == "[[1000000000.0, 2000000000.0]]" and waited < LIMIT, "the champion answered"
    until(lambda: stubs_of(routed.server.state().pid, "looping") not in ([], [before]), 30)
    until(lambda: asked(routed, ONE) and routed.records(records.ANSWERED)[-1]["by"] == "challenger", 30)
    fell_back = [record["fail"] for record in routed.records(records.ANSWERED) if record["by"] != record["arm"]]
    assert "no answer within 200 ms" in fell_back


class Loading:
    """A server whose models `a` and `b` lack a process each; a load of `a` starts one, and never ends."""

    def __init__(self):
        self.loaded, self.given_up = list[str](), threading.Event()
        self.processes: dict[int, str] = {}
        self.looks = 0

    def index(self):
        self.looks += 1
        return {"a": "READY", "b": "READY"}

    def instances(self, model):
        return 1 if model == "a" or "b" not in self.loaded else 0

    def load(self, model):
        if model == "a" and not self.given_up.is_set():
            self.started = subprocess.Popen(["sleep", "30"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            self.processes[self.started.pid] = model
            self.given_up.wait(20)
        if model == "a":
            raise TimeoutError("timed out")
        self.loaded.append(model)


def test_a_load_that_never_ends_holds_no_other_up_and_its_processes_are_ended(tmp_path, monkeypatch):
    control, said, home = Loading(), list[str](), Home(tmp_path / "home").prepare()
    for model in ("a", "b"):
        (home.repository / model).mkdir(parents=True)
    watcher = stubs.Stubs(10, home, control, said.append, patience=9, loads=5)
    monkeypatch.setattr(stubs, "LONG_LOAD_SECONDS", 0.1)
    monkeypatch.setattr(stubs, "EVERY_SECONDS", 0.0)
    monkeypatch.setattr(stubs, "group_of", lambda _: dict.fromkeys(control.processes, "S"))
    monkeypatch.setattr(watcher, "_model", control.processes.get)
    monkeypatch.setattr(watcher, "_of_models", lambda _: {})
    until(lambda: watcher.look(time.monotonic()) or control.loaded == ["b"])
    (pid,) = control.processes
    more = control.looks + 5
    until(lambda: watcher.look(time.monotonic()) or control.looks > more)
    assert said.count("loads a again: a process of it is gone") == 1, "one load at a time"
    assert Path(f"/proc/{pid}").exists()
    control.given_up.set()
    assert control.started.wait() == -signal.SIGKILL
    until(lambda: watcher.failing == {"a": "timed out"})
    assert "could not load a again: timed out" in said


@pytest.fixture
def watched():
    """Models and a watch over them, of 0.15 s; the names of those that were ended."""
    ended: list[str] = []

    def end(model: str) -> bool:
        ended.append(model)
        return model != "elsewhere"

    return hanging.Hanging(0.15, end), ended


def test_it_is_ended_once_and_a_later_call_is_another_matter(watched):
    watch, ended = watched
    begun = watch.begin("m")
    watch.look()
    watch.require_alive("m", begun)
    time.sleep(0.2)
    watch.look()
    watch.look()
    assert ended == ["m"]
    with pytest.raises(hanging.Hung, match=r"no answer for 0\.15 s; its process was ended, to be started again"):
        watch.require_alive("m", begun)
    watch.done("m")
    watch.require_alive("m", watch.begin("m"))
    watch.require_alive("other", begun)


def test_a_slow_one_that_others_queue_at_is_left_alone(watched):
    watch, ended = watched
    watch.begin("m")
    for _ in range(6):
        other = threading.Thread(target=lambda: (watch.begin("m"), watch.done("m")))
        other.start()
        other.join()
        time.sleep(0.05)
        watch.look()
    assert ended == []


def test_time_in_which_all_stood_still_counts_for_nobody(watched, monkeypatch):
    watch, ended = watched
    watch.begin("m")
    clock = time.monotonic
    monkeypatch.setattr(hanging.time, "monotonic", lambda: clock() + 3600)
    watch.look()  # as after a machine's sleep
    assert ended == []
    monkeypatch.setattr(hanging.time, "monotonic", lambda: clock() + 3600.5)
    watch.look()
    assert ended == ["m"]


def test_one_without_a_process_here_is_not_called_ended(watched):
    watch, ended = watched
    begun = watch.begin("elsewhere")
    time.sleep(0.2)
    watch.look()
    assert ended == ["elsewhere"]
    watch.require_alive("elsewhere", begun)
