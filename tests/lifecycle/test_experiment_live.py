"""One better and one worse challenger on a real server, with real requests, labels and decisions."""

import contextlib
import time

import numpy as np
import pytest

from benchmarks.tiny import records
from dl_pipelines.brief.live import Lifecycle, Monitoring, Rollout, Router
from dl_pipelines.lifecycle import ledger
from dl_pipelines.lifecycle.ab_stage import make_ab_experiment
from dl_pipelines.lifecycle.experiment import Rules, due, step
from dl_pipelines.lifecycle.promotion import compare_with_champion
from dl_pipelines.serving.champion import champion, routed
from dl_pipelines.serving.champion import ledger as served
from dl_pipelines.serving.client import predict
from dl_pipelines.serving.labels import add_labels
from dl_pipelines.serving.prediction_log import make_prediction_log
from dl_pipelines.serving.traffic import ensure_champion
from dl_pipelines.store.database import Database
from dl_pipelines.store.tables import promotion_evidence

from .conftest import BETTER, LATER, WORSE, model_of

LIVE = Lifecycle(
    evidence="live",
    rollout=Rollout(shares=(0, 0.5), min_units=100, min_hours=0, label_hours=0, alpha=0.05, error_margin=0.3,
                    latency_margin=1000),
)  # fmt: skip
"""A call of these models takes a fraction of a millisecond: what the machine does besides would decide by latency."""


@pytest.fixture
def ask(task):
    """A function: so many live requests under new ids; their labels come after all were answered."""
    rows, sent = task.rows(records(task)), iter(range(10**6))

    def do(workspace, count):
        chosen = np.random.default_rng(next(sent)).integers(0, len(rows), count)
        ids = [f"live-{next(sent)}" for _ in range(count)]
        predict(workspace, task, rows.inputs[chosen], ids)
        add_labels(workspace, dict(zip(ids, task.labels_of(rows.targets[chosen]), strict=True)))

    return do


@pytest.mark.slow
def test_the_better_one_is_promoted_and_the_worse_one_taken_out(project, publish, task, data, evaluation, ask):
    workspace = project("tried")
    rules = Rules(task, data, evaluation, LIVE, Router(timeout_ms=5000))
    made = {WORSE: publish(workspace, WORSE, 0, 60), BETTER: publish(workspace, BETTER, 1)}
    ensure_champion(workspace, WORSE, made[WORSE])
    compare_with_champion(workspace, BETTER, data, task, LIVE, evaluation)
    old, new = model_of(made[WORSE]), model_of(made[BETTER])

    def go():
        return step(workspace, rules, time.time() + 1)

    assert go() == [f"{new} begins its experiment against {old}", f"{new} sees all and answers nobody"]
    assert routed(workspace).shadow == new
    ask(workspace, 120)
    assert due(workspace, rules, time.time() + 1).needed
    assert go()[1:] == [f"{new} answers 50.0% of the units"]
    assert due(workspace, rules, time.time() + 1).told.endswith("no unit is old enough for a label yet (0 h))")
    ask(workspace, 400)
    assert go()[1:] == [f"{new} has the traffic"]
    now = champion(workspace)
    assert (now.model, now.actor) == (new, "sensor") and now.reason.startswith("not worse, beyond doubt: score better")
    shadow, last = (ledger.looks(workspace)[place]["evidence"] for place in (0, -1))
    assert shadow["paired"]["count"] == 120 == shadow["challenger"]["units"]
    arms = last["champion"], last["challenger"]
    assert sum(arm["units"] for arm in arms) == sum(arm["labelled"] for arm in arms) == 400
    assert all(arm["failed"] == 0 and sum(arm["latency"].values()) == arm["requests"] for arm in arms)

    publish(workspace, LATER, 3, 60)
    row = compare_with_champion(workspace, LATER, data, task, LIVE, evaluation)
    assert row["decision"] == "keep" and go() == [], "held-out rows are the door"
    with contextlib.closing(Database.of(workspace.home, workspace.project)) as database:  # as if they had not shown it
        values = {name: value for name, value in row.items() if name != "id"}
        database.append(promotion_evidence, **{**values, "high": 0.1})
    worse = row["challenger"]
    assert go()[1:] == [f"{worse} sees all and answers nobody"]
    ask(workspace, 120)
    assert go()[1:] == [f"{worse} is taken out; {new} has the traffic"]
    assert [item.rows[-1]["event"] for item in ledger.experiments(workspace)] == ["promoted", "rolled_back"]
    assert routed(workspace).models == (new,)
    assert [row["event"] for row in served(workspace)][-1] == "withdrawn"
    make_prediction_log(workspace, LATER, Monitoring(), data, task)
    told = make_ab_experiment(workspace, LATER, LIVE).read_json("experiment.json")
    assert told["state"] == "rolled_back" and 0 <= told["experiments"][-1]["seconds"] < 10
