from datetime import date

import pytest

from dl_pipelines.lifecycle.retraining import (
    NoRetraining,
    Retraining,
    decide_retraining,
    request_key,
    request_retraining,
    requested,
    settle_retraining,
)
from dl_pipelines.store.artifacts import Gate
from dl_pipelines.store.home import Home
from dl_pipelines.store.workspace import Partition, Workspace

DIGEST = "0123456789abcdef" * 4
KEY = "drift:0123456789abcdef:base"
DAYS = [date(2026, 1, 5), date(2026, 1, 8), date(2026, 1, 6)]


def window(name, decision, **features):
    listed = [{"name": feature, "drifted": drifted} for feature, drifted in features.items()]
    return {"name": name, "decision": decision, "features": listed}


ALARM = {"windows": [window("calm", "quiet", mean=False), window("shifted", "alarm", mean=True, std=False, edges=True)]}
TWICE = {"windows": [window("one", "alarm", mean=True), window("two", "alarm"), {"name": "three", "decision": "alarm"}]}


@pytest.mark.parametrize(
    ("report", "reason"), [(ALARM, "drift in shifted (mean, edges)"), (TWICE, "drift in one (mean); two; three")]
)
def test_an_alarm_asks_for_the_newest_day(report, reason):
    decision = decide_retraining(report, DIGEST, "base", DAYS, set(), True)
    assert decision == Retraining(date(2026, 1, 8), "base", reason, KEY, DIGEST)
    assert decision.partition == Partition(date(2026, 1, 8), "base")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"report": {"windows": []}}, "no window alarms (there is none)"),
        (
            {"report": {"windows": [window("a", "quiet", mean=False), window("b", "undecided")]}},
            "no window alarms (a quiet, b undecided)",
        ),
        ({"report": {"windows": [window("a", "quiet", mean=True)]}}, "no window alarms (a quiet)"),
        ({"retrain_on_drift": False}, "drift in shifted (mean, edges), but lifecycle.retrain_on_drift is off"),
        ({"experiment": "wide"}, "drift in shifted (mean, edges), but wide is an experiment: only base is retrained"),
        ({"days": []}, "drift in shifted (mean, edges), but no records have arrived since the model's day"),
        ({"already": {KEY}}, f"drift in shifted (mean, edges), and {KEY} was requested already"),
        ({"already": {"2026-01-08|base"}}, "drift in shifted (mean, edges), and 2026-01-08|base was requested already"),
    ],
)
def test_nothing_is_trained_for_a_reason(change, reason):
    given = {"report": ALARM, "experiment": "base", "days": DAYS, "already": set(), "retrain_on_drift": True, **change}
    assert decide_retraining(digest=DIGEST, **given) == NoRetraining(reason)


def test_requests_of_others_do_not_stand_in_the_way():
    already = {request_key("f" * 64, "base"), request_key(DIGEST, "wide"), "2026-01-06|base", "2026-01-08|wide"}
    assert isinstance(decide_retraining(ALARM, DIGEST, "base", DAYS, already, True), Retraining)


@pytest.fixture
def workspace(tmp_path):
    return Workspace(Home(tmp_path).prepare(), "tiny")


def drift_report(workspace, partition, content):
    def build(draft):
        draft.write_json("report.json", content)
        draft.gate(Gate("drift_shifted", False, "made by a test"))

    return workspace.make("drift_report", partition, build, settings={}, parents={})


def test_a_request_is_stored_once(workspace):
    decision = decide_retraining(ALARM, DIGEST, "base", DAYS, set(), True)
    assert requested(workspace) == {}
    assert request_retraining(workspace, decision) is True
    later = decide_retraining(ALARM, DIGEST, "base", [*DAYS, date(2026, 1, 9)], set(), True)
    assert request_retraining(workspace, later) is False
    assert requested(workspace) == {KEY: decision}, "the first one stays as it is"
    assert requested(Workspace(workspace.home, "other")) == {}


def test_all_who_ask_about_a_report_mean_the_same_request(workspace):
    partition = Partition(date(2026, 1, 5), "base")
    report = drift_report(workspace, partition, ALARM)
    first = settle_retraining(workspace, report, partition, DAYS, True)
    assert first == Retraining(date(2026, 1, 8), "base", "drift in shifted (mean, edges)",
                               f"drift:{report.short}:base", report.digest)  # fmt: skip
    more = [*DAYS, date(2026, 1, 9)]
    assert settle_retraining(workspace, report, partition, more, True) == first
    assert list(requested(workspace).values()) == [first]
    done = settle_retraining(workspace, report, partition, more, True, executed=True)
    assert done == NoRetraining(f"drift in shifted (mean, edges), and {first.key} was requested already")


def test_the_retrained_model_does_not_ask_for_itself(workspace):
    partition = Partition(date(2026, 1, 8), "base")
    report = drift_report(workspace, partition, ALARM)
    decision = settle_retraining(workspace, report, partition, DAYS, True)
    assert decision == NoRetraining("drift in shifted (mean, edges), but no records have arrived since the model's day")
    assert requested(workspace) == {}


def test_two_reports_do_not_ask_for_the_same_model(workspace):
    earlier, later = (Partition(date(2026, 1, number), "base") for number in (5, 6))
    one, two = drift_report(workspace, earlier, ALARM), drift_report(workspace, later, TWICE)
    assert isinstance(settle_retraining(workspace, one, earlier, DAYS, True), Retraining)
    decision = settle_retraining(workspace, two, later, DAYS, True)
    assert decision == NoRetraining("drift in one (mean); two; three, and 2026-01-08|base was requested already")
    again = settle_retraining(workspace, two, later, [*DAYS, date(2026, 1, 9)], True)
    assert isinstance(again, Retraining)
    assert again.day == date(2026, 1, 9)
