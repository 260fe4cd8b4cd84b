"""A brief's JSON Schema for editors, and a small brief to start from."""

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

_NEW = """\
# {name}: what the system must do, from which data, how accurate, how fast. `dlp brief schema` describes every field.
project: {name}

problem:
  description: What is decided, and for whom.
  task:
    name: image_classification
    params: {{classes: [0, 1, 2, 3, 4, 5, 6, 7, 8, 9], height: 8, width: 8, channels: 1}}
  targets:
    - {{metric: accuracy, op: ">=", value: 0.95, where: served}}
    - {{metric: latency_p95_ms, op: "<=", value: 20, where: served}}

data:
  source: digits  # or: {{name: image_folder, params: {{path: A_FOLDER}}}} with a folder a class
"""


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


def new(name: str, folder: Path) -> Path:
    """Write `folder/NAME.yaml`, a valid brief. Raises BriefError for a bad name, ValueError when the file is there."""
    path, text = folder / f"{name}.yaml", _NEW.format(name=name)
    catalog.read_brief(text, str(path))
    if path.exists():
        raise ValueError(f"found {path} already; expected a new name; nothing was overwritten")
    durable.write_text(path, text)
    return path
