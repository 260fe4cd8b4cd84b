"""What the page's style sheet and filters do to what is drawn and written."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest

from dl_pipelines.report import charts
from dl_pipelines.report.facts import Document, Facts
from dl_pipelines.report.render import coded
from dl_pipelines.report.sections import serving
from dl_pipelines.report.template import TEMPLATES
from dl_pipelines.tasks.image_classification import ImageClassification

CSS = (TEMPLATES / "report.css").read_text(encoding="utf-8")


def fill(kinds: set[str]) -> str | None:
    """The fill of a shape of an SVG with these classes: of the rules that match, the last of the most specific."""
    found: list[tuple[int, int, str]] = []
    for place, (selectors, body) in enumerate(re.findall(r"([^{}]+)\{([^{}]*)\}", CSS)):
        value = re.search(r"(?:^|[; ])fill: ([^;]+);", body)
        for selector in selectors.split(",") if value else []:
            without = re.findall(r':not\(\[class\*="([^"]+)"\]\)', selector)
            plain = re.sub(r":not\([^)]*\)", "", selector).strip()
            match = re.fullmatch(r"(svg )?((?:\.[\w-]+)+)", plain)
            if match is None or any(part in kind for part in without for kind in kinds):
                continue
            classes = match[2][1:].split(".")
            if set(classes) <= kinds:
                found.append((10 * (len(classes) + len(without)) + bool(match[1]), place, value[1] if value else ""))
    return max(found)[2] if found else None


def test_the_windows_of_the_drift_chart_have_the_colours_of_its_legend():
    windows = [
        {"name": name, "decision": "quiet", "features": [{"name": "mean", "value": 0.1, "threshold": 0.2}]}
        for name in ("calm", "shifted")
    ]
    documents = {"drift_report": Document("drift_report", "d" * 64, {"report.json": {"windows": windows}})}
    drawn = str(charts.drift(Facts("2026-01-03|base", {}, documents, {}, {}, ImageClassification.metrics, "accuracy")))
    bars = [set(kinds.split()) for kinds in re.findall(r'<rect class="([^"]*)"', drawn)]
    keys = re.findall(r'<i class="([^"]*)"', drawn)
    assert len(bars) == len(keys) == 2
    backgrounds = [re.search(rf"\.keys \.{key}[^{{]*\{{ background: ([^;]+);", CSS) for key in keys]
    assert [fill(bar) for bar in bars] == [found and found[1] for found in backgrounds]
    assert all(one != other for one, other in pairwise(fill(bar) for bar in bars))
    assert fill({"bar"}) == "var(--muted)" and fill({"bar", "chosen"}) == "var(--s0)"


def test_a_target_beside_a_measured_latency_has_its_unit(brief, task):
    plain = brief.model_dump(mode="json")
    plain["problem"]["targets"] = [{"metric": "latency_p95_ms", "op": "<=", "value": 20.0, "where": "served"}]
    files = {"outcome.json": {"measured": {"latency": {"p50_ms": 1.5, "p95_ms": 3.25}}}}
    documents = {"triton_repository": Document("triton_repository", "d" * 64, files)}
    found = serving.cells(Facts("2026-01-03|base", plain, documents, {}, {}, task.metrics, task.primary))
    assert found["P95_LATENCY"].note == "measured; target ≤ 20 ms"
    assert found["P50_LATENCY"].note == "measured; the brief has no target"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("`dlp run` with `--set a=3` measures it", "<code>dlp run</code> with <code>--set a=3</code> measures it"),
        ("a lone ` stays", "a lone ` stays"),
        ("`<b>` & <i>", "<code>&lt;b&gt;</code> &amp; &lt;i&gt;"),
    ],
)
def test_what_stands_between_backticks_is_code(text, shown):
    assert str(coded(text)) == shown
