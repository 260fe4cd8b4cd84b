import pytest

from dl_pipelines.report.cells import Cell, not_measured
from dl_pipelines.report.template import PLACEHOLDER, Block, Table, fill, framework, parse, patterns, placeholders

TITLES = [
    "Problem Definition & Architecture Selection", "Data Pipeline & Preprocessing", "Model Architecture Design",
    "Training Configuration & Optimization", "Distributed Training & Scaling", "Model Evaluation & Validation",
    "Model Optimization & Compression", "Deployment & Serving", "Monitoring & Maintenance",
    "Continuous Learning & Improvement",
]  # fmt: skip


def test_the_template_has_its_ten_sections_and_tables():
    template = framework()
    assert [(section.number, section.title) for section in template.sections] == list(enumerate(TITLES, 1))
    tables = {
        section.number: part for section in template.sections for part in section.parts if isinstance(part, Table)
    }
    assert {number: len(table.rows) for number, table in tables.items()} == {1: 6, 3: 7, 4: 6, 6: 6, 7: 5, 9: 5, 10: 5}
    assert tables[6].columns == ["Metric", "Training", "Validation", "Test", "Production", "Threshold"]
    blocks = {number: [part.header for part in section.parts if isinstance(part, Block)]
              for number, section in enumerate(template.sections, 1)}  # fmt: skip
    assert blocks[5] == ["Infrastructure Setup", "Distributed Strategy", "Performance Metrics"]


def test_the_reader_finds_every_placeholder():
    found = {name for pattern in patterns(framework()) for name in PLACEHOLDER.findall(pattern)}
    assert found == set(placeholders())
    assert len(placeholders()) > 200


@pytest.mark.parametrize(
    ("pattern", "cell", "text"),
    [
        ("[X]%", Cell(0.5, text="50", note="[40, 60]"), "50% [40, 60]"),
        ("$[X]", not_measured("no price"), "not measured: no price"),
        ("[X]/10", Cell("a; b", text="a; b", whole=True), "a; b"),
        ("N/A", Cell(1, text="1"), "N/A"),
    ],
)
def test_a_pattern_keeps_its_unit_unless_there_is_a_reason(pattern, cell, text):
    assert fill(pattern, {"X": cell}).text == text


def test_two_placeholders_in_one_place():
    cells = {"GPU_COUNT": Cell(0, text="0"), "GPU_TYPE": Cell(reason="not applicable: none here")}
    assert fill("[GPU_COUNT] x [GPU_TYPE]", cells).text == "0 x (not applicable: none here)"


def test_a_missing_target_leaves_no_lone_unit_in_the_opening():
    text = "Build it for [PROJECT_NAME], targeting [ACCURACY_TARGET]% accuracy"
    cells = {"PROJECT_NAME": Cell("p", text="p"), "ACCURACY_TARGET": Cell(reason="not applicable: no target")}
    assert fill(text, cells).text == "Build it for p, targeting (not applicable: no target) accuracy"


def test_escaped_bars_are_read_back():
    (section,) = parse("### 1. One\n\n| **A** | **B** |\n|---|---|\n| x | a \\| b |\n").sections
    assert section.parts == [Table(["A", "B"], [("x", ["a | b"])])]


def test_a_target_that_says_it_all_replaces_the_words_behind_it():
    text = "targeting [ACCURACY_TARGET]% accuracy, [LATENCY_TARGET]ms inference latency"
    cells = {
        "ACCURACY_TARGET": Cell(0.05, text="MAPE at most 5%", whole=True), "LATENCY_TARGET": Cell(10, text="10"),
    }  # fmt: skip
    assert fill(text, cells).text == "targeting MAPE at most 5%, 10ms inference latency"


def test_tables_of_ours_are_not_the_templates():
    markdown = "### 1. One\n\n| **A** |\n|---|\n| x |\n\n#### Ours\n\n| **B** |\n|---|\n| y |\n\n### 2. Two\n"
    one, two = parse(markdown).sections
    assert one.parts == [Table(["A"], [("x", [])])]
    assert two.title == "Two"
