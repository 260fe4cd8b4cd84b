import random
import statistics
from concurrent.futures import ThreadPoolExecutor
from datetime import date

import numpy as np
import pytest

from benchmarks.tiny import make_compressed, records, reference
from dl_pipelines.brief.live import Lifecycle
from dl_pipelines.brief.sections import Split
from dl_pipelines.evaluation.test_reads import count_test_reads
from dl_pipelines.lifecycle import promotion
from dl_pipelines.lifecycle.promotion import (
    PromotionError,
    compare_with_champion,
    decide_promotion,
    evidence_after,
    promote,
    read_evidence,
)
from dl_pipelines.serving import repair, traffic
from dl_pipelines.serving.champion import champion
from dl_pipelines.serving.publish import make_triton_repository
from dl_pipelines.serving.traffic import ensure_champion, give_traffic, rollback
from dl_pipelines.store.database import Database
from dl_pipelines.store.tables import served_ledger
from dl_pipelines.store.workspace import Workspace
from dl_pipelines.tasks.image_classification import ImageClassification

from .conftest import ALIKE, BETTER, LATER, RENAMED, WORSE, model_of

TINY = 1e-9


@pytest.mark.parametrize(
    ("low", "high", "margin", "expected"),
    [
        (0.01, 0.03, 0, "promote"),
        (TINY, 0.03, 0, "promote"),
        (0.0, 0.03, 0, "undecided"),
        (0.0, 0.0, 0, "undecided"),
        (-0.01, 0.03, 0, "undecided"),
        (-0.03, 0.0, 0, "undecided"),
        (-0.03, -TINY, 0, "keep"),
        (-0.03, -0.01, 0, "keep"),
        (0.0, 0.0, 0.01, "promote"),
        (-0.01 + TINY, 0.0, 0.01, "promote"),
        (-0.01, 0.0, 0.01, "undecided"),
        (-0.02, -0.01, 0.01, "undecided"),
        (-0.02, -0.01 - TINY, 0.01, "keep"),
        (float("nan"), float("nan"), 0, "undecided"),
        (float("nan"), float("nan"), 1, "undecided"),
        (None, None, 1, "undecided"),
        (0.5, None, 0, "undecided"),
    ],
)
def test_the_decision(low, high, margin, expected):
    assert decide_promotion({"rows": 50, "low": low, "high": high}, margin) == expected


@pytest.mark.parametrize("row", [{"rows": 0, "low": 0.5, "high": 0.6}, {"low": 0.5, "high": 0.6}, {}, {"rows": None}])
def test_nothing_compared_never_promotes(row):
    assert decide_promotion(row, 1.0) == "keep"


def rows_of(workspace, table):
    database = Database.of(workspace.home, workspace.project)
    try:
        return database.rows(table, project=workspace.project)
    finally:
        database.close()


def moves(workspace):
    return [
        (row["event"], row["partition"]) for row in rows_of(workspace, served_ledger) if row["event"] != "published"
    ]


@pytest.fixture
def compare(task, data, lifecycle, evaluation):
    def do(workspace, partition, task=task, lifecycle=lifecycle):
        return compare_with_champion(workspace, partition, data, task, lifecycle, evaluation)

    return do


def held_out(task):
    table = records(task)
    wanted = task.split(table, date(2026, 1, 1), Split()) == "validation"
    return task.rows(table.take(np.flatnonzero(wanted)))


def interval(differences, resamples=4000):
    """A percentile bootstrap of a mean, in plain Python with another generator."""
    draw, count = random.Random(7), len(differences)
    means = sorted(statistics.fmean(draw.choices(differences, k=count)) for _ in range(resamples))
    return means[int(0.025 * resamples)], means[int(0.975 * resamples)]


def test_from_evidence_to_one_promotion(duel, task, compare):
    workspace, published = duel
    assert compare(workspace, BETTER) is None, "nothing serves"
    ensure_champion(workspace, WORSE, published[WORSE])
    assert compare(workspace, WORSE) is None, "it serves"
    assert evidence_after(workspace, 0) == []

    reads = count_test_reads(workspace)
    row = compare(workspace, BETTER)
    assert count_test_reads(workspace) == reads, "no test row is looked at"
    rows = held_out(task)
    right = [reference(rows.inputs, *model).argmax(1) == rows.targets for model in ((0, 60), (1, 128))]
    differences = [int(b) - int(a) for a, b in zip(*right, strict=True)]
    low, high = interval(differences)
    assert row["rows"] == len(rows) > 20
    assert row["difference"] == pytest.approx(statistics.fmean(differences), abs=1e-6)
    assert row["difference"] > 0.1
    assert (row["low"], row["high"]) == (pytest.approx(low, abs=0.05), pytest.approx(high, abs=0.05))
    assert (row["metric"], row["decision"], row["partition"]) == ("accuracy", "promote", BETTER.key)
    assert (row["champion"], row["challenger"]) == (model_of(published[WORSE]), model_of(published[BETTER]))
    assert row["reason"] == (
        f"accuracy better by {row['difference']:.4g} [{row['low']:.4g}, {row['high']:.4g}] at 95% on {len(rows)} "
        "validation rows, margin 0"
    )
    assert compare(workspace, BETTER) == row
    assert evidence_after(workspace, 0) == [row] == [read_evidence(workspace, row["id"])]
    assert evidence_after(workspace, row["id"]) == []
    assert champion(workspace).partition == WORSE.key, "evidence moves no traffic"

    assert promote(workspace, row) is True
    assert promote(workspace, row) is False
    assert moves(workspace) == [("champion", WORSE.key), ("champion", BETTER.key)]
    now = champion(workspace)
    assert (now.model, now.partition, now.reason) == (row["challenger"], BETTER.key, row["reason"])
    given = rows_of(workspace, served_ledger)[-1]["evidence"]
    assert given["evidence"] == row["id"]
    assert all(given[name] == row[name] for name in ("champion", "metric", "rows", "difference", "low", "high"))

    rollback(workspace, "by hand")
    assert promote(workspace, row) is False, "what was rolled back does not return by the same evidence"
    assert champion(workspace).partition == WORSE.key


def test_an_equal_and_a_worse_challenger_and_stale_evidence(duel, compare):
    workspace, published = duel
    give_traffic(workspace, published[BETTER], BETTER, "for this test")
    alike, worse = compare(workspace, ALIKE), compare(workspace, LATER)
    assert (alike["decision"], alike["difference"], alike["low"], alike["high"]) == ("undecided", 0, 0, 0)
    assert (worse["decision"], worse["high"] < 0) == ("keep", True)
    for row in (alike, worse):
        with pytest.raises(PromotionError, match=rf"found the decision {row['decision']} in evidence {row['id']} "):
            promote(workspace, row)
    give_traffic(workspace, published[LATER], LATER, "for this test")
    before = moves(workspace)
    with pytest.raises(
        PromotionError,
        match=(
            f"found {model_of(published[LATER])} serving tiny; expected {model_of(published[BETTER])}, which evidence "
            rf"{alike['id']} is about; run `dlp run` again to have {model_of(published[ALIKE])} compared with"
        ),
    ):
        promote(workspace, alike, margin=0.01)
    assert moves(workspace) == before
    assert compare(workspace, ALIKE) is None, "of an earlier day than what serves"


def test_a_margin_lets_an_equal_one_take_over(duel, compare):
    workspace, published = duel
    give_traffic(workspace, published[BETTER], BETTER, "for this test")
    alike = compare(workspace, ALIKE)
    assert promote(workspace, alike, margin=0.01) is True
    assert champion(workspace).partition == ALIKE.key


def test_lower_is_better_turns_the_sign(duel, data, evaluation, lifecycle, task):
    class ByLoss(ImageClassification):
        primary = "loss"

    workspace, published = duel
    give_traffic(workspace, published[WORSE], WORSE, "for this test")
    values = promotion._compare(
        workspace, champion(workspace), published[BETTER], data, ByLoss(task.params), lifecycle, evaluation
    )
    rows = held_out(task)

    def losses(*model):
        dark, bright = reference(rows.inputs, *model).astype(float).T
        ahead = np.where(rows.targets == 1, bright - dark, dark - bright)
        return np.minimum(np.logaddexp(0, -ahead), -np.log(1e-12))  # probabilities are clipped there

    gained = losses(0, 60) - losses(1, 128)
    assert values["metric"] == "loss"
    assert values["difference"] == pytest.approx(float(gained.mean()), abs=1e-4)
    assert (values["low"], values["high"]) == tuple(
        pytest.approx(x, rel=0.25) for x in interval(list(map(float, gained)))
    )
    assert 0 < values["low"] < values["difference"] < values["high"]
    assert values["decision"] == "promote"


def test_two_who_promote_at_once_are_one_promotion(duel, compare):
    workspace, published = duel
    give_traffic(workspace, published[WORSE], WORSE, "for this test")
    row, before = compare(workspace, ALIKE), moves(workspace)
    with ThreadPoolExecutor(2) as pool:
        done = list(pool.map(lambda _: promote(Workspace(workspace.home, "tiny"), row), range(2)))
    assert sorted(done) == [False, True]
    assert moves(workspace) == [*before, ("champion", ALIKE.key)]


class Crash(BaseException):
    """The process dies here."""


def test_a_crash_after_the_traffic_has_moved_is_one_promotion(duel, compare, monkeypatch):
    workspace, published = duel
    give_traffic(workspace, published[WORSE], WORSE, "for this test")
    row, before = {**compare(workspace, ALIKE), "id": 5000}, moves(workspace)
    append = repair.append

    def die(workspace, **values):
        if values["event"] == "champion":
            raise Crash
        return append(workspace, **values)

    with monkeypatch.context() as patched, pytest.raises(Crash):
        patched.setattr(repair, "append", die)
        promote(workspace, row)
    assert champion(workspace).partition == ALIKE.key
    assert promote(workspace, row) is False
    repair.reconcile(workspace)
    assert moves(workspace) == [*before, ("champion", ALIKE.key)]
    assert rows_of(workspace, served_ledger)[-1]["evidence"]["evidence"] == 5000
    assert promote(workspace, row) is False


def test_a_crash_before_the_traffic_has_moved_can_be_tried_again(duel, compare, monkeypatch):
    workspace, published = duel
    give_traffic(workspace, published[WORSE], WORSE, "for this test")
    row, before = {**compare(workspace, ALIKE), "id": 6000}, moves(workspace)

    def die(*_):
        raise Crash

    with monkeypatch.context() as patched, pytest.raises(Crash):
        patched.setattr(traffic, "load_and_compare", die)
        promote(workspace, row)
    assert champion(workspace).partition == WORSE.key
    assert promote(workspace, row) is True
    assert moves(workspace) == [*before, ("champion", ALIKE.key)]


def test_promotion_is_told_what_is_wrong(duel, compare):
    workspace, published = duel
    with pytest.raises(PromotionError, match="found no promotion evidence 999 of tiny; expected an id that a"):
        read_evidence(workspace, 999)
    other = Workspace(workspace.home, "another")
    with pytest.raises(PromotionError, match="found no promotion evidence 1 of another"):
        read_evidence(other, 1)
    give_traffic(workspace, published[WORSE], WORSE, "for this test")
    row = {**evidence_after(workspace, 0)[0], "id": 999}
    with pytest.raises(
        PromotionError, match=rf"found nothing published for 2026-02-01\|base; expected {row['challenger']}"
    ):
        promote(workspace, {**row, "partition": "2026-02-01|base"})
    with pytest.raises(PromotionError, match=f"found {model_of(published[ALIKE])} published for 2026-01-03"):
        promote(workspace, {**row, "partition": ALIKE.key})
    nothing = Workspace(workspace.home, "silent")
    with pytest.raises(PromotionError, match="found nothing serving silent; expected tiny__"):
        promote(nothing, row)
    assert champion(workspace).partition == WORSE.key


def test_other_labels_are_not_compared(duel, data, serving, evaluation, task):
    workspace, published = duel
    renamed = ImageClassification(ImageClassification.Params(classes=("dark", "light")))
    give_traffic(workspace, published[WORSE], WORSE, "for this test")
    make_compressed(workspace, RENAMED, task, 1, "onnxruntime")
    make_triton_repository(workspace, RENAMED, serving, data, renamed, evaluation)
    row = compare_with_champion(workspace, RENAMED, data, renamed, Lifecycle(margin=1.0), evaluation)
    assert (row["decision"], row["rows"], row["low"], row["high"]) == ("keep", 0, 0, 0)
    assert row["reason"] == (
        "not compared: found the labels dark, light; expected those of the champion, dark, bright; give a model with "
        "other labels a project of its own"
    )
    assert decide_promotion(row, 1.0) == "keep"
    with pytest.raises(PromotionError, match=f"found the decision keep in evidence {row['id']} "):
        promote(workspace, row, margin=1.0)
