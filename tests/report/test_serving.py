"""Section 8 where a serving benchmark was asked for: its table, its curve, and the template's rows from it."""

import re
import xml.etree.ElementTree as ET
from typing import Any

import pytest

from dl_pipelines.report.make import make_implementation_report
from dl_pipelines.report.verify import cells


def step(rate: float, p99: float | None, unsent: int = 0) -> dict[str, Any]:
    return {"rate": rate, "answered_rps": rate - unsent, "p50_ms": 1.25, "p95_ms": 4.5, "p99_ms": p99, "p999_ms": None,
            "requests": 1000, "failed": 0, "unsent": unsent, "waited": 0, "late_p99_ms": 0.1, "client_cores": 0.4,
            "client_waits": 0.1, "connections": 32, "seconds": 1.0, "saturated": None, "failure": None}  # fmt: skip


def candidate(delay: float, instances: int, rate: float | None, reason: str | None = None) -> dict[str, Any]:
    below = None if rate or reason else 900.0
    return {"queue_delay_ms": delay, "instances": instances, "threads": 1, "place": None, "rate": rate, "below": below,
            "limit": None, "reason": reason}  # fmt: skip


CURVES = [
    {"name": "grpc", "at": 1, "rate": 987.654, "limit": "the client took 97% of a core", "reason": None,
     "steps": [step(500, 8.0), step(987.654, 17.5), step(1500, 240.0)]},
    {"name": "http", "at": None, "rate": None, "limit": None, "reason": "found no answer by HTTP", "steps": []},
    {"name": "shared_memory", "at": 0, "rate": 1500, "limit": None, "reason": None,
     "steps": [step(1500, 9.0), step(4000, None, unsent=40)]},
]  # fmt: skip
FOUND = {
    "limit_ms": 20.0, "limit_from": "the brief's target of latency_p95_ms", "cores": 2, "seconds": 1.0, "reason": None,
    "candidates": [candidate(0, 1, 810.0), candidate(2, 1, None), candidate(0, 2, 987.654),
                   candidate(0.5, 2, None, "no memory | for it")],
    "chosen": {"queue_delay_ms": 0, "instances": 2, "threads": 1}, "why": "two carry more", "protocols": CURVES,
}  # fmt: skip


def reported(whole, partition, brief, task, found: dict[str, Any]):
    def build(draft):
        draft.write_json("choice.json", found.get("chosen", {}))
        draft.measure(benchmark=found)

    whole.make("serving_benchmark", partition, build, settings={}, parents={})
    artifact = make_implementation_report(whole, partition, brief, task)
    assert artifact.gates[0].passed, artifact.gates[0].summary
    return artifact


@pytest.fixture
def report(whole, partition, brief, task):
    return reported(whole, partition, brief, task, FOUND)


def test_the_templates_rows_are_of_the_highest_rate_that_keeps_the_limit(report):
    found, text = dict(cells(report.read_json("report.json"))), report.file("report.md").read_text()
    throughput = found["section 8: Throughput: THROUGHPUT_REQ"]
    assert (throughput["value"], throughput["unit"]) == (987.654, "requests/s")
    assert throughput["source"]["field"] == "outcome.json#/measured/benchmark/protocols/0/steps/1/rate"
    assert found["section 8: Latency P99: P99_LATENCY"]["value"] == 17.5
    assert "- Throughput: 988 req/sec over gRPC with p99 ≤ 20 ms (shared memory 1,500)" in text
    assert "- Latency P50: 1.25ms at that rate" in text


def test_every_rate_and_every_candidate_is_told(report):
    text = report.file("report.md").read_text()
    for line in (
        "| gRPC | 988 (the highest with p99 ≤ 20 ms) | 988 | 1.25 | 4.5 | 17.5 | 1,000 | 0 |",
        "| gRPC | 1,500 | 1,500 | 1.25 | 4.5 | 240 | 1,000 | 0 |",
        "| shared memory | 4,000 | 3,960 | 1.25 | 4.5 | not measured: more than one in 100 requests was not answered "
        "| 1,000 | 40 |",
        "| 1 instance of 1 thread, 0 ms queue delay | 810 | not chosen (the brief has them) |",
        "| 2 instances of 1 thread, 0 ms queue delay | 988 | chosen |",
        "| 2 instances of 1 thread, 0.5 ms queue delay | not measured: no memory \\| for it | not chosen |",
    ):
        assert line in text
    assert "| HTTP | not measured: found no answer by HTTP |" in text
    assert "less than 900 requests/s: not more than the best before" in text
    assert "Two carry more." in text
    assert (
        "Above the highest rate over gRPC, the client took 97% of a core: the server alone may carry more." in text
    ), "what is not the server's limit is not told as such"
    assert "busy with something else" not in text
    assert "single rows, 1 s a rate, 32 connections, the client on the same 2 cores." in text


def test_the_curve_shows_p99_of_each_protocol_and_the_limit(report):
    page = report.file("report.html").read_text()
    (drawn,) = re.findall(r'<svg[^>]*aria-label="p99 by rate and protocol".*?</svg>', page)
    tree = ET.fromstring(drawn)
    dots = [item[0].text for item in tree if item.tag == "circle" and "dot" in item.get("class", "")]
    assert dots == [
        "gRPC at 500/s: 8 ms", "gRPC at 988/s: 17.5 ms", "gRPC at 1,500/s: 240 ms", "shared memory at 1,500/s: 9 ms"
    ]  # fmt: skip
    heights = [float(item.get("cy", 0)) for item in tree if "dot" in item.get("class", "")]
    (limit,) = [item.get("d", "") for item in tree if item.get("class") == "limit"]
    y = float(limit.split()[1].partition("H")[0])
    assert heights[2] < y < heights[1] < heights[0], "above the line is slower"
    words = [item.text for item in tree if item.tag == "text"]
    assert "p99 ≤ 20 ms" in words
    assert {"500", "1,000", "10", "100"} <= set(words)


def test_a_disturbed_curve_is_told_as_one(whole, partition, brief, task):
    disturbed = {**CURVES[0], "steps": [step(500, 80.0), *CURVES[0]["steps"][1:]]}
    artifact = reported(whole, partition, brief, task, {**FOUND, "protocols": [disturbed]})
    assert "Where a lower rate broke the limit and a higher one kept it" in artifact.file("report.md").read_text()


def test_without_one_the_section_is_of_the_load_test(whole, partition, brief, task):
    found = {"reason": "serving.benchmark.seconds is 0", "candidates": [], "protocols": []}
    made = reported(whole, partition, brief, task, found)
    text, page = made.file("report.md").read_text(), made.file("report.html").read_text()
    assert "- Throughput: 1,234 req/sec measured; the brief has no target" in text
    assert "Open loop at rising rates" not in text
    assert "p99 by rate" not in page
