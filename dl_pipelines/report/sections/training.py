"""4. Hyperparameters: what the brief asked for, what a search says of it, and what the model was trained with."""

from __future__ import annotations

from typing import Any

from dl_pipelines.evaluation.wording import number
from dl_pipelines.report.cells import Cell, Found, made, not_measured, told
from dl_pipelines.report.facts import Facts
from dl_pipelines.report.sections.study import in_row, searched

_ASKED = {"LR": "learning_rate", "BATCH": "batch_size", "EPOCH": "epochs", "OPT": "optimizer"}
_UNITS = {"BATCH": "records a worker and step", "EPOCH": "epochs"}
ROWS = (*_ASKED, "REG", "LOSS")
_TRAINED = "manifest.json#/settings/settings"


def cells(facts: Facts) -> dict[str, Cell]:
    """The section's cells."""
    made_: dict[str, Cell] = {}
    for row in ROWS:
        made_ |= in_row(facts, row)
    for row, key in _ASKED.items():
        unit = _UNITS.get(row, "")
        made_[f"{row}_VALUE"] = facts.of_brief("training", key).cell(unit)
        made_[f"{row}_FINAL"] = _cell(facts.find("trained_model", f"{_TRAINED}/training/{key}"), unit)
    made_["LR_VALUE"] = made_["LR_VALUE"].noted(_schedule(facts))
    made_["BATCH_FINAL"] = made_["BATCH_FINAL"].noted(_global_batch(facts))
    made_["EPOCH_FINAL"] = _epochs(facts)
    made_ |= _regularisation(facts) | _loss(facts)
    for row in ROWS:
        edges = [one["label"] for _, one in searched(facts, row) if one["at_edge"]]
        if edges:
            made_[f"{row}_FINAL"] = made_[f"{row}_FINAL"].noted(f"({', '.join(edges)}: at the edge of its range)")
    return made_


def _schedule(facts: Facts) -> str:
    given = facts.brief["training"]
    return f"({given['schedule']}, {number(given['warmup_epochs'])} epochs of warm-up)"


def _global_batch(facts: Facts) -> str:
    workers = facts.find("trained_model", "model.json#/workers")
    return f"(x {workers.value} workers)" if isinstance(workers, Found) and workers.value > 1 else ""


def _epochs(facts: Facts) -> Cell:
    curves = facts.find("trained_model", "curves.json")
    return curves if isinstance(curves, Cell) else made("count", [curves]).cell("epochs", note="trained")


def _regularisation(facts: Facts) -> dict[str, Cell]:
    asked, family = facts.of_brief("training"), facts.of_brief("architecture", "family", "params")
    final = facts.find("trained_model", f"{_TRAINED}/training")
    dropout = facts.find("trained_model", "layers.json")
    value = told(_told(asked.value, family.value.get("dropout")), asked.source, family.source)
    if isinstance(final, Cell) or isinstance(dropout, Cell):
        return {"REG_VALUE": value, "REG_FINAL": final if isinstance(final, Cell) else not_measured("no layers")}
    rates = [row["configuration"].removeprefix("p=") for row in dropout.value if row["type"] == "Dropout"]
    text = _told(final.value, rates[0] if rates else None)
    return {"REG_VALUE": value, "REG_FINAL": told(text, final.source, dropout.source)}


def _told(training: dict[str, Any], dropout: float | str | None) -> str:
    parts = [f"weight decay {number(training['weight_decay'])}"]
    parts += [f"dropout {dropout}"] if dropout is not None else []
    parts += [f"gradients clipped at norm {number(training['clip'])}"] if training.get("clip") else []
    parts += [f"label smoothing {number(training['label_smoothing'])}"] if training["label_smoothing"] else []
    return ", ".join(parts)


def _loss(facts: Facts) -> dict[str, Cell]:
    curves = facts.find("trained_model", "curves.json")
    objectives = facts.find("trained_model", "model.json#/objectives")
    if isinstance(objectives, Cell):
        return {"LOSS_VALUE": objectives, "LOSS_FINAL": objectives}
    words = ", ".join(name.replace("_", " ") for name in objectives.value)
    name = told(words, objectives.source)
    if isinstance(curves, Cell) or not curves.value:
        return {"LOSS_VALUE": name, "LOSS_FINAL": curves if isinstance(curves, Cell) else not_measured("no epoch ran")}
    last = curves.value[-1]
    text = f"{words}; {number(last['train_loss'])} on train batches"
    if "loss" in last["validation"]:
        text += f", {number(last['validation']['loss'])} on validation rows"
    return {"LOSS_VALUE": name, "LOSS_FINAL": told(f"{text} after the last epoch", objectives.source, curves.source)}


def _cell(found: Found | Cell, unit: str) -> Cell:
    return found if isinstance(found, Cell) else found.cell(unit)
