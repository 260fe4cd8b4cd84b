"""Names in a brief (`{name, params}`) and the classes behind them; a class is imported when it is first asked for.

Each registered class has a nested Pydantic model `Params`, which validates the brief's `params` beside its own code,
so that a new task, family, source or technique never edits this room.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from dl_pipelines.brief.errors import closest


class Params(BaseModel):
    """Base of every registered thing's parameters: frozen, unknown fields refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Named(BaseModel):
    """A reference `{name, params}`; written as a bare string it has no params."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    params: dict[str, Any] = Field(default_factory=dict)


class UnknownName(ValueError):
    """A name that no registry entry has; `known` lists those that exist, `near` is the likeliest."""

    def __init__(self, kind: str, name: str, known: list[str]):
        self.kind, self.name, self.known, self.near = kind, name, known, closest(name, known)
        hint = f" (did you mean {self.near!r}?)" if self.near else ""
        super().__init__(f"no {kind} is called {name!r}; expected one of {', '.join(known)}{hint}")


class Kind:
    """One registry: what a word of the brief (`task`, `source`, `family` ...) may name, as `module:Class`."""

    def __init__(self, kind: str, entries: Mapping[str, str]):
        self.kind = kind
        self._entries = dict(entries)

    @property
    def names(self) -> list[str]:
        """Registered names, sorted."""
        return sorted(self._entries)

    def load(self, name: str) -> type[Any]:
        """The class behind `name`. Raises UnknownName."""
        if name not in self._entries:
            raise UnknownName(self.kind, name, self.names)
        module, attribute = self._entries[name].split(":")
        return getattr(importlib.import_module(module), attribute)

    def params_model(self, name: str) -> type[Params]:
        """The Pydantic model of the params of `name`. Raises UnknownName."""
        return self.load(name).Params

    def make(self, ref: Named) -> Any:
        """An instance: the class called with its validated params. Raises UnknownName or pydantic's error."""
        cls = self.load(ref.name)
        return cls(cls.Params.model_validate(ref.params))
