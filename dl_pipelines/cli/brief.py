"""A brief's JSON Schema for editors, and a small brief of each task to start from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dl_pipelines import catalog
from dl_pipelines.brief import Brief, Kind
from dl_pipelines.store import durable

_REFS = {
    "TaskRef": "task", "SourceRef": "source", "FamilyRef": "family", "AugmentationRef": "augmentation",
    "TechniqueRef": "technique", "TrafficRef": "traffic",
}  # fmt: skip

_STARTERS = Path(__file__).parent / "starters"
"""A small brief for each task, by its name; `{name}` stands for the project's."""


def schema() -> dict[str, Any]:
    """JSON Schema of a brief; each `{name, params}` lists the names there are and the params of each."""
    plain = Brief.model_json_schema()
    definitions = plain["$defs"]
    for ref, kind in _REFS.items():
        if ref in definitions:
            definitions[ref] = _one_of(catalog.KINDS[kind], definitions)
    return {**plain, "$schema": "https://json-schema.org/draft/2020-12/schema", "title": "A brief of dl-pipelines"}


def _one_of(kind: Kind, definitions: dict[str, Any]) -> dict[str, Any]:
    """A bare name, or `{name, params}` with the params of that name."""
    forms: list[dict[str, Any]] = [{"enum": kind.names}]
    for name in kind.names:
        model = kind.params_model(name)
        params = model.model_json_schema(ref_template="#/$defs/{model}")
        for inner, value in params.pop("$defs", {}).items():
            definitions.setdefault(inner, value)
        forms.append({
            "type": "object", "additionalProperties": False, "required": ["name"],
            "properties": {"name": {"const": name}, "params": params},
        })  # fmt: skip
    return {"title": kind.kind, "anyOf": forms}


def starters() -> list[str]:
    """The tasks that a small brief is there for."""
    return sorted(path.stem for path in _STARTERS.glob("*.yaml"))


def new(name: str, folder: Path, task: str) -> Path:
    """Write `folder/NAME.yaml`, a valid brief of a task. Raises BriefError (a bad name), ValueError (it is there)."""
    if task not in starters():
        raise ValueError(f"found --task {task!r}; expected one of {', '.join(starters())}")
    path = folder / f"{name}.yaml"
    text = (_STARTERS / f"{task}.yaml").read_text(encoding="utf-8").replace("{name}", name)
    catalog.read_brief(text, str(path))
    if path.exists():
        raise ValueError(f"found {path} already; expected a new name; nothing was overwritten")
    durable.write_text(path, text)
    return path
