import pytest

from dl_pipelines.report import chain
from tests.report.ledgers import FULL, between, chained, facts, failed, trial

ROWS = chained(FULL)


def place(variant, runtime="openvino"):
    return next(at for at, row in enumerate(ROWS) if (row["variant"], row["runtime"]) == (variant, runtime))


def test_a_step_began_from_the_last_network_that_was_taken():
    began = [chain.began_from(ROWS, group[0]["step"]) for group in chain.steps(ROWS)]
    assert [row and row["variant"] for row in began] == [
        None, None, "searched_w24_d3", "searched_w24_d3", "pruned_30", "pruned_30", "pruned_30",
    ]  # fmt: skip


def test_what_serves_is_made_of_the_networks_behind_it():
    assert [chain.name(row) for row in chain.made_of(ROWS)] == [
        "static_int8 on openvino", "pruned_30 on openvino", "searched_w24_d3 on openvino",
    ]  # fmt: skip
    alone = chained([[failed("pruning", "pruning", "no")]])
    assert [chain.name(row) for row in chain.made_of(alone)] == ["fp32 on onnxruntime"]


@pytest.mark.parametrize(
    ("wanted", "variant", "told"),
    [
        ("QUANT", "static_int8 on openvino", "yes, it serves"),
        ("PRUNE", "pruned_30 on openvino", "yes, static_int8 on openvino is made from it"),
        ("NAS", "searched_w24_d3 on openvino", "yes, static_int8 on openvino is made from it"),
        ("DISTIL", "distillation on onnxruntime", "tried, rejected"),
        ("MIXED", "bf16 on openvino", "tried, rejected"),
    ],
)
def test_the_row_that_stands_for_a_technique_and_its_verdict(wanted, variant, told):
    position = chain.shown(ROWS, wanted, "latency")
    assert position is not None
    assert (chain.name(ROWS[position]), chain.verdict(ROWS, position)) == (variant, told)


def test_a_graph_that_a_later_step_replaces_is_no_part_of_what_serves():
    steps = [[trial("static_int8", "static_int8", gain=2.0)], [trial("bf16", "mixed_precision", gain=3.0)]]
    rows = chained(steps)
    position = chain.shown(rows, "QUANT", "latency")
    assert position == 1
    assert chain.verdict(rows, 1) == "tried and taken, then replaced by bf16 on onnxruntime"


def test_of_several_rejected_the_best_by_the_objective_is_shown():
    steps = [[
        failed("nncf_int8", "nncf_int8", "no"),
        trial("static_int8", "static_int8", size=0.2, gain=1.5, loss=0.1, energy=between(3.0)),
        trial("dynamic_int8", "dynamic_int8", size=0.9, gain=2.5, loss=0.1, energy=between(9.0)),
    ]]  # fmt: skip
    rows = chained(steps)
    assert not any(row["kept"] for row in rows[1:])
    found = {objective: chain.shown(rows, "QUANT", objective) for objective in ("latency", "size", "energy")}
    assert found == {"latency": 3, "size": 2, "energy": 2}
    assert chain.verdict(rows, 3) == "tried, rejected"


def test_one_that_could_serve_comes_before_a_faster_one_that_could_not():
    steps = [[
        trial("static_int8", "static_int8", gain=3.0), trial("dynamic_int8", "dynamic_int8", gain=9.0, loss=0.1),
        trial("pruned_30", "pruning", gain=2.0),
    ]]  # fmt: skip
    rows = chained(steps)
    position = chain.shown(rows, "PRUNE", "latency")
    assert position == 3 and chain.verdict(rows, 3) == "tried, kept in reserve"
    assert chain.shown(rows, "QUANT", "latency") == 1


def test_all_means_every_technique():
    everything = chain.asked(facts(None, "all"))
    assert {"architecture_search", "quantization_aware", "mixed_precision"} <= set(everything)
    assert {chain.template_row(name) for name in everything} == {"QUANT", "PRUNE", "DISTIL", "NAS", "MIXED"}
    assert chain.asked(facts(None, ["pruning"])) == ("pruning",)
    assert chain.template_row("none") is None


def test_of_several_rejected_one_without_a_measured_energy_is_last():
    """Its gain is no energy: nine times as fast is not better than three joules."""
    steps = [[
        trial("dynamic_int8", "dynamic_int8", gain=9.0, loss=0.1),
        trial("static_int8", "static_int8", gain=1.5, loss=0.1, energy=between(3.0)),
    ]]  # fmt: skip
    rows = chained(steps)
    assert rows[1]["energy_j"] is None and not any(row["kept"] for row in rows[1:])
    assert chain.shown(rows, "QUANT", "energy") == 2
    assert chain.shown(rows, "QUANT", "latency") == 1
