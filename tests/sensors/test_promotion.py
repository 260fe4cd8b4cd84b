import dagster as dg
import pytest

from dl_pipelines.serving.server import TritonServer
from dl_pipelines.store import durable
from dl_pipelines.store.database import Database
from dl_pipelines.store.tables import promotion_evidence, served_ledger
from dl_pipelines.wire.routing import only
from sensors.jobs import promotion_job
from sensors.promotion import promotion_sensor


@pytest.fixture
def sensor(brief):
    return promotion_sensor(brief, promotion_job(brief))


def append(workspace, table, **values):
    database = Database.of(workspace.home, workspace.project)
    try:
        return database.append(table, project=workspace.project, **values)
    finally:
        database.close()


@pytest.fixture
def serves(workspace):
    """A function: what the routing table and the ledger say serves."""

    def do(model):
        row = {"model": model, "digest": "d" * 64, "partition": "2026-01-01|base", "reason": "by a test"}
        version = append(workspace, served_ledger, event="published", evidence={}, **row)
        append(workspace, served_ledger, event="champion", evidence={"version": version}, **row)
        table = only(workspace.project, model, version).plain()
        durable.write_json(TritonServer(workspace.home).routing(workspace.project), table)

    return do


@pytest.fixture
def evidence(workspace):
    """A function: a stored comparison; returns its id."""

    def do(challenger, low, high, champion="old", rows=100):
        return append(
            workspace, promotion_evidence, champion=champion, challenger=challenger, partition="2026-01-02|base",
            metric="accuracy", rows=rows, difference=(low + high) / 2, low=low, high=high,
            decision="as was", reason="measured",
        )  # fmt: skip

    return do


def test_it_is_on_by_default(sensor):
    assert sensor.default_status == dg.DefaultSensorStatus.RUNNING


def test_without_evidence_nothing_happens(sensor, tick):
    assert tick(sensor).skip_message == "no new evidence"


def test_a_winner_is_requested_once(sensor, tick, serves, evidence):
    serves("old")
    number = evidence("new", 0.01, 0.02)
    result = tick(sensor)
    (request,) = result.run_requests
    assert request.run_key == f"promote:{number}"
    assert request.run_config == {"ops": {"digits_promote": {"config": {"evidence": number}}}}
    assert result.cursor == str(number)
    assert tick(sensor, result.cursor).skip_message == "no new evidence"


@pytest.mark.parametrize(("low", "high", "word"), [(-0.02, -0.01, "keep"), (-0.01, 0.01, "undecided")])
def test_no_winner_is_told(sensor, tick, serves, evidence, low, high, word):
    serves("old")
    evidence("new", low, high)
    result = tick(sensor)
    assert result.run_requests == []
    assert result.skip_reason.skip_message == f"new against old: {word} (measured)"


def test_the_margin_is_that_of_the_brief_now(make_brief, tick, serves, evidence):
    serves("old")
    number = evidence("new", -0.004, 0.01)
    brief = make_brief(lifecycle={"margin": 0.005})
    (request,) = tick(promotion_sensor(brief, promotion_job(brief))).run_requests
    assert request.run_key == f"promote:{number}"


def test_evidence_about_what_no_longer_serves_is_refused(sensor, tick, serves, evidence):
    evidence("new", 0.01, 0.02)
    assert tick(sensor).skip_reason.skip_message == "new against old: promote (measured); nothing serves now"
    serves("other")
    assert tick(sensor).skip_reason.skip_message == "new against old: promote (measured); other serves now"


def test_the_newest_winner_against_what_serves_is_taken(sensor, tick, serves, evidence):
    serves("old")
    evidence("first", 0.01, 0.02)
    second = evidence("second", 0.01, 0.03)
    evidence("third", -0.01, 0.01)
    last = evidence("stale", 0.01, 0.05, champion="older")
    result = tick(sensor)
    assert [request.run_key for request in result.run_requests] == [f"promote:{second}"]
    assert result.cursor == str(last)


def test_by_hand_means_that_it_is_only_told(make_brief, tick, serves, evidence):
    serves("old")
    evidence("new", 0.01, 0.02)
    brief = make_brief(lifecycle={"promotion": "manual"})
    result = tick(promotion_sensor(brief, promotion_job(brief)))
    assert result.run_requests == []
    assert result.skip_reason.skip_message == "new against old: promote (measured); lifecycle.promotion is manual"
