"""Figures for people: in tables, pictures and the report. Nothing is measured here."""

from __future__ import annotations

from typing import Any


def number(value: Any) -> str:
    """A number for people: four significant digits, no exponent, whole numbers with separators; else `str`."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int) or (float(value).is_integer() and abs(value) < 1e9):
        return f"{int(value):,}"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    if abs(value) >= 1e-3:
        return f"{value:.4g}"
    return f"{value:.7f}".rstrip("0").rstrip(".")


def percent(value: float) -> str:
    """A share as a figure in percent, without the sign."""
    text = f"{100 * value:.2f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def in_unit(value: float, unit: str) -> str:
    """A value with its unit; a share in percent, with the sign."""
    return f"{percent(value)}%" if unit == "share" else f"{number(value)} {unit}".strip()


def plural(count: int, word: str) -> str:
    """`1 day`, `4 days`."""
    return f"{count:,} {word}" if count == 1 else f"{count:,} {word}s"
