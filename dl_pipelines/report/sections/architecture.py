"""3. The layers, counted from the trained network's own modules."""

from __future__ import annotations

from dl_pipelines.report.cells import Cell, Extra, Found, made, not_applicable, told
from dl_pipelines.report.facts import REPORT, Facts, library
from dl_pipelines.report.sections import layers

_ROWS = {"CONV": "Convolutional", "POOL": "Pooling", "DENSE": "Dense/FC", "DROP": "Dropout", "BN": "Batch Norm"}
_FIELDS = {
    "COUNT": "count",
    "CONFIG": "configuration",
    "PARAMS": "parameters",
    "ACT": "activation",
    "PURPOSE": "purpose",
}
_FIXED = {"POOL_ACT", "DROP_ACT", "DROP_PARAMS", "BN_ACT"}
"""Cells for which the template has its own words."""


def cells(facts: Facts) -> dict[str, Cell]:
    """The section's cells."""
    made_: dict[str, Cell] = {**_input(facts), **_output(facts)}
    found = facts.find("trained_model", "layers.json")
    for prefix, kind in _ROWS.items():
        for column, key in _FIELDS.items():
            if f"{prefix}_{column}" not in _FIXED:
                made_[f"{prefix}_{column}"] = _layer(facts, found, kind, key)
    return made_


def extras(facts: Facts) -> list[Extra]:
    """Tables of ours: see sections/layers.py."""
    return layers.extras(facts)


def _layer(facts: Facts, found: Found | Cell, kind: str, key: str) -> Cell:
    if isinstance(found, Cell):
        return found
    position = next((place for place, row in enumerate(found.value) if row["type"] == kind), None)
    if position is None:
        return not_applicable("this network has none")
    return layers.field(facts, position, key)


def _input(facts: Facts) -> dict[str, Cell]:
    return {
        **_end(facts, "INPUT", "input"),
        "INPUT_PARAMS": not_applicable("it learns nothing"),
        "INPUT_ACT": not_applicable("it computes nothing"),
        "INPUT_PURPOSE": told("raw inputs; scaled and normalised inside the model", library("models")),
    }


def _output(facts: Facts) -> dict[str, Cell]:
    return {
        **_end(facts, "OUTPUT", "output"),
        "OUTPUT_PARAMS": not_applicable("counted in Dense/FC, whose last layer it is"),
        "OUTPUT_ACT": facts.words("activation", "none").cell(),
        "OUTPUT_PURPOSE": facts.words("output", "what the task asks for").cell(),
    }


def _end(facts: Facts, prefix: str, end: str) -> dict[str, Cell]:
    """Count and configuration of an end of the network, from the signature of the served model."""
    count = facts.find(REPORT, f"signature.json#/{end}s")
    about = facts.find(REPORT, f"signature.json#/{end}")
    if isinstance(count, Cell) or isinstance(about, Cell):
        reason = count if isinstance(count, Cell) else about
        assert isinstance(reason, Cell)
        return {f"{prefix}_COUNT": reason, f"{prefix}_CONFIG": reason}
    shape = " x ".join(map(str, about.value["shape"]))
    return {
        f"{prefix}_COUNT": made("count", [count]).cell(),
        f"{prefix}_CONFIG": told(f"{about.value['name']}: {about.value['dtype']}, {shape}", about.source),
    }
