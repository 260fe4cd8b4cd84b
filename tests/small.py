"""A brief whose whole line takes seconds: few digits, a narrow network, one candidate."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import yaml

SHIFT = [
    {"name": "rotation", "params": {"degrees": 40}},
    {"name": "noise", "params": {"std": 40}},
    {"name": "brightness", "params": {"factor": [0.4, 0.5]}},
]
SMALL: dict[str, Any] = {
    "project": "small",
    "problem": {
        "task": {
            "name": "image_classification",
            "params": {"classes": list(range(10)), "height": 8, "width": 8, "channels": 1},
        },
        "targets": [{"metric": "accuracy", "op": ">=", "value": 0.2, "where": "served"}],
    },
    "data": {"source": {"name": "digits", "params": {"first_records": 600, "per_day": 300, "live_records": 297}}},
    "architecture": {"family": {"name": "cnn", "params": {"width": 8}}},
    "training": {"epochs": 2, "learning_rate": 0.01},
    "distributed": {"communicator": "single", "workers": 1},
    "evaluation": {"resamples": 100},
    "compression": {"techniques": [], "runtimes": ["onnxruntime"], "timing_rounds": 5},
    "serving": {"load_seconds": 0.2, "load_clients": 2},
    "monitoring": {
        "min_records": 100,
        "resamples": 100,
        "traffic": {
            "name": "replay",
            "params": {"days": [{"name": "calm", "records": 120}, {"name": "shifted", "records": 120, "shift": SHIFT}]},
        },
    },
}
"""Four days of arrivals, 600 records and then 300 a day."""


def small(**changed: Any) -> dict[str, Any]:
    """SMALL with fields replaced: `training={"epochs": 3}` changes that one of its section."""
    brief = deepcopy(SMALL)
    for name, value in changed.items():
        brief[name] = {**brief.get(name, {}), **value} if isinstance(value, dict) else value
    return brief


def write(folder: Path, brief: dict[str, Any]) -> Path:
    """As a file that `dlp` takes."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{brief['project']}.yaml"
    path.write_text(yaml.safe_dump(brief, sort_keys=False))
    return path
