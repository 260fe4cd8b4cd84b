"""Section 7 of invented ledgers: the template's rows, the ledger's table, what techniques tell; each cell's source."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dl_pipelines.compression.ledger import Rules
from dl_pipelines.report.cells import Cell, Found
from dl_pipelines.report.facts import Document
from dl_pipelines.report.sections import compression, ledger
from tests.report.ledgers import BUDGET, FULL, between, chained, facts, failed, trial

AT = "outcome.json#/measured/ledger"
NARROW = "\N{NO-BREAK SPACE}"


@pytest.fixture(scope="module")
def full():
    return facts(chained(FULL), "all")


def sources(cell):
    def walk(source):
        return [leaf for item in source["of"] for leaf in walk(item)] if "op" in source else [source]

    return walk(cell.source) if cell.source else []


def every_cell(given):
    yield from compression.cells(given).values()
    for table in compression.extras(given):
        for _, row in table.rows:
            assert len(row) == len(table.columns) - 1
            yield from row


@pytest.mark.parametrize(
    "given",
    [
        facts(chained(FULL), "all"),
        facts(chained(FULL), "all", precision="bf16"),
        facts(chained([]), []),
        facts(chained([[failed("pruning", "pruning", "no")]]), ["pruning"]),
        facts(None, "all"),
    ],
)
def test_every_cell_has_a_reason_or_a_source_that_leads_to_its_value(given):
    for cell in every_cell(given):
        assert isinstance(cell, Cell)
        if cell.reason:
            assert cell.reason.startswith(("not measured: ", "not applicable: ")) and cell.value is None
            continue
        assert sources(cell), cell
        for source in sources(cell):
            if source["stage"] in ("brief", "template"):
                continue
            found = given.find(source["stage"], source["field"])
            assert isinstance(found, Found), source
            if isinstance(cell.value, int | float):
                assert found.value == cell.value


def test_each_technique_has_its_own_figures(full):
    found = compression.cells(full)
    assert (found["QUANT_COMP"].value, found["PRUNE_COMP"].value, found["NAS_COMP"].value) == (0.3, 1.0, 1.5)
    assert {found[f"{row}_ORIG"].value for row in ("QUANT", "PRUNE", "DISTIL", "NAS")} == {2.0}
    assert found["QUANT_ORIG"].source["field"] == "outcome.json#/measured/baseline/size_mb"
    assert (found["QUANT_SPEED"].value, found["QUANT_SPEED"].text) == (4.1, "4.1")
    assert found["QUANT_SPEED"].note == f"[4.02,{NARROW}4.18]"
    assert found["QUANT_SPEED"].source["field"] == f"{AT}/6/gain/value"
    assert found["PRUNE_LOSS"].text == "0.2%"
    assert found["PRUNE_LOSS"].note == f"[0%,{NARROW}0.4%] of accuracy, paired, validation rows"
    assert found["PRUNE_APPLIED"].text == (
        "yes, static_int8 on openvino is made from it: pruned_30 on openvino, from searched_w24_d3 (1.24 [1.21, 1.26] "
        "times the speed of searched_w24_d3 on openvino; the fastest of its step within the budget)"
    )
    assert found["QUANT_APPLIED"].text.startswith("yes, it serves: static_int8 on openvino, from pruned_30 (")
    assert found["NAS_APPLIED"].text.startswith(
        "yes, static_int8 on openvino is made from it: searched_w24_d3 on openvino ("
    )


def test_one_that_could_not_be_made_says_why(full):
    found = compression.cells(full)
    assert found["DISTIL_APPLIED"].text == (
        "tried, rejected: distillation on onnxruntime, from searched_w24_d3 (could not be made: its training failed: "
        "<loss> of nan)"
    )
    assert {found[f"DISTIL_{column}"].reason for column in ("COMP", "SPEED", "LOSS")} == {
        "not measured: distillation: there is no file"
    }


def test_mixed_precision_is_the_techniques_row_where_it_was_asked_for(full):
    found = compression.cells(full)
    assert found["MIXED_APPLIED"].text.startswith("tried, rejected: bf16 on openvino, from pruned_30 (worse: 0.585 ")
    assert (found["MIXED_SPEED"].value, found["MIXED_LOSS"].value) == (2.4, 0.0)
    assert "MIXED_ORIG" not in found and "MIXED_COMP" not in found, "the template has no place for them"
    trained = compression.cells(facts(chained(FULL), "all", precision="bf16"))["MIXED_APPLIED"]
    assert trained.text.endswith("; trained in bf16")
    assert sources(trained)[-1]["field"] == "manifest.json#/settings/settings/training/precision"


@pytest.mark.parametrize(
    ("precision", "applied", "why"),
    [
        ("fp32", "no: trained in fp32", "not applicable: trained in fp32"),
        ("bf16", "yes: trained in bf16", "not measured: no training in fp32 was run beside it"),
    ],
)
def test_mixed_precision_is_the_trainings_where_nobody_asked(precision, applied, why):
    found = compression.cells(facts(chained(FULL), ["static_int8"], precision=precision))
    assert (found["MIXED_APPLIED"].text, found["MIXED_SPEED"].reason, found["MIXED_LOSS"].reason) == (applied, why, why)


def test_what_was_not_asked_for_is_not_applied():
    found = compression.cells(facts(chained([]), []))
    for row in ("QUANT", "PRUNE", "DISTIL", "NAS"):
        assert found[f"{row}_APPLIED"].text == "no"
        assert found[f"{row}_APPLIED"].source["field"] == "brief.json#/compression/techniques"
        assert found[f"{row}_SPEED"].reason == "not applicable: not among the brief's techniques"
    late = compression.cells(facts(None, "all"))
    assert {cell.reason for cell in late.values()} >= {"not measured: compressed_model has not run"}
    other = compression.cells(facts(chained(FULL[:1]), ["architecture_search", "pruning"]))
    assert other["PRUNE_COMP"].reason == "not measured: the ledger has no row of pruning"


def test_the_ledger_is_a_table_with_every_row(full):
    whole, found = compression.extras(full)
    rows = [(label, dict(zip(whole.columns[1:], row, strict=True))) for label, row in whole.rows]
    assert [label for label, _ in rows][:3] == [
        "fp32 on onnxruntime", "searched_w24_d3 on onnxruntime", "searched_w24_d3 on openvino",
    ]  # fmt: skip
    assert len(rows) == len(chained(FULL)) and whole.folded
    taken = rows[2][1]
    assert taken["Step"].text == "1 search" and taken["Size (MB)"].value == 1.5
    assert (taken["Latency p50 (ms)"].text, taken["Latency p50 (ms)"].note) == ("0.238", f"[0.233,{NARROW}0.243]")
    assert taken["Speed gain (x)"].text == "2.1" and taken["Loss of accuracy"].value == 0.001
    assert taken["Loss of accuracy"].source["field"] == f"{AT}/2/loss/value"
    assert taken["Verdict"].text.startswith("taken: 2.1 [2.06, 2.14] times the speed of fp32 on onnxruntime; ")
    failure = rows[3][1]
    assert (
        failure["Size (MB)"].reason == failure["Loss of accuracy"].reason == "not measured: there is nothing to measure"
    )
    assert failure["Verdict"].text == "rejected: could not be made: its training failed: <loss> of nan"
    verdicts = [row["Verdict"].text.partition(":")[0] for _, row in rows]
    assert verdicts.count("serves") == 1 and {"taken", "kept", "rejected"} <= set(verdicts)
    assert "Budget: 1% of accuracy" in whole.note and "with 1 thread and 2 instances." in whole.note
    assert "Energy" not in whole.note
    told = {label: row[1].text for label, row in found.rows}
    assert told == {
        "searched_w24_d3": f"candidates: 24; rank correlation: 0.83 [0.7,{NARROW}0.9]",
        "pruned_30": "channels: features.0 (32, 22)",
        "static_int8": "calibration: entropy; left in float: /head/Gemm, /features/0/Conv",
    }


def test_energy_has_a_column_where_it_was_measured():
    joules = trial("static_int8", "static_int8", gain=2.0, energy=between(3.0), saving=between(2.0))
    given = facts(chained([[joules]], Rules("energy", BUDGET, "accuracy")), ["static_int8"], objective="energy")
    (whole,) = compression.extras(given)
    row = dict(zip(whole.columns[1:], whole.rows[1][1], strict=True))
    assert row["Energy (J)"].value == 3.0 and "Energy is of 1,000 answers." in whole.note
    assert not whole.folded
    assert whole.rows[0][1][whole.columns.index("Energy (J)") - 1].reason is not None, "not measured of the baseline"


def test_a_metric_in_units_is_told_in_them(series_task):
    rows = chained([[trial("static_int8", "static_int8", gain=2.0, loss=0.5)]], Rules("latency", 1.0, "rmse"))
    for row in rows:
        row["metrics"] = {"rmse": between(12.0)}
    given = replace(facts(rows, ["static_int8"]), metrics=series_task.metrics, primary="rmse")
    cell = compression.cells(given)["QUANT_LOSS"]
    assert (cell.text, cell.whole, cell.value) == ("0.5 units", True, 0.5)
    (whole,) = compression.extras(given)
    assert whole.columns[-2] == "Loss of rmse"


def test_nothing_is_shown_where_nothing_was_compressed():
    assert compression.extras(facts(None, "all")) == []


def test_a_ledger_without_counts_has_a_shorter_note(full):
    document = full.documents["compressed_model"]
    measured = {"ledger": document.files["outcome.json"]["measured"]["ledger"]}
    bare = Document(document.stage, document.digest, {"outcome.json": {"measured": measured}})
    given = replace(full, documents={**full.documents, "compressed_model": bare})
    assert "instances" not in ledger.tables(given)[0].note
    assert compression.cells(given)["QUANT_ORIG"].reason is not None
