"""The search against servers of known capacity, then the whole stage once against the real one."""

import contextlib
from dataclasses import replace
from datetime import date

import pytest
from tritonclient.utils import InferenceServerException

from benchmarks.tiny import FIRST, SECOND, make_compressed, make_window
from dl_pipelines.brief.live import Benchmark
from dl_pipelines.brief.sections import Problem
from dl_pipelines.serving import rates as rates_module
from dl_pipelines.serving.benchmark import make_serving_benchmark, measured, table
from dl_pipelines.serving.capacity import place_of, rate_at
from dl_pipelines.serving.load_test import LoadResult
from dl_pipelines.serving.open_loop import Step
from dl_pipelines.serving.process import TritonError
from dl_pipelines.serving.publish import make_triton_repository
from dl_pipelines.serving.rates import Rates
from dl_pipelines.serving.settings import Settings
from dl_pipelines.store.artifacts import ArtifactError
from dl_pipelines.store.workspace import Partition

OWN = Settings(0.5, 1, 1)
BENCHMARK = Benchmark(seconds=1, p99_ms=20, queue_delays_ms=(0, 0.5, 2), instances=(1, 2), threads=(1, 2))


def step(rate, p99, saturated=None, failed=0):
    failure = "gone" if failed else None
    return Step(rate, rate, 1.0, 2.0, p99, None, 100, failed, 0, 0, 0.1, 0.2, 0.1, 32, 1.0, saturated, failure)


class Machine(Rates):
    """Carries what `capacity(settings, protocol)` says, in requests/s; a text is an error when it is loaded."""

    def __init__(self, capacity, serving, workspace):
        super().__init__(workspace, None, serving, None, None, None, 20)
        self.capacity, self.loaded, self.asked = capacity, [], []

    @contextlib.contextmanager
    def _loop(self, settings, protocol="grpc"):
        self._steps = {}
        self.loaded.append((settings, protocol))
        found = self.capacity(settings, protocol)
        if isinstance(found, str):
            raise TritonError(found)
        machine = self

        class Loop:
            def step(self, rate, seconds):
                machine.asked.append((settings, protocol, rate))
                return found(rate) if callable(found) else step(rate, 5.0 if rate <= found else 900.0)

        yield Loop(), None


@pytest.fixture
def search(line, serving, monkeypatch):
    """`search(capacity)`: what is found on two cores, and the machine."""
    begin = LoadResult(1, 1, 1, 800.0, 100, 0, 4, 1, None)
    monkeypatch.setattr(rates_module, "load_test", lambda *given: begin)
    monkeypatch.setattr("dl_pipelines.serving.benchmark.running", lambda home: contextlib.nullcontext())

    def run(capacity):
        asked = serving.model_copy(update={"benchmark": BENCHMARK, "queue_delay_ms": 0.5})
        machine = Machine(capacity, asked, line)
        return measured(machine, 2), machine

    return run


def test_settings_that_carry_more_are_chosen_step_by_step(search):
    def capacity(settings, protocol):
        return {Settings(0.5, 2, 1): 1500, Settings(2, 2, 1): 2500}.get(settings, 1000)

    found, machine = search(capacity)
    assert Settings(**found["chosen"]) == Settings(2, 2, 1)
    rows = {Settings.read(row): row for row in found["candidates"]}
    assert list(rows) == [OWN, replace(OWN, threads=2), replace(OWN, instances=2), Settings(0, 2, 1), Settings(2, 2, 1)]
    assert rows[OWN]["rate"] == pytest.approx(rate_at(place_of(1000)))
    assert rows[Settings(2, 2, 1)]["rate"] == pytest.approx(rate_at(place_of(2500)))
    assert rows[replace(OWN, threads=2)]["rate"] is None
    assert rows[replace(OWN, threads=2)]["below"] == pytest.approx(rate_at(place_of(1000) + 1))
    turns = [settings for settings, protocol in machine.loaded if protocol == "grpc"][5:-1]
    assert turns == [OWN, Settings(2, 2, 1)] * 2, "in turn"
    assert found["why"] == (
        "2 instances of 1 thread, 2 ms queue delay carried 2,450 requests/s, the brief's own 985 requests/s; at 1,640 "
        "requests/s, tried 2 times in turn, only the former kept the limit"
    )
    assert "| **2 instances of 1 thread, 2 ms queue delay** | 2,450 requests/s |" in table(found)


def test_the_briefs_own_stay_when_nothing_is_better(search):
    found, machine = search(lambda settings, protocol: 1000)
    assert Settings(**found["chosen"]) == OWN
    assert found["why"] == "no other settings carry 11 % more than the brief's own"
    assert len(machine.loaded) == 5 + 3, "nothing is tried again"


def test_luck_that_does_not_come_again_chooses_nothing(search):
    tried = []

    def capacity(settings, protocol):
        if settings != replace(OWN, threads=2):
            return 1000
        tried.append(settings)
        return 2000 if len(tried) < 3 else 900  # once when it was tried, once in turn

    found, _ = search(capacity)
    assert len(tried) == 3
    assert Settings(**found["chosen"]) == OWN
    assert found["why"].endswith("but at 1,340 requests/s, tried 2 times in turn, that did not repeat itself")


def test_a_candidate_that_fails_is_said_and_stops_nothing(search):
    def capacity(settings, protocol):
        if settings.instances == 2:
            return "no memory for it"
        if protocol == "http":
            return lambda rate: step(rate, None, failed=100)
        return 1000

    found, _ = search(capacity)
    assert [row["reason"] for row in found["candidates"] if row["instances"] == 2] == ["no memory for it"]
    assert Settings(**found["chosen"]) == OWN
    (http,) = [row for row in found["protocols"] if row["name"] == "http"]
    assert (http["steps"], http["rate"]) == ([], None)
    assert http["reason"] == "found that all of 100 requests failed: gone"
    told = table(found)
    assert "| 2 instances of 1 thread, 0.5 ms queue delay | no memory for it |" in told
    assert "| HTTP | found that all of 100 requests failed: gone |" in told
    with pytest.raises(TritonError, match="all broken"):
        search(lambda settings, protocol: "all broken")


def test_curves_rise_to_where_the_limit_breaks(search):
    shares = {"grpc": 1, "http": 0.5, "shared_memory": 3}
    found, _ = search(lambda settings, protocol: 1000 * shares[protocol])
    for row in found["protocols"]:
        asked = [item["rate"] for item in row["steps"]]
        assert asked == sorted(asked)
        assert len(asked) >= 4
        assert row["rate"] == asked[row["at"]] == pytest.approx(rate_at(place_of(1000 * shares[row["name"]])))
        assert asked[0] < row["rate"] < asked[-1]
        assert row["limit"] is None


def test_a_rate_that_the_machine_disturbed_is_tried_again_and_a_client_at_its_limit_named(search):
    disturbed = []

    def capacity(settings, protocol):
        def answer(rate):
            if 300 < rate < 400 and not disturbed:
                disturbed.append(rate)
                return step(rate, 200.0, saturated="busy")
            return step(rate, 5.0) if rate < 3000 else step(rate, 200.0, saturated="no core for the client")

        return answer if protocol == "grpc" else 1000

    found, machine = search(capacity)
    assert [rate for settings, _, rate in machine.asked if 300 < rate < 400][:2] == disturbed * 2
    own = found["candidates"][0]
    assert own["rate"] == pytest.approx(rate_at(place_of(3000)))
    assert own["limit"] == found["protocols"][0]["limit"] == "no core for the client"
    assert "2,720 requests/s (no core for the client)" in table(found)


def test_without_being_asked_it_says_so_and_changes_nothing(line, serving, data, task):
    problem = Problem.model_construct(targets=())
    made = make_serving_benchmark(line, FIRST, serving, problem, data, task)
    assert made.read_json("choice.json") == {}
    assert made.show == {"reason": "serving.benchmark.seconds is 0"}
    assert made.measured["benchmark"]["protocols"] == []
    assert (dict(made.parents), made.gates) == ({}, [])


def test_the_model_is_published_as_the_benchmark_chose(line, serving, data, task, evaluation, monkeypatch):
    """The real stage with its own settings only, by gRPC and by one more protocol; then a choice that is put in."""
    problem = Problem.model_construct(targets=())
    short = Benchmark(seconds=0.05, p99_ms=25, queue_delays_ms=(), instances=(), threads=())
    asked = serving.model_copy(update={"benchmark": short})
    monkeypatch.setattr("dl_pipelines.serving.benchmark.PROTOCOLS", {"shared_memory": "shared memory"})
    with pytest.raises(ArtifactError, match="found no serving_benchmark of tiny for 2026-01-02"):
        make_triton_repository(line, SECOND, asked, data, task, evaluation)
    made = make_serving_benchmark(line, SECOND, asked, problem, data, task)
    found = made.measured["benchmark"]
    assert (found["limit_ms"], found["limit_from"], found["reason"]) == (25, "serving.benchmark.p99_ms", None)
    assert made.read_json("choice.json") == {"queue_delay_ms": 0, "instances": 1, "threads": 1}
    (row,) = found["protocols"]
    assert (row["name"], row["reason"]) == ("shared_memory", None)
    assert all(item["failed"] == 0 for item in row["steps"])
    assert not list(line.home.repository.glob("tiny__*__probe"))

    def no_second_time(*_):
        raise AssertionError

    monkeypatch.setattr("dl_pipelines.serving.benchmark.measured", no_second_time)
    assert make_serving_benchmark(line, SECOND, asked, problem, data, task).digest == made.digest
    later = Partition(date(2026, 1, 4), "base")
    make_window(line, task, [later])
    make_compressed(line, later, task, 4, "onnxruntime")
    kept = make_serving_benchmark(line, later, asked, problem, data, task)
    assert kept.digest == made.digest, "a later model of the same shape goes by the choice"
    make_compressed(line, later, task, 5, "openvino")
    with pytest.raises(AssertionError):  # another runtime is measured anew
        make_serving_benchmark(line, later, asked, problem, data, task)

    choice = Settings(2, 2, 1)
    monkeypatch.setattr("dl_pipelines.serving.publish.chosen", lambda given, _: choice.applied(given))
    published = make_triton_repository(line, SECOND, asked, data, task, evaluation)
    assert published.parents["serving_benchmark"] == made.digest
    assert published.read_json("model.json")["settings"] == {
        "queue_delay_ms": 2, "instances": 2, "threads": 1, "from": "serving_benchmark"
    }  # fmt: skip
    text = published.file("model/config.pbtxt").read_text()
    assert "count: 2" in text
    assert "max_queue_delay_microseconds: 2000" in published.file("router.pbtxt").read_text()
    assert published.require_gates()


def test_an_error_of_the_client_is_one_of_the_server(line, serving, task, monkeypatch):
    """What goes wrong while the loop is open is told with the settings."""

    @contextlib.contextmanager
    def refusing(*_):
        raise InferenceServerException("no room")
        yield

    monkeypatch.setattr(rates_module, "probed", refusing)
    work = line.home.root / "work-of-a-test"
    rates = Rates(line, work, serving, line.get("compressed_model", FIRST), task.signature(), None, 20)
    row = rates.other(OWN, None)
    assert row["reason"] == "found no answer by gRPC with 1 instance of 1 thread, 0.5 ms queue delay: no room"
    with pytest.raises(TritonError, match="no room"):
        rates.own(OWN)
