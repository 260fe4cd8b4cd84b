"""The router asks our backends past Triton, with a real server: who has no line, or whose process ended, through it."""

import contextlib
import json
import os
import signal
import threading
import urllib.request
import uuid
from pathlib import Path

import numpy as np
import pytest
from tritonclient.utils import InferenceServerException

from benchmarks.serving_home import Published, direct, served
from benchmarks.serving_models import tiny
from dl_pipelines.brief.live import Serving
from dl_pipelines.serving.client import Caller
from dl_pipelines.serving.stubs import group_of
from dl_pipelines.wire.channel import Channel, Died, Gone, Listener
from tests.serving.router_code import lines
from tests.serving.routers import until

RUNTIMES = {"openvino": 1, "onnxruntime": 2}
"""With how many processes."""


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    return tiny(tmp_path_factory.mktemp("network"))


@pytest.fixture(scope="module")
def server(tmp_path_factory, network):
    projects = {
        runtime: Published(network, Serving(max_batch=4, instances=instances), runtime)
        for runtime, instances in RUNTIMES.items()
    }
    with served(tmp_path_factory.mktemp("served"), projects) as server:
        yield server


@pytest.fixture
def asking(server, network):
    """A function: a client of a model or a project."""
    calls = []

    def make(name):
        calls.append(Caller.of(server.grpc, name, network.signature))
        return calls[-1]

    yield make
    for call in calls:
        call.close()


def through_triton(server, model):
    """How many rows Triton itself has had the model answer."""
    with urllib.request.urlopen(f"http://127.0.0.1:{server.state().http}/v2/models/{model}/stats") as answer:
        (stats,) = json.load(answer)["model_stats"]
    return stats["inference_count"]


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_the_routers_answers_are_the_models_and_do_not_pass_through_triton(server, network, asking, runtime):
    router, model = asking(runtime), asking(direct(runtime))
    before = through_triton(server, direct(runtime))
    for rows in (1, 2, 4):
        np.testing.assert_array_equal(router(network.rows[:rows]), model(network.rows[:rows]))
    asked = before + 1 + 2 + 4  # of the model itself; Triton counts when it has answered
    assert until(lambda: through_triton(server, direct(runtime)) >= asked)
    assert until(lambda: through_triton(server, runtime) >= 1 + 2 + 4)
    assert through_triton(server, direct(runtime)) == asked


@pytest.fixture
def listener():
    """A function: listens for a model, answers each call by `answer(channel)`."""
    open_ = []

    def listen(model, answer):
        listener = Listener(model)
        open_.append(listener)

        def serve():
            with contextlib.suppress(Gone, Died):
                while True:
                    channel = listener.accept()
                    open_.append(channel)
                    channel.greet()
                    while True:
                        answer(channel, channel.receive())

        threading.Thread(target=serve, daemon=True).start()
        return listener

    yield listen
    for each in open_:
        each.close()


@pytest.fixture
def found():
    """The router's lines."""
    found = lines.Lines()
    yield found
    found.keep([])


def test_a_call_under_way_fails_when_the_process_ends_and_is_made_once(listener, found):
    model, seen = uuid.uuid4().hex, []

    def end(channel, inputs):
        seen.append(inputs.tolist())
        channel.close()

    listener(model, end)
    with pytest.raises(lines.ModelError, match="its process ended"):
        found.ask(model, np.arange(3))
    assert seen == [[0, 1, 2]]


def test_whoever_ends_is_told_from_whoever_fails(listener, found):
    model = uuid.uuid4().hex

    def answer(channel, inputs):
        if inputs.sum() > 3:
            channel.fail("too much")
        else:
            channel.send(np.full((2, 2**15), inputs.sum(), np.float32))

    first = listener(model, answer)
    with pytest.raises(lines.ModelError, match="too much"):
        found.ask(model, np.arange(4))
    kept = found.ask(model, np.arange(3)).outputs
    other = found.ask(model, np.arange(2)).outputs
    assert (kept == 3).all() and (other == 1).all()  # the first answer is not written over
    assert found.ask(model, np.array(["text"])) is None
    found.keep([model])
    assert found.ask(model, np.arange(3)) is not None
    first.close()
    found.keep([])
    assert found.ask(model, np.arange(3)) is None  # nobody listens


def test_who_asks_works_on_while_the_model_does(listener, found):
    model, went_on = uuid.uuid4().hex, threading.Event()
    listener(model, lambda channel, inputs: channel.send(inputs if went_on.wait(10) else -inputs))
    assert found.ask(model, np.arange(3), went_on.set).outputs.tolist() == [0, 1, 2]


def test_which_process_is_asked_is_told_before_it_is(listener):
    model, told, then = uuid.uuid4().hex, [], []
    found = lines.Lines(lambda *whom: told.append(whom))
    listener(model, lambda channel, inputs: (then.append(len(told)), channel.send(inputs)))
    for _ in range(2):
        found.ask(model, np.arange(3))
    assert found.ask(uuid.uuid4().hex, np.arange(3)) is None
    assert told == [(model, os.getpid())] * 2 and then == [1, 2]
    found.keep([])


def test_a_process_that_is_unloading_is_left_for_another_one(listener, found):
    model = uuid.uuid4().hex
    old = listener(model, lambda channel, inputs: channel.send(inputs) if inputs.sum() < 9 else leave(channel))

    def leave(channel):
        old.close()
        listener(model, lambda channel, inputs: channel.send(-inputs))
        channel.end()

    assert found.ask(model, np.arange(3)).outputs.tolist() == [0, 1, 2]
    assert found.ask(model, np.arange(5)).outputs.tolist() == [0, -1, -2, -3, -4]


def test_a_line_that_nobody_needed_for_a_while_is_let_go_with_its_memory(listener, found, monkeypatch):
    model, ended = uuid.uuid4().hex, threading.Event()

    def answer(channel, inputs):
        channel.send(inputs)
        with pytest.raises(Died):
            channel.receive()
        ended.set()

    listener(model, answer)
    found.ask(model, np.zeros(10**6))
    found.keep([model])
    assert not ended.is_set()
    monkeypatch.setattr(lines, "IDLE_S", -1.0)
    found.keep([model])
    assert ended.wait(10)


def test_a_call_that_no_line_takes_goes_through_triton(listener, found, monkeypatch):
    model, calls = uuid.uuid4().hex, []
    listener(model, lambda channel, inputs: channel.send(inputs))

    def send(self, array):
        calls.append(array)
        raise Gone("the message is too long for this system")

    monkeypatch.setattr(Channel, "send", send)
    assert found.ask(model, np.zeros(3)) is None
    assert len(calls) <= lines.TRIES
    assert found.ask(model, np.zeros(3)) is None  # and for a while no more is tried
    assert len(calls) <= lines.TRIES


def processes(server, model):
    found = {pid: Path(f"/proc/{pid}/cmdline").read_bytes() for pid in group_of(server.state().pid)}
    return [pid for pid, command in found.items() if f"/repository/{model}/".encode() in command]


def threads(pid):
    return len(list(Path(f"/proc/{pid}/task").iterdir()))


def test_a_model_whose_process_was_killed_has_a_line_again_when_it_is_back(server, network, asking):
    model, router = direct("openvino"), asking("openvino")
    expected = router(network.rows[:1])
    (killed,) = processes(server, model)
    os.kill(killed, signal.SIGKILL)

    def answered():
        try:
            np.testing.assert_array_equal(router(network.rows[:1]), expected)
        except InferenceServerException:
            return False  # Triton says that it failed
        return True

    assert until(answered, 30)
    assert killed not in processes(server, model)

    def by_line():
        before = through_triton(server, model)
        return answered() and through_triton(server, model) == before

    assert until(by_line, 10)


def test_one_process_of_two_that_is_killed_fails_the_call_under_way_at_most(server, network, asking):
    model, router = direct("onnxruntime"), asking("onnxruntime")
    expected = router(network.rows[:1])
    asked = max(processes(server, model), key=threads)  # one a line
    os.kill(asked, signal.SIGKILL)  # some of its threads may still be there for a moment
    failed = []
    for _ in range(20):  # by a line to the other
        try:
            np.testing.assert_array_equal(router(network.rows[:1]), expected)
        except InferenceServerException as error:
            failed.append(str(error))
    assert len(failed) <= 1 and all("its process ended" in why for why in failed)
