"""The alert rules: what they name is exposed or recorded, and where Prometheus' own tool is, it agrees."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.deploy.expressions import ALERTS, PROMETHEUS, grouped, rules, selectors

FIELDS = {"record", "alert", "expr", "for", "labels", "annotations"}


def test_rules_have_what_prometheus_knows_and_people_need():
    found = rules()
    names = [rule.get("alert") or rule["record"] for rule in found]
    assert len(set(names)) == len(names)
    for rule in found:
        assert set(rule) <= FIELDS and ("alert" in rule) != ("record" in rule)
        assert re.fullmatch(r"\d+[smh]", rule.get("for", "1m"))
        if "alert" in rule:
            assert rule["labels"]["severity"] in {"info", "warning", "critical"}
            assert rule["annotations"].keys() == {"summary", "description"}
            used = set(re.findall(r"\$labels\.(\w+)", str(rule["annotations"])))
            assert used <= grouped(rule["expr"]) | {"project"}, "a label that the alert does not have"


def test_every_expression_parses_and_recorded_metrics_come_first():
    pytest.importorskip("promql_parser")
    recorded: set[str] = set()
    for rule in rules():
        for name, _ in selectors(rule["expr"]):
            assert name in recorded | PROMETHEUS or name.startswith(("dlp_", "nv_")), name
            assert not name.startswith("dlp:") or name in recorded
        recorded |= {rule["record"]} if "record" in rule else set()


@pytest.mark.skipif(not shutil.which("promtool"), reason="promtool, of Prometheus, is not on the PATH")
def test_prometheus_own_tool_agrees():
    tests = Path(__file__).parent / "alerts_promtool.yaml"
    for command in (["check", "rules", str(ALERTS)], ["test", "rules", str(tests)]):
        said = subprocess.run(["promtool", *command], capture_output=True, text=True, check=False)
        assert said.returncode == 0, said.stdout + said.stderr
