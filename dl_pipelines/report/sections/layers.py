"""3. Tables of ours: what each kind of layer and each layer costs, and which weights the training began from."""

from __future__ import annotations

from collections.abc import Sequence

from dl_pipelines.evaluation.wording import in_unit, number, percent, plural
from dl_pipelines.report.cells import Cell, Extra, Found, made, not_applicable, told
from dl_pipelines.report.facts import Facts, pointer

STAGE, KINDS, DETAIL, TIMES = "trained_model", "layers.json", "layers_detail.json", "outcome.json#/measured/layers"
SHOWN = 40
"""Layers with a row of their own; the others are summed up."""
_FIELDS = {"COUNT": "count", "CONFIG": "configuration", "PARAMS": "parameters", "ACT": "activation",
           "PURPOSE": "purpose"}  # fmt: skip
_COSTS = ("Output shape", "MACs", "Activation memory", "Time", "Share of time")


def field(facts: Facts, position: int, key: str) -> Cell:
    """Of a kind of layer, by its place in layers.json."""
    found = facts.find(STAGE, KINDS + pointer(position, key))
    return found if isinstance(found, Cell) else found.cell("parameters" if key == "parameters" else "")


def extras(facts: Facts) -> list[Extra]:
    """Every kind of layer, what it costs, every layer, and the weights that the training began from."""
    kinds = facts.find(STAGE, KINDS)
    if isinstance(kinds, Cell):
        return began_from(facts)
    names = [row["type"] for row in kinds.value]
    rows = [(name, [field(facts, place, key) for key in _FIELDS.values()]) for place, name in enumerate(names)]
    columns = ("Layer Type", "Count", "Configuration", "Parameters", "Activation", "Purpose")
    costs = [
        (name, _costs(facts, [f"{KINDS}#/{place}"], [TIMES + pointer("by_kind", name).removeprefix("#")]))
        for place, name in enumerate(names)
    ]
    return [
        Extra("All layers", columns, rows, "Every parameter of the network is in one row."),
        Extra("What each kind of layer costs", ("Layer Type", *_COSTS), costs, _note(facts)),
        *_detail(facts),
        *began_from(facts),
    ]


def _detail(facts: Facts) -> list[Extra]:
    """The slowest layers in the order of the network, and the others in one row."""
    found, times = facts.find(STAGE, DETAIL), facts.find(STAGE, f"{TIMES}/by_layer")
    if isinstance(found, Cell):
        return []
    places = list(range(len(found.value)))
    if isinstance(times, Found) and len(times.value) == len(places):
        places.sort(key=lambda place: -times.value[place])
    shown, others = sorted(places[:SHOWN]), sorted(places[SHOWN:])
    rows = [(found.value[place]["name"], _layer(facts, place)) for place in shown]
    if others:
        paths = [f"{DETAIL}#/{place}" for place in others]
        several = not_applicable("they differ")
        costs = _costs(facts, paths, [f"{TIMES}/by_layer/{place}" for place in others])
        rows.append((f"{plural(len(others), 'other layer')}, none of them slower",
                     [several, several, _sum(facts, paths, "parameters"), *costs]))  # fmt: skip
    columns = ("Layer", "Type", "Configuration", "Parameters", *_COSTS)
    which = f"; the slowest {SHOWN} of it" if others else ""
    return [Extra("Layer by layer", columns, rows, f"In the order of the network{which}.")]


def _layer(facts: Facts, place: int) -> list[Cell]:
    words = [facts.find(STAGE, f"{DETAIL}#/{place}/{key}") for key in ("type", "configuration")]
    return [
        *(item if isinstance(item, Cell) else item.cell() for item in words),
        _sum(facts, [f"{DETAIL}#/{place}"], "parameters"),
        *_costs(facts, [f"{DETAIL}#/{place}"], [f"{TIMES}/by_layer/{place}"]),
    ]


def _costs(facts: Facts, paths: Sequence[str], times: Sequence[str]) -> list[Cell]:
    """The cells of _COSTS for one row, or for several together."""
    shape = facts.find(STAGE, f"{paths[0]}/output_shape") if len(paths) == 1 else not_applicable("they differ")
    time, whole = _together(facts, times), facts.find(STAGE, f"{TIMES}/sum_ms")
    share = time if isinstance(time, Cell) else whole if isinstance(whole, Cell) else _share(time, whole)
    return [
        shape if isinstance(shape, Cell) else shape.cell(),
        _sum(facts, paths, "macs"),
        _memory(_together(facts, [f"{path}/activation_bytes" for path in paths])),
        time if isinstance(time, Cell) else time.cell("ms", lambda value: in_unit(value, "ms"), whole=True),
        share,
    ]


def _share(time: Found, whole: Found) -> Cell:
    return made("ratio", [time, whole]).cell("share", lambda value: f"{percent(value)}%", whole=True)


def _memory(found: Found | Cell) -> Cell:
    if isinstance(found, Cell):
        return found
    return made("megabytes", [found]).cell("MB", lambda value: in_unit(value, "MB"), whole=True)


def _sum(facts: Facts, paths: Sequence[str], key: str) -> Cell:
    found = _together(facts, [f"{path}/{key}" for path in paths])
    return found if isinstance(found, Cell) else found.cell("parameters" if key == "parameters" else "MACs", number)


def _together(facts: Facts, paths: Sequence[str]) -> Found | Cell:
    """One value, or the sum of several; the reason where one of them is missing."""
    found = [facts.find(STAGE, path) for path in paths]
    missing = next((item for item in found if isinstance(item, Cell)), None)
    if missing is not None:
        return missing
    values = [item for item in found if isinstance(item, Found)]
    return values[0] if len(values) == 1 else made("sum", values)


def _note(facts: Facts) -> str:
    times = facts.find(STAGE, TIMES)
    counted = "Multiply-adds and memory of what each layer gives are counted for one record."
    if isinstance(times, Cell):
        return counted
    found = times.value
    share = percent(found["sum_ms"] / found["end_to_end_ms"])
    return (
        f"{counted} Times are processor time of PyTorch, forward, with {plural(found['batch'], 'record')} at once on "
        f"{plural(found['threads'], 'thread')}: they add up to {in_unit(found['sum_ms'], 'ms')}, "
        f"{share}% of the {in_unit(found['end_to_end_ms'], 'ms')} of a whole forward at which nobody looks."
    )


def began_from(facts: Facts) -> list[Extra]:
    """What was taken over from a file or from an earlier model; nothing where the training began anew."""
    found, words, origin = facts.find(STAGE, "model.json#/pretrained"), "a file, sha256", "sha256"
    if isinstance(found, Cell):
        found, words, origin = facts.find(STAGE, "model.json#/warm_start"), "trained_model", "from"
    if isinstance(found, Cell):
        return []
    about = found.value
    rows = [
        ("Weights", told(f"{words} {about[origin][:16]}", found.source)),
        ("Tensors taken over", told(number(about["tensors"]), found.source)),
        ("Fresh", told(", ".join(about["fresh"]) or "none", found.source)),
    ]
    if "frozen" in about:
        rows.append(("Frozen layers", told(f"{about['frozen']} of {about['layers']}", found.source)))
    if about.get("adapted"):
        rows.append(("Given other channels", told(about["adapted"], found.source)))
    return [Extra("Which weights the training began from", ("", "Found"), [(name, [cell]) for name, cell in rows])]
