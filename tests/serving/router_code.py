"""Imports the router's own modules as its interpreter does: by plain names, `wire` beside them."""

import importlib
import pkgutil
import sys

from dl_pipelines import wire
from dl_pipelines.serving.repository import ROUTER

sys.modules["wire"] = wire
for module in pkgutil.iter_modules(wire.__path__):  # the very same modules, so that their errors are the same classes
    sys.modules[f"wire.{module.name}"] = importlib.import_module(f"{wire.__name__}.{module.name}")
sys.path.append(str(ROUTER / "1"))

import answering  # noqa: E402  # pyright: ignore[reportMissingImports]
import asked  # noqa: E402  # pyright: ignore[reportMissingImports]
import breaker  # noqa: E402  # pyright: ignore[reportMissingImports]
import calls  # noqa: E402  # pyright: ignore[reportMissingImports]
import checks  # noqa: E402  # pyright: ignore[reportMissingImports]
import counters  # noqa: E402  # pyright: ignore[reportMissingImports]
import hanging  # noqa: E402  # pyright: ignore[reportMissingImports]
import journal  # noqa: E402  # pyright: ignore[reportMissingImports]
import lines  # noqa: E402  # pyright: ignore[reportMissingImports]

__all__ = ["answering", "asked", "breaker", "calls", "checks", "counters", "hanging", "journal", "lines"]
