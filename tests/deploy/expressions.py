"""What the dashboard and the alert rules ask Prometheus for: their expressions, parsed, and the metrics these name."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
DASHBOARD, ALERTS = DEPLOY / "grafana-dashboard.json", DEPLOY / "alerts.yaml"
PROMETHEUS = {"up"}
"""What Prometheus itself adds to each scrape."""


def dashboard() -> dict[str, Any]:
    """The dashboard."""
    return json.loads(DASHBOARD.read_text())


def rules() -> list[dict[str, Any]]:
    """Recording and alerting rules, in order."""
    return [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]


def asked(board: dict[str, Any]) -> list[str]:
    """The expressions of a dashboard's panels, with Grafana's variables filled in."""
    found = [target["expr"] for panel in board["panels"] for target in panel.get("targets", [])]
    return [re.sub(r"\$(project|job)\b", ".*", expr).replace("$__rate_interval", "1m") for expr in found]


def selectors(expr: str) -> Iterator[tuple[str, set[str]]]:
    """Metrics that an expression names, with the labels it selects by. Raises ValueError when it does not parse."""
    import promql_parser

    def walk(node: Any) -> Iterator[Any]:
        if isinstance(node, promql_parser.VectorSelector):
            yield node
        for name in ("expr", "lhs", "rhs", "vector_selector", "param"):
            child = getattr(node, name, None)
            if child is not None:
                yield from walk(child)
        for child in getattr(node, "args", None) or []:
            yield from walk(child)

    for node in walk(promql_parser.parse(expr)):
        yield node.name, {matcher.name for matcher in node.matchers.matchers}


def grouped(expr: str) -> set[str]:
    """Labels that an expression groups or matches by."""
    return {name.strip() for names in re.findall(r"(?:by|on) \(([^)]*)\)", expr) for name in names.split(",") if name}
