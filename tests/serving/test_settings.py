from datetime import date

import pytest

from dl_pipelines.brief.live import Benchmark, Serving
from dl_pipelines.brief.targets import Target
from dl_pipelines.serving.settings import Settings, chosen, copies, delays, in_words, limit_of
from dl_pipelines.store.artifacts import ArtifactError
from dl_pipelines.store.home import Home
from dl_pipelines.store.workspace import Partition, Workspace

ASKED = Benchmark(seconds=1, queue_delays_ms=(0, 2), instances=(1, 2, 4), threads=(1, 2))
OWN = Settings(0.5, 1, 1)


def test_candidates_are_no_more_than_the_machine_has_cores():
    serving = Serving(queue_delay_ms=0.5, benchmark=ASKED)
    assert copies(serving, 2) == [Settings(0.5, 1, 2), Settings(0.5, 2, 1)]
    assert copies(serving, 4) == [
        Settings(0.5, 1, 2),
        Settings(0.5, 2, 1),
        Settings(0.5, 2, 2),
        Settings(0.5, 4, 1),
    ]
    assert delays(serving, Settings(0.5, 2, 1)) == [Settings(0, 2, 1), Settings(2, 2, 1)]
    assert delays(serving, Settings(2, 1, 1)) == [Settings(0, 1, 1)]
    assert str(Settings(0.5, 2, 1)) == "2 instances of 1 thread, 0.5 ms queue delay"
    assert in_words(1234.5) == "1,230 requests/s"


@pytest.mark.parametrize(
    ("benchmark", "targets", "limit"),
    [
        ({"p99_ms": 7}, {"latency_p99_ms": 9}, (7, "serving.benchmark.p99_ms")),
        ({}, {"latency_p95_ms": 20, "latency_p99_ms": 90}, (90, "the brief's target of latency_p99_ms")),
        ({}, {"latency_p95_ms": 20, "latency_p50_ms": 3}, (20, "the brief's target of latency_p95_ms")),
        ({}, {"latency_p50_ms": 3}, (50, "no target of the brief")),
    ],
)
def test_the_limit_is_the_nearest_that_the_brief_says(benchmark, targets, limit):
    given = tuple(Target(metric=name, op="<=", value=value) for name, value in targets.items())
    elsewhere = (Target(metric="latency_p50_ms", op="<=", value=1, where="compressed"),)
    assert limit_of(Serving(benchmark=Benchmark(**benchmark)), (*elsewhere, *given)) == limit


def test_what_was_chosen_takes_the_place_of_the_briefs_own(tmp_path):
    workspace, serving = Workspace(Home(tmp_path).prepare(), "tiny"), Serving(max_batch=4, benchmark=ASKED)

    def made(choice):
        day = Partition(date(2026, 1, 1), "base")
        return workspace.make(
            "serving_benchmark", day, lambda draft: draft.write_json("choice.json", choice), settings=choice, parents={}
        )

    found = chosen(serving, made({"queue_delay_ms": 2, "instances": 2, "threads": 1}))
    assert (found.queue_delay_ms, found.instances, found.threads, found.max_batch) == (2, 2, 1, 4)
    assert chosen(serving, None) == serving
    with pytest.raises(ArtifactError, match=r"measured nothing; expected a choice: .* is 1; run serving_benchmark"):
        chosen(serving, made({}))
