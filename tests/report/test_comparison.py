"""Sections 1 and 5 filled by a comparison and a scaling report: rows, tables, pictures, sources; and without them."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest

from dl_pipelines.brief.targets import Target
from dl_pipelines.evaluation.choosing import judged, why
from dl_pipelines.report import scatter, selection_figures
from dl_pipelines.report.collect import collect
from dl_pipelines.report.facts import Document, Facts
from dl_pipelines.report.make import make_implementation_report
from dl_pipelines.report.sections import distributed, lifecycle, problem
from dl_pipelines.report.verify import cells
from dl_pipelines.store.workspace import Partition
from dl_pipelines.training.selected import CHOICE

FAILED = "its training with seed 0 failed: found a training loss of nan"


def between(value, low, high):
    return {"value": value, "low": low, "high": high}


def candidate(name, row, metric, latency, behind=(0.0, 0.0, 0.0)):
    return {
        "candidate": name, "family": {"name": name, "params": {}}, "template_row": row, "reason": None,
        "parameters": 65_834, "metric": between(metric, metric - 0.01, metric + 0.005), "values": [metric] * 3,
        "metrics": {"accuracy": metric}, "behind": between(*behind), "behind_rows": between(*behind), "size_mb": 0.25,
        "train_seconds": between(36.0, 30.0, 42.0), "latency_ms": between(latency, latency * 0.9, latency * 1.1),
        "throughput": between(12_345.0, 12_000.0, 13_000.0), "energy_j": None, "cost": None,
    }  # fmt: skip


ROWS = [
    candidate("cnn", "CNN (ConvNet)", 0.98, 0.04),
    candidate("cnn (width 8)", "CNN (ConvNet)", 0.975, 0.02, (0.005, -0.001, 0.01)),
    candidate("vit", "Transformer", 0.9, 0.4, (0.08, 0.05, 0.1)),
    {
        "candidate": "gan",
        "family": {"name": "gan", "params": {}},
        "template_row": "GAN",
        "reason": FAILED,
        "cost": None,
    },
]


def compared(rows, priority="latency", metric="accuracy", better="higher", **changed):
    found = judged(rows, better, priority, [Target(metric="accuracy", value=0.97, where="trained")])
    return {
        "metric": metric, "unit": "share", "better": better, "priority": priority, "seeds": 3, "epochs": 4,
        "confidence": 0.95, "train_rows": 2000, "validation_rows": 150, "reason": None, "rows": found,
        "energy_reason": "this machine shows no energy counter (RAPL)", "interval": "over the rows",
        "chosen": next((row["candidate"] for row in found if row["chosen"]), None),
        "why": why(found, "accuracy", better, priority), **changed,
    }  # fmt: skip


def worker_row(workers, rate, seconds, share, split, **changed):
    return {
        "workers": workers, "threads": 1, "communicator": "horovod" if workers > 1 else "single", "reason": None,
        "samples_per_second": between(rate, rate - 10, rate + 10),
        "efficiency": between(share, share - 0.01, share + 0.01), "bottleneck": "compute",
        "step_ms": dict(zip(("compute", "communication", "input", "other"), split, strict=True)),
        "lost_to": "communication" if workers > 1 else None, "loss": 0.5, "loss_of": "validation rows", "samples": 2048,
        "seconds": seconds, "cost": None, "energy_j": None, **changed,
    }  # fmt: skip


SCALED = {
    "workers": [1, 2, 4], "steps": 32, "samples": 2048, "batch_size": 64, "price_per_hour": None, "confidence": 0.95,
    "energy_reason": "this machine shows no energy counter (RAPL)", "reason": None,
    "rows": [
        worker_row(1, 1000.0, 36.0, 1.0, (60.0, 0.0, 3.0, 1.0)),
        worker_row(2, 1900.0, 18.0, 0.95, (61.0, 5.0, 1.0, 0.4)),
        {"workers": 4, "threads": 1, "communicator": "horovod", "reason": "4 workers need 4 cores"},
    ],
}  # fmt: skip


@pytest.fixture
def facts(brief, task):
    """A function: facts with a trained model, and what was compared and scaled."""

    def made(comparison=None, scaling=None, workers=2, price=None):
        plain = brief.model_dump(mode="json")
        plain["distributed"]["price_per_hour"] = price
        measured = {
            "trained_model": {"seconds": 7.2, "workers": workers, "samples_per_second": 4448.0, "threads": 1,
                              "communicator": "horovod", "network": "gloo over loopback", "attempts": ["done"],
                              "hardware": {"cpu": "a", "cores": 2, "memory_gb": 8, "storage_gb": 9, "gpus": 0}},
            **({"architecture_comparison": {"comparison": comparison}} if comparison else {}),
            **({"scaling_report": {"scaling": scaling}} if scaling else {}),
        }  # fmt: skip
        documents = {
            stage: Document(stage, "0" * 64, {"outcome.json": {"measured": values}})
            for stage, values in measured.items()
        }
        model = {"parameters": 65_834, "family": {"name": "cnn", "params": {}}}
        documents["trained_model"].files["model.json"] = model  # type: ignore[index]
        return Facts("2026-01-01|base", plain, documents, {}, {}, task.metrics, task.primary)

    return made


def test_a_row_of_the_template_is_the_chosen_one_or_the_best_of_its_kind(facts):
    found = problem.cells(facts(compared(ROWS)))
    assert found["CNN_FIT"].note == "(cnn (width 8), chosen)"
    assert (found["CNN_INFER"].value, found["CNN_INFER"].note) == (0.02, "[0.018,\N{NO-BREAK SPACE}0.022]")
    assert found["CNN_ACC"].text == "97.5%" and found["CNN_ACC"].note.endswith("(validation rows, 3 seeds)")
    assert (found["CNN_PARAMS"].text, found["CNN_TRAIN"].text) == ("0.06583", "0.01")
    assert found["CNN_TRAIN"].value == 36.0 and found["CNN_TRAIN"].unit == "s"
    assert found["CNN_TRAIN"].source["field"] == "outcome.json#/measured/comparison/rows/1/train_seconds/value"
    assert found["TRANS_ACC"].value == 0.9 and found["TRANS_FIT"].note == "(not chosen)"
    assert found["GAN_FIT"].reason == f"not measured: gan: {FAILED}"
    assert found["RNN_ACC"].reason == "not measured: no candidate of this kind was compared"
    best = problem.cells(facts(compared(ROWS, "accuracy")))
    assert best["CNN_ACC"].value == 0.98 and best["CNN_FIT"].note == "(cnn, chosen)"


def test_section_10_tells_of_the_comparison_that_was_made(facts):
    found = lifecycle.cells(facts(compared(ROWS)))
    assert found["ARCH_FREQ"].text == "every 30 days; models of the days between go by the same comparison"
    assert found["ARCH_PROCESS"].text == (
        "4 candidates, 3 seeds each, trained alike on the same train rows; the best one is trained from then on"
    )
    assert found["ARCH_VAL"].text == (
        "by validation rows only: cnn (width 8) and cnn can't be told apart by accuracy on validation rows; of these "
        "cnn (width 8) answers one row soonest; then as every retraining"
    )
    assert found["ARCH_VAL"].source["field"] == "outcome.json#/measured/comparison"
    assert lifecycle.cells(facts())["ARCH_FREQ"].reason == "not measured: architecture_comparison has not run"
    bare = facts()
    bare.brief["architecture"]["comparison"]["candidates"] = []
    none = lifecycle.cells(bare)["ARCH_FREQ"]
    assert none.reason == "not measured: only the CNN was trained; no comparison was run"


def test_storage_is_the_size_of_the_disk(facts):
    found = distributed.cells(facts())["STORAGE_SIZE"]
    assert (found.value, found.text, found.note) == (9, "0.009", "")


def test_of_several_that_were_not_chosen_the_better_one_stands(facts):
    rows = [ROWS[2], candidate("large", "Transformer", 0.92, 0.9, (0.06, 0.05, 0.07)), ROWS[0]]
    found = problem.cells(facts(compared(rows)))
    assert found["TRANS_ACC"].value == 0.92 and found["TRANS_FIT"].note == "(large, not chosen)"


def test_all_candidates_and_why(facts):
    (table,) = problem.extras(facts(compared(ROWS)))
    rows = dict(table.rows)
    assert list(rows) == ["cnn", "cnn (width 8)", "vit", "gan"]
    verdicts = {name: row[0].text for name, row in rows.items()}
    assert verdicts["cnn (width 8)"] == (
        "chosen, 0.5% [-0.1%,\N{NO-BREAK SPACE}1%] behind the best, on the front"
    )  # fmt: skip
    assert verdicts["cnn"] == "tied, on the front" and verdicts["vit"].startswith("worse, 8% ")
    assert all(cell.reason == f"not measured: {FAILED}" for cell in rows["gan"])
    cost = table.columns.index("Cost ($)") - 1
    assert rows["cnn"][cost].reason == "not measured: the brief has no price of an hour"
    assert all(len(row) == len(table.columns) - 1 for row in rows.values())
    assert table.note.startswith(
        "Cnn (width 8) and cnn can't be told apart by accuracy on validation rows; of these cnn (width 8) answers one "
        "row soonest. The brief's priority is latency. 3 seeds of 4 epochs each, 2,000 train rows; the metric on 150 "
    )  # fmt: skip
    assert "Energy: this machine shows no energy counter (RAPL)." in table.note


def test_costs_and_energy_where_they_are_known(facts):
    rows = [{**row, "cost": 0.004, "energy_j": 3.5} for row in ROWS[:3]]
    (table,) = problem.extras(facts(compared(rows), price=0.4))
    row = dict(zip(table.columns[1:], table.rows[0][1], strict=True))
    assert row["Cost ($)"].value == 0.004 and row["Energy (J)"].value == 3.5
    assert "Energy is of 1,000 answers." in table.note


def test_without_a_comparison_the_trained_family_is_the_row(facts):
    given = facts()
    alone = {**given.brief["architecture"], "comparison": {"candidates": []}}
    plain = replace(given, brief={**given.brief, "architecture": alone})
    found = problem.cells(plain)
    assert found["CNN_PARAMS"].value == 65_834 and found["CNN_TRAIN"].value == 7.2
    assert found["GAN_ACC"].reason == "not measured: only the CNN was trained"
    assert problem.extras(plain) == [] and selection_figures.pareto(plain) is None
    asked = {**plain.brief, "architecture": {**plain.brief["architecture"], "comparison": {"candidates": ["gan"]}}}
    late = problem.cells(replace(plain, brief=asked))
    assert late["GAN_ACC"].reason == "not measured: architecture_comparison has not run"


def test_scaling_fills_the_template(facts):
    found = distributed.cells(facts(scaling=SCALED, price=0.5))
    assert (found["SINGLE_TIME"].value, found["SINGLE_TIME"].text) == (36.0, "0.01")
    assert found["SINGLE_TIME"].note == "(36 s; 2,048 samples, one worker)"
    assert found["MULTI_TIME"].value == 18.0
    assert found["MULTI_TIME"].note == "(18 s; 2,048 samples, 2 workers; the whole training 7.2 s)"
    assert (found["SCALE_EFF"].value, found["SCALE_EFF"].text) == (0.95, "95")
    assert found["SCALE_EFF"].note == "[94,\N{NO-BREAK SPACE}96] (2 workers)"
    assert found["THROUGHPUT"].value == 4448.0
    assert found["TRAINING_COST"].value == 0.001 and found["TRAINING_COST"].source["op"] == "cost"
    assert distributed.cells(facts(scaling=SCALED))["TRAINING_COST"].reason == (
        "not measured: the brief has no price of an hour"
    )  # fmt: skip


def test_scaling_of_a_model_that_one_worker_trained(facts):
    found = distributed.cells(facts(scaling=SCALED, workers=1))
    assert found["SINGLE_TIME"].value == 7.2 and found["SCALE_EFF"].value == 0.95
    assert found["MULTI_TIME"].value == 18.0 and "the whole training" not in found["MULTI_TIME"].note


def test_workers_that_were_not_measured_have_no_efficiency(facts):
    found = distributed.cells(facts(scaling=SCALED, workers=3))
    assert found["MULTI_TIME"].value == 7.2 and "distributed.scaling.workers" in found["SCALE_EFF"].reason
    assert found["SINGLE_TIME"].reason == "not measured: no training with one worker was run beside it"
    alone = distributed.cells(facts(workers=1))
    assert alone["SINGLE_TIME"].value == 7.2 and alone["SCALE_EFF"].reason == "not applicable: one worker"


def test_every_number_of_workers_has_a_row(facts):
    (table,) = distributed.extras(facts(scaling=SCALED))
    rows = {name: dict(zip(table.columns[1:], row, strict=True)) for name, row in table.rows}
    assert rows["1"]["Efficiency"].reason == "not applicable: one worker"
    assert rows["2"]["Communication (ms)"].value == 5.0 and rows["2"]["Samples/s"].value == 1900.0
    assert rows["2"]["Bottleneck"].text == "compute; most is lost to communication"
    assert rows["2"]["Loss"].note == "(validation rows)"
    assert {cell.reason for cell in rows["4"].values()} == {"not measured: 4 workers need 4 cores"}
    assert "32 steps of one worker of 64 samples" in table.note and "Energy: this machine" in table.note
    assert distributed.extras(facts()) == []


def texts(figure):
    drawn = re.search(r"<svg.*</svg>", str(figure), re.DOTALL)
    assert drawn
    return [item.text for item in ET.fromstring(drawn[0]).iter() if item.tag == "text"]


def test_the_front_is_drawn(facts):
    figure = str(selection_figures.pareto(facts(compared(ROWS))))
    found = texts(figure)
    assert {"cnn", "cnn (width 8)", "vit"} <= set(found) and "gan" not in found
    assert found[0] == "Accuracy (validation rows) and latency of one row, ms"
    assert figure.count('class="dot series-1"') == 1 and figure.count('class="dot series-0"') == 1
    assert figure.count('class="dot series-past"') == 1 and "line stroke-0" in figure
    throughput = texts(selection_figures.pareto(facts(compared(ROWS, "throughput"))))
    assert "rows a second" in throughput
    assert selection_figures.pareto(facts(compared(ROWS[:1]))) is None, "one alone is no picture"


@pytest.mark.parametrize("latencies", [(0.1, 0.1), (0.01, 5.0), (0.0, 0.3)])
def test_points_stay_inside(facts, latencies):
    rows = [candidate(f"c{place}", "GAN", 0.5, latency) for place, latency in enumerate(latencies)]
    drawn = re.search(r"<svg.*</svg>", str(selection_figures.pareto(facts(compared(rows)))), re.DOTALL)
    assert drawn
    for dot in ET.fromstring(drawn[0]).iter("circle"):
        assert scatter.LEFT <= float(dot.get("cx") or 0) <= scatter.WIDTH
        assert 0 <= float(dot.get("cy") or 0) <= scatter.HEIGHT


def test_the_parts_of_a_step_are_drawn(facts):
    figure = str(selection_figures.scaling(facts(scaling=SCALED)))
    found = texts(figure)
    assert "2 workers" in found and "4 workers" not in found
    assert figure.count("<rect") == 8 and "communication: 5 ms" in figure
    assert selection_figures.scaling(facts()) is None


@pytest.fixture
def chosen(series, series_brief, series_task):
    """An experiment of the forecasting line with a comparison and a scaling report of an earlier day's window."""
    line, partition = series
    mine = Partition(partition.day, "compared")
    for stage in ("trained_model", "evaluation"):
        line.point(stage, mine, line.get(stage, partition))
    found = compared(ROWS, metric="wape", better="lower")

    def compare(draft):
        draft.write_json("comparison.json", {"rows": []})
        draft.write_json(CHOICE, {"overrides": {}, "why": "by hand"})
        draft.measure(comparison=found)

    day = Partition(partition.day.replace(day=1), "compared")
    other = line.get("raw_data", partition.daily)
    artifact = line.make("architecture_comparison", day, compare, settings={}, parents={"training_window": other})
    line.point("architecture_comparison", mine, artifact)

    def scale(draft):
        draft.write_json("scaling.json", {"reason": None})
        draft.measure(scaling=SCALED)

    line.make("scaling_report", mine, scale, settings={}, parents={"architecture_comparison": artifact})
    return line, mine


def test_a_report_cites_them_and_reads_them_back(chosen, series_brief, series_task):
    line, mine = chosen
    artifact = make_implementation_report(line, mine, series_brief, series_task)
    assert artifact.gates[0].passed is True, artifact.gates[0].summary
    found, text = dict(cells(artifact.read_json("report.json"))), artifact.file("report.md").read_text()
    assert found["section 1: Every candidate: vit: Latency (ms)"]["value"] == 0.4
    assert found["section 5: More workers on the same samples: 2: Samples/s"]["value"] == 1900.0
    assert "WAPE by item and day 97.5%" in text, "the metric is named where the row is about another"
    assert {"architecture_comparison", "scaling_report"} <= set(artifact.parents)
    assert artifact.file("report.html").read_text().count("Pareto front") >= 2


def test_what_is_about_another_choice_is_stale_and_what_was_kept_is_not(chosen, series_task):
    line, mine = chosen
    found = collect(line, mine, series_task)
    assert "architecture_comparison" in found.artifacts, "kept: about the window of its own day"
    another = line.make(
        "architecture_comparison", mine, lambda draft: draft.write_json(CHOICE, {"overrides": {}, "why": "x"}),
        settings={"n": 1}, parents={},
    )  # fmt: skip
    assert another.digest != found.artifacts["architecture_comparison"].digest
    assert "is about another architecture_comparison" in collect(line, mine, series_task).missing["scaling_report"]
