"""The targets that a bundle may be for: one line each."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module

from dl_pipelines.bundles.base import Build

TARGETS: Mapping[str, str] = {
    "edge": "dl_pipelines.bundles.edge",
    "mobile": "dl_pipelines.bundles.mobile",
    "embedded": "dl_pipelines.bundles.embedded",
    "cloud": "dl_pipelines.bundles.cloud",
}


def builder(target: str) -> Build:
    """The function `build` of a target's module. Raises ValueError with the names that there are."""
    if target not in TARGETS:
        raise ValueError(f"found the target {target!r}; expected one of {', '.join(TARGETS)}")
    return import_module(TARGETS[target]).build
