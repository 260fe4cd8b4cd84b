"""Section 3's own tables: layers that are too many to show, times that are missing, weights that it began from."""

from __future__ import annotations

from typing import Any

from dl_pipelines.report.facts import Document, Facts
from dl_pipelines.report.sections.layers import SHOWN, began_from, extras
from tests.report.series import DETAIL, LAYERS, TIMES


def facts(model: dict[str, Any] | None = None, times: dict[str, Any] | None = None, detail: Any = None) -> Facts:
    measured = {"layers": times} if times else {}
    files = {"layers.json": LAYERS, "layers_detail.json": detail or DETAIL, "model.json": model or {},
             "outcome.json": {"measured": measured}}  # fmt: skip
    return Facts("", {}, {"trained_model": Document("trained_model", "abc", files)}, {}, {}, {}, "")


def test_the_slowest_layers_are_shown_in_order_and_the_others_summed_up():
    many = [{**DETAIL[0], "name": f"layer{place}", "parameters": place} for place in range(SHOWN + 3)]
    by_layer = [0.5 if place in (1, 2, 30) else 2.0 for place in range(SHOWN + 3)]
    told = extras(facts(times={**TIMES, "by_layer": by_layer, "sum_ms": 100.0}, detail=many))[2]
    assert [name for name, _ in told.rows] == [
        *(f"layer{place}" for place in range(SHOWN + 3) if place not in (1, 2, 30)),
        "3 other layers, none of them slower",
    ]  # fmt: skip
    kind, configuration, parameters, shape, macs, memory, time, share = told.rows[-1][1]
    assert kind.reason == configuration.reason == shape.reason == "not applicable: they differ"
    assert (parameters.value, macs.value, time.value, share.value) == (33, 3 * 774_144, 1.5, 0.015)
    assert told.note == "In the order of the network; the slowest 40 of it."
    assert memory.value == 3 * 11_264 / 1e6
    assert parameters.source == {"op": "sum", "of": [
        {"stage": "trained_model", "digest": "abc", "field": f"layers_detail.json#/{place}/parameters"}
        for place in (1, 2, 30)
    ]}  # fmt: skip


def test_without_times_layers_are_shown_and_the_cells_say_why():
    kinds, costs, layers = extras(facts())
    assert [name for name, _ in layers.rows] == ["encoder.lstm", "head.0", "head.1"]
    assert layers.rows[0][1][4].value == 774_144
    assert costs.rows[0][1][3].reason == "not measured: trained_model did not measure measured layers by_kind Recurrent"
    assert costs.note.endswith("are counted for one record.")
    assert len(kinds.rows) == 2
    assert layers.note == "In the order of the network."


def test_weights_that_a_training_began_from_are_told():
    assert began_from(facts()) == []
    about = {"sha256": "0123456789abcdef0123", "tensors": 99, "fresh": ["head.weight"], "layers": 10, "frozen": 4,
             "adapted": "stem.weight"}  # fmt: skip
    (table,) = began_from(facts({"pretrained": about}))
    assert [(name, cell.text) for name, (cell,) in table.rows] == [
        ("Weights", "a file, sha256 0123456789abcdef"), ("Tensors taken over", "99"), ("Fresh", "head.weight"),
        ("Frozen layers", "4 of 10"), ("Given other channels", "stem.weight"),
    ]  # fmt: skip
    (table,) = began_from(facts({"warm_start": {"from": "f" * 64, "tensors": 12, "fresh": []}}))
    assert [cell.text for _, (cell,) in table.rows] == ["trained_model ffffffffffffffff", "12", "none"]
