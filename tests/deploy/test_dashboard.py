"""The dashboard: known to Grafana's own schema, every expression parses, nothing overlaps."""

from __future__ import annotations

import copy
import json

import pytest

from tests.deploy.expressions import asked, dashboard, selectors


def through_schema(board):
    """What is left of a dashboard that is read into Grafana's generated classes and written again."""
    pytest.importorskip("grafana_foundation_sdk")
    from grafana_foundation_sdk.cog.encoder import JSONEncoder
    from grafana_foundation_sdk.cog.plugins import register_default_plugins
    from grafana_foundation_sdk.models.dashboard import Dashboard

    register_default_plugins()
    return json.loads(JSONEncoder().encode(Dashboard.from_json(copy.deepcopy(board))))


def lost(before, after, path=""):
    if isinstance(before, dict) and isinstance(after, dict):
        return [
            item
            for key, value in before.items()
            for item in (lost(value, after[key], f"{path}/{key}") if key in after else [f"{path}/{key}"])
        ]
    if isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        return [item for at, pair in enumerate(zip(before, after, strict=True)) for item in lost(*pair, f"{path}/{at}")]
    return [] if before == after else [path]


def test_grafanas_schema_knows_every_key():
    board = dashboard()
    assert lost(board, through_schema(board)) == []
    wrong = copy.deepcopy(board)
    panel = wrong["panels"][7]
    panel["gridPos"]["width"] = panel["fieldConfig"]["defaults"]["units"] = panel["targets"][0]["query_"] = 1
    assert sorted(lost(wrong, through_schema(wrong))) == [
        "/panels/7/fieldConfig/defaults/units", "/panels/7/gridPos/width", "/panels/7/targets/0/query_"
    ], "it would be noticed"  # fmt: skip


def test_every_expression_parses_and_names_a_metric():
    pytest.importorskip("promql_parser")
    found = asked(dashboard())
    assert len(found) >= 20
    for expr in found:
        assert list(selectors(expr)), expr
        assert "$" not in expr, "a variable that Grafana would not fill in"
    with pytest.raises(ValueError, match="unclosed left parenthesis"):
        list(selectors("sum by (x rate(a[5m])"))


def test_panels_are_numbered_apart_and_stand_side_by_side():
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken = set()
    for panel in panels:
        place = panel["gridPos"]
        assert place["x"] >= 0 and place["x"] + place["w"] <= 24
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken, panel["title"]
        taken |= cells
        letters = [target["refId"] for target in panel.get("targets", [])]
        assert len(set(letters)) == len(letters)
        assert panel["type"] == "row" or all(target["legendFormat"] for target in panel["targets"])


def test_its_variables_are_the_ones_that_panels_use():
    board = dashboard()
    names = {variable["name"] for variable in board["templating"]["list"]}
    assert names == {"datasource", "job", "project"}
    text = json.dumps(board["panels"])
    assert all(f"${name}" in text or f"${{{name}}}" in text for name in names)
    assert {panel["datasource"]["uid"] for panel in board["panels"] if panel["type"] != "row"} == {"${datasource}"}
