"""Imports the router's own modules as its interpreter does: by plain names, `wire` beside them."""

import sys

from dl_pipelines.serving.repository import ROUTER

for name, module in list(sys.modules.items()):
    if name.startswith("dl_pipelines.wire"):  # the very same modules, so that their errors are the same classes
        sys.modules.setdefault(name.removeprefix("dl_pipelines."), module)
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
