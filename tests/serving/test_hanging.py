"""A model whose code never returns: its clients get an error in time, and it answers again."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from dl_pipelines.brief.live import Serving
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


def meanwhile(routed, poisoned: threading.Thread) -> list[tuple[float, str]]:
    """What clients get that ask one after the other as long as another one waits."""
    told: list[tuple[float, str]] = []

    def keep_asking() -> None:
        while poisoned.is_alive():
            told.append(asked(routed, ONE)[0])

    others = [threading.Thread(target=keep_asking) for _ in range(6)]
    for other in others:
        other.start()
    for other in others:
        other.join()
    return told


def test_one_process_that_never_returns_is_ended_alone_while_the_models_other_one_answers(routed):
    text = config.model_config(SIGNATURE, "onnxruntime", Serving(max_batch=8, queue_delay_ms=0, instances=2))
    repository.install(routed.home, "pair", {"config.pbtxt": text.encode(), "1/model.onnx": looping()})
    routed.server.control.load("pair")
    routed.mode("plain", "raise")
    routed.route("pair", "plain", 1, revision=4, breaker=10**6)  # other threads ask the champion then
    server, answered = routed.server.state().pid, []
    while not answered:  # all may have come to the one that hangs
        before, seen = set(stubs_of(server, "pair")), len(routed.server.log.read_text())
        assert asked(routed, ONE)[0][1] == "[[10.0, 20.0]]" and len(before) == 2
        hung: list[tuple[float, str]] = []
        poisoned = threading.Thread(target=lambda told=hung: told.extend(asked(routed, POISON)))
        poisoned.start()
        time.sleep(0.3)
        told = meanwhile(routed, poisoned)
        answered = [found for _, found in told if found == "[[10.0, 20.0]]"]
        failed = hung + [one for one in told if one[1] != "[[10.0, 20.0]]"]
        assert all("pair could not answer: no answer for 1.5 s; its process was ended" in found for _, found in failed)
        assert hung[0][0] >= LIMIT and all(waited < LIMIT + 4 for waited, _ in failed)
        until(lambda old=before: not old & (now := set(stubs_of(server, "pair"))) and len(now) == 2, 30)
        ended = re.findall(r"ends process (\d+) of pair, which hangs", routed.server.log.read_text()[seen:])
        assert len(ended) == 1 and int(ended[0]) in before
    routed.mode("plain", "ok")


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


class Watch:
    """A watch of 10 s over models, seconds that pass when they are told to, callers on threads of their own."""

    def __init__(self, clock):
        self.ended: list[tuple[str, int]] = []
        self.clock, self.it = clock, hanging.Hanging(10, self._end)

    def _end(self, model: str, process: int) -> bool:
        self.ended.append((model, process))
        return model != "elsewhere"

    def passes(self, seconds: float, each=lambda: None) -> None:
        """Looked at every second, after what happens in each."""
        for _ in range(int(seconds)):
            self.clock.now += 1
            each()
            self.it.look()

    def caller(self, *whom) -> ThreadPoolExecutor:
        """Asks from now on."""
        thread = ThreadPoolExecutor(1)
        thread.submit(self.it.asks, *whom).result()
        return thread

    def hung(self, caller: ThreadPoolExecutor) -> bool:
        """Whether it is told so."""
        try:
            caller.submit(self.it.require_alive).result()
        except hanging.Hung as error:
            assert str(error) == "no answer for 10 s; its process was ended, to be started again"
            return True
        return False

    def answers(self, *whom) -> None:
        """A call is begun and ended."""
        self.it.asks(*whom)
        self.it.done()


@pytest.fixture
def watch(monkeypatch):
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(hanging, "time", SimpleNamespace(monotonic=lambda: clock.now))
    return Watch(clock)


WHOM = [("m",), ("m", 7)]


@pytest.mark.parametrize("whom", WHOM)
def test_it_is_ended_once_and_a_later_call_is_another_matter(watch, whom):
    waiting = watch.caller(*whom)
    watch.passes(10)
    assert watch.ended == [] and not watch.hung(waiting)
    watch.passes(5)
    assert watch.ended == [(*whom, 0)[:2]] and watch.hung(waiting)
    waiting.submit(watch.it.done).result()
    assert not watch.hung(watch.caller("m")) and not watch.hung(watch.caller("m", 7))


@pytest.mark.parametrize("whom", WHOM)
def test_a_slow_one_that_others_queue_at_is_left_alone(watch, whom):
    watch.caller(*whom)
    watch.passes(40, lambda: watch.answers(*whom))
    assert watch.ended == []


def test_a_process_that_hangs_is_ended_alone_though_others_of_the_model_answer(watch):
    waiting = watch.caller("m", 7)
    watch.passes(5, lambda: watch.answers("m", 8))
    too = watch.caller("m", 7)
    others = [watch.caller("m", 8), watch.caller("m"), watch.caller("other", 7)]
    watch.passes(6, lambda: watch.answers("m", 8))
    assert watch.ended == [("m", 7)]
    assert watch.hung(waiting) and watch.hung(too)
    assert not any(watch.hung(other) for other in others)


def test_a_call_through_triton_waits_as_long_as_any_process_answers(watch):
    waiting = watch.caller("m")
    watch.passes(40, lambda: watch.answers("m", 8))
    assert watch.ended == []
    at_a_line, late = watch.caller("m", 8), watch.caller("m", 9)
    watch.passes(11)
    assert set(watch.ended) >= {("m", 0), ("m", 8)}
    assert watch.hung(waiting) and watch.hung(at_a_line) and watch.hung(late), "all its processes were ended"


def test_who_came_to_a_process_late_waits_for_it_since_then(watch):
    moved = watch.caller("m", 7)
    watch.passes(6)
    moved.submit(watch.it.asks, "m", 8).result()
    watch.passes(10)
    assert watch.ended == []
    watch.passes(1)
    assert watch.ended == [("m", 8)]


def test_what_is_over_is_forgotten(watch):
    for process in range(1, 9):
        watch.answers("m", process)
    waiting = watch.caller("m", 1)
    watch.passes(11)
    assert watch.ended == [("m", 1)] and watch.hung(waiting)
    assert set(watch.it._moved) == {("m", 1)} and set(watch.it._ended) == {("m", 1)}
    waiting.submit(watch.it.done).result()
    watch.passes(11)
    assert not watch.it._moved and not watch.it._ended


def test_time_in_which_all_stood_still_counts_for_nobody(watch):
    watch.caller("m")
    watch.clock.now += 3600  # as in a machine's sleep
    watch.passes(11)
    assert watch.ended == []
    watch.passes(1)
    assert watch.ended == [("m", 0)]


def test_one_without_a_process_here_is_not_called_ended(watch):
    waiting = watch.caller("elsewhere")
    watch.passes(11)
    assert watch.ended == [("elsewhere", 0)]
    assert not watch.hung(waiting)


@pytest.fixture
def siblings(tmp_path, monkeypatch):
    """A function: starts what looks like a process of a model of the repository `tmp_path`, of this server."""
    monkeypatch.setattr(hanging.os, "getppid", os.getpid)
    started: list[subprocess.Popen] = []

    def start(model: str) -> subprocess.Popen:
        code = "import time; time.sleep(60)"
        started.append(subprocess.Popen([sys.executable, "-S", "-c", code, str(tmp_path / model / "1" / "model.py")]))
        return started[-1]

    yield start
    for one in started:
        one.kill()
        one.wait()


def test_only_an_old_process_of_that_model_of_this_server_is_ended(tmp_path, siblings, capfd):
    first, second, other = siblings("m"), siblings("m"), siblings("mm")
    time.sleep(0.1)
    for limit, process in ((60, 0), (60, first.pid), (0, other.pid), (0, os.getpid()), (0, 2**22 + 1)):
        assert not hanging.end_processes(tmp_path, limit, "m", process), (limit, process)
    assert hanging.end_processes(tmp_path, 0, "m", second.pid)
    assert second.wait(10) == -signal.SIGKILL
    assert (first.poll(), other.poll()) == (None, None)
    assert hanging.end_processes(tmp_path, 0, "m")
    assert first.wait(10) == -signal.SIGKILL and other.poll() is None
    told = capfd.readouterr().err
    assert told == "".join(f"router: ends process {one.pid} of m, which hangs\n" for one in (second, first))
