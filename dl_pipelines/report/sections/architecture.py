"""3. The layers, counted from the trained network's own modules."""

from __future__ import annotations

from dl_pipelines.report.cells import Cell, Extra, Found, made, not_applicable, told
from dl_pipelines.report.facts import REPORT, Facts, library, pointer

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
    layers = facts.find("trained_model", "layers.json")
    for prefix, kind in _ROWS.items():
        for column, key in _FIELDS.items():
            if f"{prefix}_{column}" not in _FIXED:
                made_[f"{prefix}_{column}"] = _layer(facts, layers, kind, key)
    return made_


def extras(facts: Facts) -> list[Extra]:
    """Every kind of layer, where a network has kinds that the template has no row for."""
    layers = facts.find("trained_model", "layers.json")
    if isinstance(layers, Cell) or all(row["type"] in _ROWS.values() for row in layers.value):
        return []
    rows = [
        (row["type"], [_field(facts, position, key) for key in _FIELDS.values()])
        for position, row in enumerate(layers.value)
    ]
    columns = ("Layer Type", "Count", "Configuration", "Parameters", "Activation", "Purpose")
    return [Extra("All layers", columns, rows, "Every parameter of the network is in one row.")]


def _layer(facts: Facts, layers: Found | Cell, kind: str, key: str) -> Cell:
    if isinstance(layers, Cell):
        return layers
    position = next((place for place, row in enumerate(layers.value) if row["type"] == kind), None)
    if position is None:
        return not_applicable("this network has none")
    return _field(facts, position, key)


def _field(facts: Facts, position: int, key: str) -> Cell:
    found = facts.find("trained_model", "layers.json" + pointer(position, key))
    return found if isinstance(found, Cell) else found.cell("parameters" if key == "parameters" else "")


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
