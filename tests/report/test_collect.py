"""A window of many days in a report: summed up, small, cited by one digest, checked against the disk, kept by gc."""

from __future__ import annotations

import json

import pytest

from dl_pipelines.report.collect import collect, read
from dl_pipelines.report.facts import digest_of, source_of_days
from dl_pipelines.report.make import make_implementation_report
from dl_pipelines.report.template import framework, parse
from dl_pipelines.report.verify import Reader, cells, problems
from dl_pipelines.store import garbage
from dl_pipelines.store.artifacts import ArtifactError
from dl_pipelines.store.digest import digest_json
from tests.report.series import SHOWN

STAGES = ("raw_data", "validated_data")


@pytest.fixture
def reported(series, series_brief, series_task):
    line, partition = series
    return line, partition, make_implementation_report(line, partition, series_brief, series_task)


def test_days_are_summed_up_under_one_digest(reported):
    line, _, artifact = reported
    report = artifact.read_json("report.json")
    found = dict(cells(report))
    digests = [line.find("raw_data", day).digest for day in line.partitions("raw_data")]
    volume = found["section 2: Raw Data Volume: RAW_VOLUME"]
    assert volume["value"] == SHOWN * 0.25
    field = "outcome.json#/measured/megabytes"
    assert volume["source"]["of"] == [
        {"stage": "raw_data", "digest": digest_json(digests), "field": field, "days": SHOWN}
    ]
    assert found["section 2: Quality Score: QUALITY_SCORE"]["value"] == (9 + 10 + 11) / (10 + 11 + 12)
    assert found["opening: DATA_VOLUME"]["value"] == 30


def test_one_day_is_cited_itself():
    assert digest_of(["a"]) == "a"
    assert source_of_days("raw_data", ["a"], "x") == {"stage": "raw_data", "digest": "a", "field": "x"}


def test_the_lineage_has_a_line_a_stage(reported):
    line, _, artifact = reported
    lineage = {item["name"]: item for item in artifact.read_json("report.json")["lineage"]}
    days = [day.key for day in line.partitions("raw_data")]
    for stage in STAGES:
        assert lineage[stage]["days"] == {"first": days[0], "last": days[-1], "count": SHOWN}
    assert len(lineage) == len(STAGES) + 3
    assert f"| raw_data | {lineage['raw_data']['digest'][:16]} | {SHOWN} days, {days[0]} to {days[-1]} |" in (
        artifact.file("report.md").read_text()
    )


def test_what_a_report_cites_is_found_through_its_window(reported):
    line, _, artifact = reported
    assert set(artifact.parents) == {"training_window", "trained_model", "evaluation"}
    kept = garbage.with_parents(garbage.stored(line), [artifact.digest])
    for stage in STAGES:
        assert {line.find(stage, day).digest for day in line.partitions(stage)} <= kept


def test_without_a_window_the_day_itself_is_a_parent(tmp_path, reported, series_brief, series_task):
    line, partition, _ = reported
    other = type(line)(type(line.home)(tmp_path).prepare(), "demand")
    there = line.find("raw_data", partition.daily)

    def again(draft):
        for name in there.files:
            draft.write_json(name, there.read_json(name))
        draft.measure(**there.measured)

    other.make("raw_data", partition.daily, again, settings={}, parents={})
    artifact = make_implementation_report(other, partition, series_brief, series_task)
    assert set(artifact.parents) == {f"raw_data {partition.daily.key}"}


def check(reported, days):
    line, _, artifact = reported
    own = {
        name: artifact.read_json(name) for name in ("brief.json", "signature.json", "described.json", "production.json")
    }
    text = artifact.file("report.md").read_text()
    reader = Reader(line, own, days)
    return problems(framework(), parse(text), text, artifact.read_json("report.json"), reader)


def test_every_day_is_read_again_from_the_disk(reported, series_task):
    line, partition, _ = reported
    digests = collect(line, partition, series_task).digests
    assert check(reported, digests) == []
    first = line.find("validated_data", line.partitions("validated_data")[0])
    path = first.path / "quality.json"
    content = path.read_text()
    try:
        path.write_text(json.dumps({**json.loads(content), "clean": 1000}))
        found = check(reported, digests)
        assert len(found) == 3 and all("can't be read (ArtifactError: found quality.json" in item for item in found)
    finally:
        path.write_text(content)


def test_other_days_than_the_cited_ones_are_noticed(reported, series_task):
    line, partition, _ = reported
    digests = collect(line, partition, series_task).digests
    found = check(reported, {stage: items[:-1] for stage, items in digests.items()})
    assert found and all("ValueError: other days of" in item for item in found)


def test_a_damaged_day_is_no_report(reported, series_brief, series_task):
    line, partition, _ = reported
    first = line.find("validated_data", line.partitions("validated_data")[0])
    path = first.path / "quality.json"
    content = path.read_text()
    try:
        path.write_text("{}")
        with pytest.raises(ArtifactError, match=r"found quality.json of validated_data .* damaged"):
            read(collect(line, partition, series_task), partition, series_brief, series_task)
    finally:
        path.write_text(content)
