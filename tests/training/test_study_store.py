"""Configurations in Optuna's database, on SQLite and PostgreSQL: alike after any interruption; what they say."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from collections.abc import Iterator

import optuna
import pytest

from dl_pipelines.brief.sections import Range, Search
from dl_pipelines.store.database import Database, DatabaseError
from dl_pipelines.store.home import DATABASE_URL, Home
from dl_pipelines.training.asha import Begin, ladder, next_move
from dl_pipelines.training.study_plots import study_plots
from dl_pipelines.training.study_results import best_of, history, importances, overrides_of, reason, table
from dl_pipelines.training.study_space import Dimension
from dl_pipelines.training.study_store import Trials, open_storage, storage_url

RATE = Dimension("training.learning_rate", Range(low=1e-4, high=1, log=True), 0.5)
OPTIMIZER = Dimension("training.optimizer", Range(choices=("adamw", "sgd")), "adamw")
DECAY = Dimension("training.weight_decay", Range(low=0, high=0.1), 0.0)
FIELDS = (RATE, OPTIMIZER, DECAY)


def loss(params, share=1.0) -> float:
    """Best at a rate of 0.01; better the longer it is trained."""
    return abs(math.log10(params.get(RATE.path, 0.5)) + 2) + (params.get(OPTIMIZER.path) == "sgd") * 0.1 + 1 - share


@pytest.fixture(scope="module")
def storage() -> Iterator[optuna.storages.BaseStorage]:
    yield optuna.storages.InMemoryStorage()


def trials(storage, name, sampler="tpe", pruner="asha", count=16, fields=FIELDS, sign=1.0) -> Trials:
    study = optuna.create_study(storage=storage, study_name=name, load_if_exists=True)
    return Trials(storage, study, fields, Search(trials=count, sampler=sampler, pruner=pruner), ladder(pruner, 9), sign)


def play(given: Trials, steps: int = 10_000, fail: tuple[int, ...] = ()) -> bool:
    """At most so many trainings, one at a time; whether it is over."""
    for _ in range(steps):
        going = [one for one in given.configurations() if one.going]
        if not going:
            move = next_move(given.configurations(), given.ladder, given.count)
            if move is None:
                for one in given.configurations():
                    if not one.over:
                        given.finish(one.number)
                return True
            begun = isinstance(move, Begin)
            trial = given.begin() if begun else given.promote(move.number, move.rung)
        else:
            trial = given.all()[going[0].number]
        target = trial.user_attrs["target"]
        if trial.number in fail:
            given.finish(trial.number, "found a training loss of nan")
            continue
        shares = given.ladder.shares
        given.report(trial.number, {rung: loss(trial.params, shares[rung]) for rung in range(target + 1)})
        if target == given.ladder.top:
            given.finish(trial.number)
    return False


@pytest.mark.parametrize(("sampler", "pruner"), [("tpe", "asha"), ("random", "none"), ("grid", "hyperband")])
def test_an_interrupted_study_is_the_same_as_one_in_one_go(storage, sampler, pruner):
    whole = trials(storage, f"whole {sampler}", sampler, pruner)
    assert play(whole)
    for number in range(60):
        cut = trials(storage, f"cut {sampler}", sampler, pruner)
        if number % 3 == 1 and len(cut.all()) < 16:
            cut.begin()  # killed after that
        if play(cut, 1):
            break
    assert [line["trial"] for line in history(cut)] == list(range(16))
    if pruner == "none":
        assert history(cut) == history(whole)
    assert all(line["state"] in ("complete", "pruned") for line in history(cut))
    once = trials(storage, f"whole {sampler}", sampler, pruner)
    assert play(once) and history(once) == history(whole), "nothing is left to do"


def test_the_briefs_own_come_first_and_the_search_gets_close(storage):
    given = trials(storage, "close", count=24)
    assert play(given)
    first, best = given.all()[0], best_of(given)
    assert first.params == {RATE.path: 0.5, OPTIMIZER.path: "adamw", DECAY.path: 0.0}
    assert 0.003 < best.params[RATE.path] < 0.03
    assert overrides_of(best, FIELDS)[RATE.path] == best.params[RATE.path]
    assert overrides_of(first, FIELDS) == {}
    assert "of 24 has the best loss" in reason(given, "loss") and "the brief's own have 1.699" in reason(given, "loss")
    counts = [line["state"] for line in history(given)]
    assert counts.count("complete") < 10 and counts.count("pruned") > 14

    shares = importances(given, 0.95)
    assert shares[RATE.path]["value"] > 0.6
    assert sum(one["value"] for one in shares.values()) == pytest.approx(1, abs=1e-3)
    assert all(0 <= one["low"] <= one["value"] <= one["high"] <= 1 for one in shares.values())
    rows = table(given, shares, "TPE, ASHA")
    assert [row["row"] for row in rows] == ["LR", "OPT", "REG"] and not rows[0]["at_edge"]
    assert rows[0]["importance"] == shares[RATE.path] and rows[0]["range"] == "0.0001 to 1, log"

    plots = study_plots(given, shares, "loss")
    assert sorted(plots) == ["history.svg", "importance.svg", "parallel.svg", "slice.svg"]
    assert study_plots(given, shares, "loss") == plots, "the same bytes"
    for text in plots.values():
        assert ET.fromstring(text).tag.endswith("svg") and len(text) < 200_000 and "metadata" not in text
    assert "learning rate" in plots["slice.svg"]


def test_failed_ones_are_told_and_lead_nowhere(storage):
    given = trials(storage, "failing", count=12)
    assert play(given, fail=(0, 3, 4))
    lines = history(given)
    assert [line["trial"] for line in lines if line["state"] == "failed"] == [0, 3, 4]
    assert lines[3]["error"] == "found a training loss of nan" and lines[0]["best"] is None
    assert "the brief's own could not be trained" in reason(given, "loss")
    assert set(importances(given, 0.9)) == {field.path for field in FIELDS}


def test_values_that_the_brief_has_none_of_are_drawn_from_the_second_on(storage):
    clip = Dimension("training.clip", Range(low=0.5, high=2), None)
    given = trials(storage, "clip", count=14, fields=(RATE, clip))
    assert play(given)
    assert given.all()[0].params == {RATE.path: 0.5}
    assert all(set(trial.params) == {RATE.path, clip.path} for trial in given.all()[1:])


def test_a_higher_metric_may_be_better(storage):
    given = trials(storage, "higher", sign=-1.0, count=2, pruner="none")
    for value in (0.5, 0.9):
        given.report(given.begin().number, {0: value})
        given.finish(len(given.all()) - 1)
    assert best_of(given).number == 1 and [line["best"] for line in history(given)] == [0.5, 0.9]
    assert given.count == 2 and trials(storage, "coarse", "grid", count=100, fields=(OPTIMIZER,)).count == 3


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def url(request, tmp_path, monkeypatch) -> str:
    monkeypatch.delenv(DATABASE_URL, raising=False)
    if request.param == "postgres":
        monkeypatch.setenv(DATABASE_URL, request.getfixturevalue("postgres_url"))
    return storage_url(Home(tmp_path))


def test_it_lives_beside_our_own_tables(url, tmp_path):
    own = Database.of(Home(tmp_path))
    with own.begin():
        pass
    for count in (0, 3):
        with open_storage(url) as storage:
            given = trials(storage, "kept", count=4, pruner="none", sampler="random")
            assert len(given.all()) == count
            play(given, 3)
    with own.begin():
        pass
    own.close()


def test_an_unusable_database_is_told_without_its_password():
    with (
        pytest.raises(DatabaseError, match=r"found no usable storage of studies at postgresql\S+:\*\*\*@localhost:1/x"),
        open_storage("postgresql+psycopg2://me:secret@localhost:1/x"),
    ):
        pass
