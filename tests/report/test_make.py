import re
import shutil
import xml.etree.ElementTree as ET

import pytest
import yaml

from dl_pipelines import catalog
from dl_pipelines.evaluation.test_reads import count_test_reads
from dl_pipelines.report.collect import collect, read
from dl_pipelines.report.make import FILES, make_implementation_report
from dl_pipelines.report.scoring import signature
from dl_pipelines.report.sections import all_cells
from dl_pipelines.report.template import placeholders
from dl_pipelines.report.verify import cells
from dl_pipelines.store.artifacts import Gate
from dl_pipelines.store.home import Home
from dl_pipelines.store.workspace import Workspace
from tests.report.conftest import LATENCY, METRICS, served


def cell(report, place):
    return next(found for name, found in cells(report) if name == place)


def test_a_whole_line_is_reported_with_its_values(whole, partition, brief, task):
    artifact = make_implementation_report(whole, partition, brief, task)
    gates = {gate.name: gate for gate in artifact.gates}
    assert gates["complete"].passed is True and gates["complete"].blocking, gates["complete"].summary
    assert not gates["targets"].blocking
    report = artifact.read_json("report.json")
    metrics = whole.get("evaluation", partition).read_json("metrics.json")
    assert cell(report, "section 6: Accuracy: Test")["value"] == metrics["test"]["accuracy"]["value"]
    assert cell(report, "section 6: Loss: Training")["value"] == metrics["train"]["loss"]["value"]
    assert cell(report, "section 8: Latency P95: P95_LATENCY")["value"] == 3.25
    assert cell(report, "section 8: Availability: AVAILABILITY")["value"] == 1 - 1 / 2000
    assert cell(report, "section 3: Convolutional: Count")["value"] == 4
    assert cell(report, "section 5: GPUs: GPU_COUNT")["unit"] == "GPUs"
    assert artifact.read_json("verdict.json") == report["verdict"]


def test_the_compression_is_told_from_its_ledger(whole, partition, brief, task):
    artifact = make_implementation_report(whole, partition, brief, task)
    report, page = artifact.read_json("report.json"), artifact.file("report.html").read_text()
    ledger = whole.get("compressed_model", partition).measured["ledger"]
    (place,) = (at for at, row in enumerate(ledger) if row["chosen"])
    served = f"{ledger[place]['variant']} on {ledger[place]['runtime']}"
    at = f"section 7: The compression ledger: every variant tried: {served}"
    assert cell(report, f"{at}: Size (MB)")["value"] == ledger[place]["size_mb"]
    assert cell(report, f"{at}: Verdict")["value"] == f"serves: {ledger[place]['reason']}"
    assert cell(report, "section 7: Quantization: Original Size")["value"] == ledger[0]["size_mb"]
    assert "tried" in cell(report, "section 7: Quantization: Applied")["value"] or place > 1
    titles = [table["title"] for table in report["sections"][6]["extras"]]
    assert titles == ["The compression ledger: every variant tried", "What the techniques found on the way"]
    assert "<summary>What the techniques found on the way (" in page, "folded"
    assert "<h3>The compression ledger: every variant tried</h3>" in page, "short enough to be open"


def test_live_windows_fill_the_production_column(whole, partition, brief, task):
    artifact = make_implementation_report(whole, partition, brief, task)
    calm, shifted = artifact.read_json("production.json")["windows"]
    metrics = whole.get("compressed_model", partition).read_json("choice.json")["metrics"]
    assert calm["metrics"]["accuracy"]["value"] == metrics["accuracy"]["value"]
    assert shifted["metrics"]["accuracy"]["value"] == 0
    text = cell(artifact.read_json("report.json"), "section 6: Accuracy: Production")["value"]
    assert re.fullmatch(r"calm [\d.]+%; shifted 0%", text)


def test_an_unfinished_line_is_reported_with_reasons(line, partition, brief, task):
    artifact = make_implementation_report(line, partition, brief, task)
    assert {gate.name: gate.passed for gate in artifact.gates} == {"complete": True, "targets": False}
    report = artifact.read_json("report.json")
    assert report["verdict"]["verdict"] == "missed"
    assert cell(report, "section 8: Latency P95: P95_LATENCY") == {
        "value": None, "unit": "", "source": None, "reason": "not measured: triton_repository has not run",
    }  # fmt: skip
    assert cell(report, "section 1: GAN: Accuracy")["reason"] == "not measured: architecture_comparison has not run"
    assert cell(report, "section 5: Cost: TRAINING_COST")["value"] > 0, "the brief has a price of an hour"
    assert cell(report, "section 4: Epochs: Impact")["reason"] == "not measured: no search was run"


def test_a_report_of_nothing_has_a_reason_everywhere(tmp_path, partition, brief, task):
    empty = Workspace(Home(tmp_path).prepare(), brief.project)
    artifact = make_implementation_report(empty, partition, brief, task)
    assert artifact.gates[0].passed is True, artifact.gates[0].summary
    reasons = {found["reason"] for _, found in cells(artifact.read_json("report.json")) if found["reason"]}
    assert "not measured: raw_data has not run" in reasons
    assert "not measured: trained_model has not run" in reasons


def test_every_placeholder_has_a_cell(line, partition, brief, task):
    own = {"brief.json": brief.model_dump(mode="json"), "signature.json": signature(task)}
    facts = read(collect(line, partition, task), partition, brief, task, own)
    assert set(all_cells(facts)) == set(placeholders())


def test_the_same_artifacts_are_reported_once(line, partition, brief, task):
    first = make_implementation_report(line, partition, brief, task)
    folder = line.home.reports / brief.project / partition.slug
    assert all((folder / name).read_bytes() == first.file(name).read_bytes() for name in FILES)
    (folder / "report.html").unlink()
    again = make_implementation_report(line, partition, brief, task)
    assert again.digest == first.digest and again.outcome["made_at"] == first.outcome["made_at"]
    assert (folder / "report.html").is_file()


def test_a_compressed_target_is_scored_on_test_rows_and_the_look_is_counted(line, partition, brief, task):
    data = yaml.safe_load(brief.model_dump_json())
    data["problem"]["targets"] = [{"metric": "accuracy", "op": ">=", "value": 0.5, "where": "compressed"}]
    asked = catalog.read_brief(yaml.safe_dump(data), "asked.yaml")
    make_implementation_report(line, partition, brief, task)
    assert count_test_reads(line) == 0
    artifact = make_implementation_report(line, partition, asked, task)
    assert count_test_reads(line) == 1
    (target,) = artifact.read_json("verdict.json")["targets"]
    scored = artifact.read_json("compressed_test.json")
    assert target["met"] is True
    assert target["measured"] == scored["metrics"]["accuracy"]["value"]
    test = line.get("evaluation", partition).read_json("metrics.json")["test"]["accuracy"]["value"]
    assert abs(target["measured"] - test) < 0.03


def test_an_evaluation_of_another_model_is_not_reported(line, partition, brief, task):
    before, evaluated = line.get("trained_model", partition), line.get("evaluation", partition)

    def again(draft):
        for name in before.files:
            shutil.copyfile(before.file(name), draft.file(name))
        draft.gate(Gate("finite", True, "", blocking=True))
        draft.measure(**before.measured)

    parents = {"training_window": line.get("training_window", partition.daily)}
    now = line.make("trained_model", partition, again, settings={"trained": "again"}, parents=parents)
    report = make_implementation_report(line, partition, brief, task).read_json("report.json")
    assert cell(report, "section 6: Accuracy: Test")["reason"] == (
        f"not measured: evaluation {evaluated.short} is about another trained_model ({before.short}, now {now.short}); "
        "run evaluation again"
    )
    assert "compressed_model" in report["missing"]


def test_the_page_stands_alone_and_escapes_what_users_write(whole, partition, brief, task):
    data = yaml.safe_load(brief.model_dump_json())
    data["problem"]["description"] = "<script>alert(1)</script> | bars"
    hostile = catalog.read_brief(yaml.safe_dump(data), "hostile.yaml")
    artifact = make_implementation_report(whole, partition, hostile, task)
    assert artifact.gates[0].passed is True, artifact.gates[0].summary
    page = artifact.file("report.html").read_text()
    assert "<script" not in page and "&lt;script&gt;" in page
    assert not re.search(r"(src|href)=\"(?!#)", page) and "url(" not in page and "@import" not in page
    drawings = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert len(drawings) == 7
    for drawing in drawings:
        ET.fromstring(drawing)
    names = [name for name in placeholders() if f"[{name}]" in page]
    assert names == []


def test_a_failed_integrity_gate_is_on_top_of_the_report(line, partition, brief, task):
    served(line, partition, LATENCY, METRICS, parity=False)
    artifact = make_implementation_report(line, partition, brief, task)
    assert artifact.read_json("verdict.json")["verdict"] == "blocked"
    told = "triton_repository: live_parity: largest difference 0.5"
    assert artifact.read_json("verdict.json")["blocked_by"] == [told]
    for name in ("report.md", "report.html"):
        assert f"Blocked by {told}" in artifact.file(name).read_text()
    assert {gate.name: gate.passed for gate in artifact.gates} == {"complete": True, "targets": False}


@pytest.mark.parametrize("name", ["report.md", "report.json", "report.html"])
def test_a_report_names_no_path_of_the_machine(whole, partition, brief, task, name):
    artifact = make_implementation_report(whole, partition, brief, task)
    assert str(whole.home.root) not in artifact.file(name).read_text()
