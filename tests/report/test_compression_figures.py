from __future__ import annotations

import itertools
import re
import xml.etree.ElementTree as ET

import pytest

from dl_pipelines.compression.ledger import Rules
from dl_pipelines.report import compression_figures
from dl_pipelines.report.facts import Document
from tests.report.ledgers import BUDGET, FULL, between, chained, facts, failed, trial

FULL_FACTS = facts(chained(FULL), "all")


def picture(figure):
    found = re.search(r"<svg.*</svg>", str(figure), re.DOTALL)
    assert found
    return ET.fromstring(found[0])


def texts(figure):
    return [item.text for item in picture(figure).iter("text")]


def test_the_chain_has_a_card_for_each_step_and_what_it_took():
    figure = compression_figures.steps(FULL_FACTS)
    found, drawn = texts(figure), picture(figure)
    cards = [item for item in drawn.iter("rect") if (item.get("class") or "").startswith("card")]
    assert [item.get("class") for item in cards] == [
        "card ", "card taken", "card ", "card taken", "card serves", "card ", "card ",
    ]  # fmt: skip
    tried = [text for text in found if text and text.endswith((" tried", "not made"))]
    assert tried == ["1 tried", "2 tried", "not made", "2 tried", "3 tried", "not made", "1 tried"]
    assert found.count("nothing") == 3, "distillation, dynamic int8 and bf16"
    assert found[-7:] == ["1x", "2.1x", "2.1x", "2.6x", "4.1x", "4.1x", "4.1x"]
    bars = [item for item in drawn.iter("rect") if (item.get("class") or "").startswith("bar")]
    assert [item.get("class") for item in bars[:7]] == [
        "bar kept", "bar kept", "bar rejected", "bar kept", "bar chosen", "bar rejected", "bar rejected",
    ]  # fmt: skip
    tall = [float(item.get("height") or 0) for item in bars[:7]]
    assert tall[1] / tall[0] == pytest.approx(1.5 / 2.0, abs=0.01), "bars are sizes"
    assert "its training failed: <loss> of nan" in "".join(item.text or "" for item in drawn.iter("title"))


@pytest.mark.parametrize("count", [1, 4, 9])
def test_cards_lie_beside_each_other_inside_the_picture(count):
    steps = [[trial(f"an_uncommonly_long_name_of_a_variant_{at}", "quantization_aware", gain=1.0 + at)]
             for at in range(1, count + 1)]  # fmt: skip
    drawn = picture(compression_figures.steps(facts(chained(steps), "all")))
    cards = [(float(item.get("x") or 0), float(item.get("width") or 0)) for item in drawn.iter("rect")
             if (item.get("class") or "").startswith("card")]  # fmt: skip
    assert len(cards) == count + 1
    assert all(x + wide < after for (x, wide), (after, _) in itertools.pairwise(cards))
    assert cards[-1][0] + cards[-1][1] <= float(drawn.get("width") or 0) <= compression_figures.BROAD
    for item in drawn.iter("text"):
        if "middle" in (item.get("class") or ""):
            assert len(item.text or "") * 5.5 < cards[0][1] + 12, item.text


def test_without_steps_there_is_no_picture():
    assert compression_figures.steps(facts(None, "all")) is None
    assert compression_figures.pareto(facts(None, "all")) is None
    assert compression_figures.steps(facts(chained([]), [])) is None
    assert compression_figures.pareto(facts(chained([]), [])) is None, "one point alone"
    alone = facts(chained([[failed("pruning", "pruning", "no")]]), ["pruning"])
    assert compression_figures.pareto(alone) is None and compression_figures.steps(alone) is not None


def test_variants_are_points_by_their_class_with_the_front_and_the_budget():
    figure = str(compression_figures.pareto(FULL_FACTS))
    drawn, found = picture(figure), texts(figure)
    dots = list(drawn.iter("circle"))
    assert len(dots) == sum(row["loss"] is not None for row in chained(FULL)) == 9
    classes = [item.get("class") for item in dots]
    assert classes.count("dot bar chosen ringed") == 1 and classes.count("dot bar kept ringed") == 3
    assert classes.count("dot bar rejected") == 3
    assert "budget 1%" in found and found[0] == "Loss of accuracy (validation rows) and latency"
    assert "latency of one row, as a share of the uncompressed model's" in found
    assert "static_int8 on openvino" in found and "pruned_60 on openvino (loses 5%)" in found
    assert "At the upper edge: losses beyond the picture." in figure
    assert "its area grows with the size of its file (0.27 to 2 MB)" in figure
    sizes = {item.get("r") for item in dots}
    assert len(sizes) > 3 and max(float(size or 0) for size in sizes) == compression_figures.LARGEST
    told = [item.text or "" for item in drawn.iter("title")]
    assert any("4.1 times the speed of the uncompressed, 0.3 MB" in text for text in told)


def test_the_front_is_of_what_nothing_else_beats_in_both():
    rows = chained([[
        trial("a", "static_int8", gain=2.0, loss=0.003), trial("b", "static_int8", gain=4.0, loss=0.006),
        trial("c", "static_int8", gain=3.0, loss=0.007), trial("d", "static_int8", gain=2.0, loss=0.003),
    ]])  # fmt: skip
    found = compression_figures.pareto_rows(rows, "latency")
    assert [row["variant"] for row in found] == ["fp32", "a", "b", "d"], "d is as good as a, c is worse than b"


def test_the_axis_is_what_the_objective_counts():
    energy = [trial("e", "static_int8", energy=between(3.0), saving=between(2.0)),
              trial("f", "static_int8", energy=between(4.0), saving=between(1.5))]  # fmt: skip
    rows = chained([energy], Rules("energy", BUDGET, "accuracy"))
    found = texts(compression_figures.pareto(facts(rows, "all", objective="energy")))
    assert "energy of 1,000 answers, J" in found and "e on onnxruntime" in found
    size = chained([[trial("s", "sparsity", size=0.5)]], Rules("size", BUDGET, "accuracy"))
    assert "size, MB" in texts(compression_figures.pareto(facts(size, "all", objective="size")))


def test_names_and_reasons_are_escaped():
    hostile = trial("<b>&", "static_int8", gain=2.0, parity="<script>", parity_passed=False)
    given = facts(chained([[hostile], [failed("<i>", "pruning", "<script>alert(1)</script>")]]), "all")
    for figure in (compression_figures.steps(given), compression_figures.pareto(given)):
        assert "<script" not in str(figure) and "<b>" not in str(figure) and "<i>" not in str(figure)
        picture(figure)


def test_simulated_data_is_said_to_be():
    raw = {"raw_data": [Document("raw_data", "b" * 64, {"source.json": {"simulated": True}})]}
    given = facts(chained(FULL), "all", days=raw)
    assert "(simulated)" in str(compression_figures.steps(given))
    assert "latency (simulated)" in texts(compression_figures.pareto(given))[0]
