"""What is counted of a stage, against a count of the same rows by plain dictionaries."""

import math
import random
from collections import Counter, defaultdict
from datetime import datetime
from statistics import fmean

import pytest

from dl_pipelines.brief.live import Rollout
from dl_pipelines.lifecycle import counted as counting
from dl_pipelines.lifecycle.evidence import counts, gather
from dl_pipelines.lifecycle.judged import Stage
from dl_pipelines.lifecycle.rollout import Evidence, decide_rollout, latency_bin
from dl_pipelines.store.home import Home
from dl_pipelines.store.workspace import Workspace

from .traffic import RIGHT, WRONG, Table

NOW = 10_000.0


@pytest.fixture
def table(tmp_path, monkeypatch):
    monkeypatch.delenv("DLP_DATABASE_URL", raising=False)
    return Table(Workspace(Home(tmp_path / "home").prepare(), "tiny"))


def look(table, task, row, label_hours=0.0, at=NOW, limit_ms=math.inf):
    return gather(table.workspace, task, Stage.of(row), label_hours, at, limit_ms)


def moments(found):
    return found.count, pytest.approx(found.total), pytest.approx(found.squares)


def test_of_nothing_there_is_no_evidence(table, task):
    row = table.stage(0.1)
    found = look(table, task, row)
    assert (found.stage, found.paired, found.breaker) == (1, None, "")
    for arm in (found.champion, found.challenger):
        assert (arm.units, arm.requests, arm.failed, arm.latency, arm.matured, arm.labelled) == (0, 0, 0, {}, 0, 0)
        assert arm.score.count == 0


def test_hours_are_those_since_the_stage_began(table, task):
    row = table.stage(0.1, at="2026-01-01T00:00:00.000+00:00")
    began = datetime.fromisoformat("2026-01-01T00:00:00+00:00").timestamp()
    assert look(table, task, row, at=began + 5400).hours == 1.5
    assert look(table, task, row, at=began - 60).hours == 0, "a clock that was set back"


def test_what_the_champion_answered_for_a_challenger_that_failed_is_the_challengers(table, task):
    row = table.stage(0.5)
    fell_back = {"answered_by": "champion", "failure": "timeout", "latency_ms": 600.0, "out": WRONG}
    table.answers(row["id"], [
        {"request_id": "a", "arm": "challenger", **fell_back}, {"request_id": "b", "arm": "challenger"},
        {"request_id": "c", "arm": "champion"},
    ])  # fmt: skip
    table.labels(dict.fromkeys("abc", 1))
    found = look(table, task, row)
    ours, its = found.challenger, found.champion
    assert (ours.units, ours.requests, ours.failed) == (2, 2, 1)
    assert (ours.score.count, ours.score.total) == (2, 1.0), "also its answer"
    assert sum(ours.latency.values()) == 2 and max(ours.latency) > max(its.latency), "and its time"
    assert (its.units, its.requests, its.failed, its.score.total) == (1, 1, 0, 1.0)


def test_a_unit_counts_once_by_the_mean_of_its_requests(table, task):
    row = table.stage(0.5)
    outs = [RIGHT, WRONG, RIGHT, RIGHT]
    table.answers(row["id"], [
        *({"request_id": f"r{n}", "arm": "champion", "unit": "one", "out": out} for n, out in enumerate(outs)),
        {"request_id": "s", "arm": "champion", "unit": "two", "out": WRONG},
    ])  # fmt: skip
    table.labels({"r0": 1, "r1": 1, "r2": 1, "s": 1})  # r3 has none
    arm = look(table, task, row).champion
    assert (arm.units, arm.requests, arm.matured, arm.labelled) == (2, 5, 2, 2)
    assert moments(arm.score) == (2, 2 / 3, (2 / 3) ** 2)


def test_a_request_of_several_rows_is_one_and_each_row_is_scored(table, task):
    row = table.stage(0.5)
    rows = [{"request_id": f"q#{n}", "arm": "champion", "unit": "u", "out": (RIGHT, WRONG)[n % 2]} for n in range(12)]
    broken = [{"request_id": f"p#{n}", "arm": "champion", "unit": "v", "failure": "late"} for n in range(3)]
    own = [{"request_id": name, "arm": "champion"} for name in ("id-1", "id-2", "own#1", "own#2", "7", "8")]
    table.answers(row["id"], [*rows, *broken, *own])
    table.labels({f"q#{n}": 1 for n in range(12)})
    arm = look(table, task, row).champion
    assert (arm.requests, arm.failed, sum(arm.latency.values())) == (8, 1, 8)
    assert (arm.score.count, arm.score.total) == (1, 0.5)


def test_only_what_is_old_enough_is_judged(table, task):
    row = table.stage(0.5)
    ages = {"old": NOW - 7200, "just": NOW - 3600, "young": NOW - 3599.9}
    table.answers(row["id"], [{"request_id": name, "arm": "champion", "asked_at": at} for name, at in ages.items()])
    table.labels(dict.fromkeys(ages, 1))
    arm = look(table, task, row, label_hours=1).champion
    assert (arm.units, arm.requests, arm.matured, arm.labelled) == (3, 3, 2, 2)


@pytest.mark.parametrize("label", [None, "dark", [1, 2], {"a": 1}, 1e400])
def test_a_label_that_is_none_of_this_task_holds_up_no_other(table, task, label):
    row = table.stage(0.5)
    table.answers(row["id"], [{"request_id": name, "arm": "champion"} for name in "abc"])
    table.labels({"a": 1, "b": "inf" if label == 1e400 else label, "c": 1})
    arm = look(table, task, row).champion
    assert (arm.matured, arm.labelled, arm.score.count, arm.score.total) == (3, 2, 2, 2.0)


def test_outside_of_the_sample_nothing_is_judged_but_all_else_counts(table, task):
    row = table.stage(0.5)
    table.answers(
        row["id"], [{"request_id": "a", "arm": "champion", "out": None}, {"request_id": "b", "arm": "champion"}]
    )
    table.labels({"a": 1, "b": 1})
    arm = look(table, task, row).champion
    assert (arm.units, arm.requests, arm.matured, arm.labelled) == (2, 2, 1, 1)


def test_requests_without_an_answer_are_failures_of_the_arm_they_were_assigned_to(table, task):
    row = table.stage(0.5)
    table.answers(
        row["id"], [{"request_id": "a", "arm": "challenger"}, {"request_id": "b", "arm": "champion", "unit": "b"}]
    )
    table.event(row["id"], "failed", "challenger", "c")
    table.event(row["id"], "unanswered", "challenger", "d")
    table.event(row["id"], "failed", "champion", "e", unit="b")
    table.event(row["id"], "breaker", "challenger", detail="10 failures in a row: timeout")
    table.event(row["id"], "breaker", "challenger", detail="again")
    found = look(table, task, row)
    assert (found.challenger.units, found.challenger.requests, found.challenger.failed) == (3, 3, 2)
    assert (found.champion.units, found.champion.requests, found.champion.failed) == (1, 2, 1), "a unit of both kinds"
    assert found.challenger.matured == 1, "what was not answered can't be judged"
    assert found.breaker == "10 failures in a row: timeout"


def test_other_stages_and_projects_are_others(table, task, tmp_path):
    first, second = table.stage(0.1), table.stage(0.5, 2)
    table.answers(first["id"], [{"request_id": "a", "arm": "champion"}])
    table.event(first["id"], "breaker", "challenger")
    other = Table(Workspace(table.workspace.home, "other"))
    other.answers(second["id"], [{"request_id": "b", "arm": "champion"}])
    other.labels({"a": 1})
    found = look(table, task, second)
    assert (found.champion.requests, found.breaker) == (0, "")
    found = look(table, task, first)
    assert (found.champion.requests, found.champion.matured, found.champion.labelled) == (1, 1, 0)


def test_in_a_shadow_stage_answers_are_paired(table, task):
    row = table.stage(0, 0)
    plan = {  # the champion's output, the shadow's, the label; of unit u two requests
        "a": (RIGHT, WRONG, 1), "b": (WRONG, RIGHT, 1), "c": (RIGHT, RIGHT, 1), "d": (RIGHT, RIGHT, None),
        "e": (WRONG, RIGHT, 1),
    }  # fmt: skip
    table.answers(row["id"], [
        {"request_id": name, "arm": "champion", "out": own, "unit": "u" if name in "be" else name}
        for name, (own, _, _) in plan.items()
    ])  # fmt: skip
    table.shadows(row["id"], [{"request_id": name, "out": other} for name, (_, other, _) in plan.items()])
    table.answers(row["id"], [{"request_id": name, "arm": "champion"} for name in ("f", "g")])
    table.shadows(row["id"], [{"request_id": "f", "out": None, "failure": "timeout", "latency_ms": 900.0}])
    table.shadows(row["id"], [{"request_id": "a", "model": "another", "out": RIGHT}])
    table.labels({name: label for name, (_, _, label) in plan.items() if label is not None} | {"f": 1, "g": 1})
    found = look(table, task, row)
    assert moments(found.paired) == (3, 0.0, 2.0), "a: -1, u: the mean of 1 and 1, c: 0"
    assert (found.champion.units, found.champion.requests, found.champion.failed) == (5, 6, 0), "g was not shown"
    assert (found.challenger.units, found.challenger.requests, found.challenger.failed) == (5, 6, 1)
    assert sum(found.challenger.latency.values()) == 5, "a time of an answer that never came is none"
    assert (found.challenger.matured, found.challenger.labelled) == (4, 3)
    assert moments(found.challenger.score) == (3, 2.0, 2.0)
    assert (found.champion.matured, found.champion.labelled) == (6, 5)


def test_an_answer_after_the_limit_is_a_failure_of_either_arm(table, task):
    """Two models alike: the router waits 100 ms for the challenger, then asks the champion, which it waits for."""
    row = table.stage(0.5)
    late = {"arm": "challenger", "answered_by": "champion", "failure": "no answer within 100 ms", "latency_ms": 250.0}
    table.answers(row["id"], [{"request_id": f"c{n}", **late} for n in range(12)])
    table.answers(row["id"], [{"request_id": f"o{n}", "arm": "champion", "latency_ms": 150.0} for n in range(8)])
    table.answers(row["id"], [{"request_id": "just", "arm": "champion", "latency_ms": 100.0}])
    found = look(table, task, row, limit_ms=100.0)
    assert (found.challenger.failed, found.challenger.requests) == (12, 12)
    assert (found.champion.failed, found.champion.requests) == (8, 9)
    assert found.challenger.latency == {latency_bin(100.0): 12}
    assert found.champion.latency == {latency_bin(100.0): 9}


@pytest.mark.parametrize("share", [0, 0.5])
def test_two_models_alike_that_are_often_late_harm_nobody(table, task, share):
    """As the router answers: half of all takes 150 ms of either, and it waits 100 ms for the challenger."""
    row, limit, alike = table.stage(share, int(share > 0)), 100.0, (150.0, 20.0)
    answers, shadows = [], []
    for n in range(800):
        name, needed, arm = f"r{n}", alike[n // 2 % 2], ("champion", "challenger")[n % 2 if share else 0]
        late = {"failure": "no answer within 100 ms", "latency_ms": limit} if needed > limit else {"latency_ms": needed}
        waited = {**late, "latency_ms": limit + needed} if needed > limit else late
        answers.append({"request_id": name, "arm": arm, **(waited if arm == "challenger" else {"latency_ms": needed})})
        shadows.append({"request_id": name, **late, "out": None if needed > limit else RIGHT})
    table.answers(row["id"], answers)
    if not share:
        table.shadows(row["id"], shadows)
    decision = decide_rollout(look(table, task, row, limit_ms=limit), Rollout(shares=(0, 0.5)), 0.0)
    assert decision.action == "wait"
    assert [bound.value for bound in decision.bounds[1:]] == [0, 0]


def test_in_a_shadow_stage_only_what_the_shadow_was_shown_is_compared(table, task):
    """It was left out of the slow half, where the champion failed as well."""
    row = table.stage(0, 0)
    table.answers(row["id"], [{"request_id": f"q{n}", "arm": "champion", "latency_ms": 10.0} for n in range(6)])
    table.answers(row["id"], [{"request_id": f"s{n}", "arm": "champion", "latency_ms": 900.0} for n in range(6)])
    for n in range(4):
        table.event(row["id"], "failed", "champion", f"e{n}")
    table.shadows(row["id"], [{"request_id": f"q{n}", "latency_ms": 10.0} for n in range(4)])
    table.shadows(row["id"], [{"request_id": "q4", "out": None, "failure": "broken", "latency_ms": 1.0}])
    table.shadows(row["id"], [{"request_id": "q5", "out": None, "failure": "late", "latency_ms": 100.0}])
    found = look(table, task, row, limit_ms=100.0)
    ours, its = found.challenger, found.champion
    assert (its.units, its.requests, its.failed) == (6, 6 + 2, 2), "of four errors as large a part as of its answers"
    assert (ours.units, ours.requests, ours.failed) == (6, 6, 2)
    assert its.latency == {latency_bin(10.0): 5}
    assert ours.latency == {latency_bin(10.0): 4, latency_bin(100.0): 1}
    assert its.matured == 12, "all that may get a label"


def test_counts_say_whether_there_is_something_new(table):
    stage = Stage.of(table.stage(0, 0))
    before = counts(table.workspace, stage)
    assert set(before.values()) == {0}
    table.answers(stage.revision, [{"request_id": "a", "arm": "champion"}])
    table.shadows(stage.revision, [{"request_id": "a"}])
    table.event(stage.revision, "failed", "champion", "b")
    table.labels({"a": 1})
    assert set(counts(table.workspace, stage).values()) == {1}
    table.answers(stage.revision + 1, [{"request_id": "z", "arm": "champion"}])
    table.labels({"z": 1, "of no request": 1})
    assert set(counts(table.workspace, stage).values()) == {1}


def made_up(seed):
    """Random traffic as plain records, the same for the tables and for the count by hand."""
    draw = random.Random(seed)
    records, labels = [], {}
    for number in range(700):
        unit = f"u{draw.randrange(250)}"
        arm = "challenger" if int(unit[1:]) % 3 == 0 else "champion"
        rows = draw.choice((1, 1, 1, 3))
        failed, at = draw.random() < 0.1, draw.uniform(0, NOW)
        for place in range(rows):
            name = f"r{number}" if rows == 1 else f"r{number}#{place}"
            right, ms = draw.random() < 0.7, draw.lognormvariate(1, 1)
            records.append((name, number, unit, arm, right, failed, at, ms if place == 0 else 0.0))
            if draw.random() < 0.6:
                labels[name] = 1
    return records, labels


@pytest.mark.parametrize("seed", [1, 2])
def test_it_is_what_a_count_by_hand_finds_in_chunks_of_any_size(table, task, monkeypatch, seed):
    records, labels = made_up(seed)
    row = table.stage(0.3)
    table.answers(row["id"], [
        {"request_id": name, "arm": arm, "unit": unit, "out": RIGHT if right else WRONG, "asked_at": at,
         "failure": "late" if failed else None, "latency_ms": ms}
        for name, _, unit, arm, right, failed, at, ms in records
    ])  # fmt: skip
    table.labels(labels)
    monkeypatch.setattr(counting, "CHUNK", 7)
    monkeypatch.setattr("dl_pipelines.lifecycle.judged.CHUNK", 7)
    found = look(table, task, row, label_hours=1)
    for name, arm in (("champion", found.champion), ("challenger", found.challenger)):
        mine = [record for record in records if record[3] == name]
        requests = {record[1]: record for record in mine}
        first = {}
        for record in mine:
            first.setdefault(record[1], record)
        assert arm.units == len({record[2] for record in mine})
        assert (arm.requests, arm.failed) == (len(requests), sum(record[5] for record in requests.values()))
        bins = Counter(math.floor(math.log(record[7]) / math.log(1.05)) for record in first.values())
        assert arm.latency == dict(bins)
        judged, known = set(), defaultdict(list)
        for record in mine:
            if record[6] <= NOW - 3600:
                judged.add(record[2])
                if record[0] in labels:
                    known[record[2]].append(float(record[4]))
        means = [fmean(values) for values in known.values()]
        assert (arm.matured, arm.labelled) == (len(judged), len(known))
        assert moments(arm.score) == (len(means), sum(means), sum(mean * mean for mean in means))
    assert Evidence.of(found.plain()) == found


@pytest.mark.postgres
def test_postgres_counts_alike(table, task, monkeypatch, postgres_url):
    monkeypatch.setenv("DLP_DATABASE_URL", postgres_url)
    records, labels = made_up(3)
    row = table.stage(0, 0)
    table.answers(row["id"], [
        {"request_id": name, "arm": "champion", "unit": unit, "out": RIGHT if right else WRONG, "latency_ms": ms + 0.1}
        for name, _, unit, _, right, _, _, ms in records
    ])  # fmt: skip
    table.shadows(row["id"], [{"request_id": record[0], "latency_ms": 2.0} for record in records])
    table.labels(labels)
    found = look(table, task, row)
    known = defaultdict(list)
    for name, _, unit, _, right, *_ in records:
        if name in labels:
            known[unit].append(1.0 - right)
    means = [fmean(values) for values in known.values()]
    assert moments(found.paired) == (len(means), sum(means), sum(mean * mean for mean in means))
    assert found.challenger.requests == len({record[1] for record in records}) == found.champion.requests
