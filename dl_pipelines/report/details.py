"""Plain data as short text for people: what a technique tells of itself. It knows no technique and no key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from dl_pipelines.evaluation.wording import number
from dl_pipelines.report.cells import interval

MOST, LONGEST = 6, 600
"""Items of a list that are told, and letters of the whole."""


def in_words(details: Mapping[str, Any]) -> str:
    """`name: value; other name: value`; long lists and long text are cut, and say so."""
    text = "; ".join(f"{_named(key)}: {_told(value)}" for key, value in details.items())
    return text if len(text) <= LONGEST else f"{text[:LONGEST].rstrip()} ..."


def _told(value: Any, inside: bool = False) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return _mapping(cast("Mapping[str, Any]", value), inside)
    if isinstance(value, Sequence) and not isinstance(value, str):
        return _list(cast("Sequence[Any]", value), inside)
    return number(value)


def _mapping(value: Mapping[str, Any], inside: bool) -> str:
    if {"value", "low", "high"} <= set(value):
        return f"{number(value['value'])} {interval(cast('Mapping[str, float]', value))}"
    told = [f"{_named(key)} {_told(item, inside=True)}" for key, item in list(value.items())[: 2 * MOST]]
    left = len(value) - len(told)
    text = ", ".join([*told, *([f"and {left} more"] if left else [])]) or "none"
    return f"({text})" if inside else text


def _list(value: Sequence[Any], inside: bool) -> str:
    told = [_told(item, inside=True) for item in value[:MOST]]
    left = len(value) - len(told)
    text = ", ".join([*told, *([f"and {left} more"] if left else [])]) or "none"
    return f"({text})" if inside and value else text


def _named(key: object) -> str:
    return str(key).replace("_", " ")
