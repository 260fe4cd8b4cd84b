"""Replay through a real server with the tiny models; wrong params as a user reads them."""

# ruff: noqa: F811 - pytest hands fixtures over by name
from __future__ import annotations

import numpy as np
import pytest

from benchmarks.tiny import FIRST, reference
from dl_pipelines import catalog
from dl_pipelines.brief import BriefError
from dl_pipelines.brief.live import Monitoring
from dl_pipelines.brief.references import TrafficRef
from dl_pipelines.data.augmentation import variants
from dl_pipelines.data.registry import SOURCES
from dl_pipelines.data.sources.base import SourceError
from dl_pipelines.monitoring.registry import TRAFFIC
from dl_pipelines.monitoring.traffic import Replay
from dl_pipelines.serving.client import predict
from dl_pipelines.serving.prediction_log import make_prediction_log, read_log
from dl_pipelines.serving.publish import make_triton_repository
from dl_pipelines.serving.server import running
from dl_pipelines.serving.traffic import ensure_champion
from dl_pipelines.store.records import read_records
from dl_pipelines.store.workspace import Workspace
from tests.tiny import data, evaluation, make_workspace, serving, task  # noqa: F401 - fixtures

SHIFT = [{"name": "rotation", "params": {"degrees": 25}}, {"name": "noise", "params": {"std": 25}}]
DAYS = [{"name": "calm", "records": 12}, {"name": "shifted", "records": 8, "shift": SHIFT}]


@pytest.fixture(scope="module")
def served(make_workspace, task, data, serving, evaluation):
    """A home whose first model has the traffic, its server running."""
    workspace = make_workspace()
    with running(workspace.home):
        artifact = make_triton_repository(workspace, FIRST, serving, data, task, evaluation)
        ensure_champion(workspace, FIRST, artifact)
        yield workspace


def replay(days=DAYS) -> Replay:
    return TRAFFIC.make(TrafficRef(name="replay", params={"days": days}))


def logged(workspace):
    return {row["request_id"]: row for row in read_log(workspace).to_pylist()}


def test_each_record_is_sent_once_and_its_label_joined(served, task, data):
    said = []
    watched = Workspace(served.home, served.project, said.append)
    records = SOURCES.make(data.source).live(0, 20, task)
    ids = records["id"].to_pylist()
    first = f"replay/calm/{ids[0]}"
    predict(served, task, task.rows(records).inputs[:1], [first])  # an interrupted replay had come so far
    asked_at = logged(served)[first]["asked_at"]

    assert replay().send(watched, task, data) == ["calm", "shifted"]
    rows = logged(served)
    expected = [f"replay/calm/{name}" for name in ids[:12]] + [f"replay/shifted/{name}" for name in ids[12:]]
    assert set(rows) == set(expected)
    assert rows[first]["asked_at"] == asked_at
    inputs, targets = task.rows(records).inputs, task.rows(records).targets
    shift = replay().params.days[1].shift
    # The variant is decided by the record alone: the last one by itself is the same.
    alone = variants(inputs[19:], targets[19:], [ids[19]], shift, data.augmentation.seed, 0)[0]
    moved, _ = variants(inputs[12:], targets[12:], ids[12:], shift, data.augmentation.seed, 0)
    sent = np.concatenate([inputs[:12], moved])
    np.testing.assert_array_equal(sent[19:], alone)
    assert (sent[12:] != inputs[12:]).any(axis=(1, 2, 3)).all()
    answers = np.array([rows[name]["outputs"] for name in expected])
    np.testing.assert_allclose(answers, reference(sent, 0), atol=1e-3)
    assert {(step.stage, step.message) for step in said} == {
        ("prediction_log", "carrying the log into the tables"),
        ("prediction_log", "sending the live day calm"), ("prediction_log", "sending the live day shifted"),
    }  # fmt: skip

    artifact = make_prediction_log(served, FIRST, Monitoring(), data, task, replay())
    assert logged(served) == rows, "a second time nothing is sent"
    labels = {row["request_id"]: row["label"] for row in read_records(artifact).to_pylist()}
    assert labels == dict(zip(expected, records["label"].to_pylist(), strict=True))
    assert artifact.measured["windows"] == {"calm": 12, "shifted": 8}


def test_too_few_held_back_records_send_nothing(served, task, data):
    before = logged(served)
    with pytest.raises(SourceError, match="found 500 held-back digits; expected 501 for live traffic"):
        replay([{"name": "new", "records": 1}, {"name": "many", "records": 500}]).send(served, task, data)
    assert logged(served) == before


def test_clients_send_nothing(served, task, data):
    before = logged(served)
    assert TRAFFIC.make(TrafficRef(name="clients")).send(served, task, data) == []
    assert logged(served) == before


BRIEF = """\
project: small
problem:
  task: {name: image_classification, params: {classes: [a, b]}}
data:
  source: digits
monitoring:
  traffic:
    name: replay
    params:
"""
PATH = "monitoring.traffic.params"


def told(params: str) -> str:
    indented = "".join(f"      {line}\n" for line in params.splitlines())
    with pytest.raises(BriefError) as caught:
        catalog.read_brief(BRIEF + indented, "b.yaml")
    return str(caught.value)


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        (
            "days:\n  - {name: a, records: 9, shift: [{name: rotatoin}]}",
            f"b.yaml:11: {PATH}.days[0].shift[0].name: found 'rotatoin'; expected one of brightness, crop, flip, "
            "jitter, mixup, noise, rotation, scaling, translation, window_warping (did you mean 'rotation'?)",
        ),
        (
            "days:\n  - name: a\n    records: 9\n    shift:\n      - {name: rotation, params: {degrees: 90}}",
            f"b.yaml:14: {PATH}.days[0].shift[0].params.degrees: found 90; expected less than or equal to 45",
        ),
        (
            "days:\n  - {name: a, records: 9, shift: [rotation, {name: noise, params: {sdt: 3}}]}",
            f"b.yaml:11: {PATH}.days[0].shift[1].params.sdt: found 'sdt'; expected one of std (did you mean 'std'?)",
        ),
        (
            "days:\n  - {name: a, recods: 9}",
            f"b.yaml:11: {PATH}.days[0].recods: found 'recods'; expected one of name, records, shift "
            "(did you mean 'records'?)",
        ),
        ("days:\n  - {name: a, records: 0}", f"b.yaml:11: {PATH}.days[0].records: found 0; expected greater than"),
        ("days:\n  - {name: a/b, records: 1}", f"b.yaml:11: {PATH}.days[0].name: found 'a/b'; expected "),
        ("days: []", f"b.yaml:10: {PATH}.days: found []; expected "),
        (
            "days: [{name: a, records: 1}, {name: a, records: 2}]",
            f"b.yaml:10: {PATH}.days: found [{{'name': 'a', 'records': 1}}, {{'name': 'a', 'records': 2}}]; "
            "expected days with names that differ",
        ),
        ("day: []", f"{PATH}.days: found nothing; expected this field, which has no default"),
    ],
)
def test_wrong_params_are_errors_of_the_brief(params, expected):
    assert expected in told(params)


def test_too_few_resamples_for_the_rate_are_an_error_of_the_brief():
    with pytest.raises(BriefError) as caught:
        text = BRIEF.split("  traffic")[0] + "  resamples: 100\n  false_alarms: 0.001\n"
        catalog.read_brief(text, "b.yaml")
    assert str(caught.value) == (
        "b.yaml:7: monitoring.resamples: found 100; expected at least 999 for 0.001 false alarms"
    )
