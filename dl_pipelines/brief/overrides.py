"""Experiments: a named set of overrides of a brief (`training.epochs=20`), from training on."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

import yaml

from dl_pipelines.brief.errors import BriefError, Problem, closest
from dl_pipelines.brief.loading import Check, Kinds, brief_from
from dl_pipelines.brief.sections import Brief

BASE = "base"
"""The experiment without overrides."""

FIXED = ("project", "problem.task", "data", "lifecycle")
"""What an experiment may not override: its rows and questions must stay comparable with the base."""

OPEN = ("params", "thresholds")
"""Mappings of a brief whose keys are free in the frame: an override may add one, and the brief is checked after."""

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}")


def check_experiment_name(name: str) -> str:
    """`name` when it may name an experiment. Raises ValueError."""
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"found the experiment name {name!r}; expected up to 40 lower case letters, digits, - and _, "
            "starting with a letter or digit"
        )
    return name


def parse_settings(settings: Iterable[str]) -> dict[str, Any]:
    """`["training.epochs=20"]` -> `{"training.epochs": 20}`; values are YAML. Raises BriefError."""
    parsed: dict[str, Any] = {}
    for setting in settings:
        path, found, value = setting.partition("=")
        if not found or not path.strip():
            raise BriefError("--set", [Problem("", "path=value, such as training.epochs=20", repr(setting))])
        try:
            parsed[path.strip()] = yaml.safe_load(value)
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise BriefError("--set", [Problem(path, "a YAML value", repr(value))]) from error
    return parsed


def experiment_name(overrides: Mapping[str, Any]) -> str:
    """The experiment that these overrides make: `set-<digest>`, or the base when there are none."""
    if not overrides:
        return BASE
    text = json.dumps(dict(sorted(overrides.items())), sort_keys=True, default=str)
    return f"set-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def with_overrides(
    brief: Brief,
    overrides: Mapping[str, Any],
    kinds: Kinds,
    checks: Iterable[Check] = (),
    source: str = "--set",
) -> Brief:
    """The brief with dotted paths replaced, validated again. Raises BriefError."""
    data = brief.model_dump(mode="json")
    problems = []
    for path, value in overrides.items():
        parts = path.split(".")
        if any(f"{path}.".startswith(f"{fixed}.") or f"{fixed}.".startswith(f"{path}.") for fixed in FIXED):
            problems.append(
                Problem(path, f"a field outside {', '.join(FIXED)}, which every experiment of a brief shares")
            )
            continue
        problem = _assign(data, parts, value)
        if problem:
            problems.append(problem)
    if problems:
        raise BriefError(source, problems)
    return brief_from(data, source, kinds, checks)


def _assign(data: dict[str, Any], parts: list[str], value: Any) -> Problem | None:
    here: Any = data
    for depth, part in enumerate(parts):
        last = depth == len(parts) - 1
        if isinstance(here, list) and part.isdigit() and int(part) < len(here):
            key: Any = int(part)
        elif isinstance(here, dict) and (part in here or (depth and parts[depth - 1] in OPEN)):
            key = part
        else:
            allowed = sorted(here) if isinstance(here, dict) else []
            return Problem(
                ".".join(parts[: depth + 1]),
                f"one of {', '.join(allowed)}" if allowed else "no such field",
                repr(part),
                None,
                closest(part, allowed),
            )
        if last:
            here[key] = value
        else:
            here = here[key] if isinstance(here, list) else here.setdefault(key, {})
    return None
