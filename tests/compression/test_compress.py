import json
import shutil

import numpy as np
import pytest

from dl_pipelines.compression.compress import NoEnergyCounter, settings_of
from dl_pipelines.compression.static_int8 import StaticInt8
from dl_pipelines.inference.parity import session_outputs, torch_outputs
from dl_pipelines.inference.runtimes import MODEL_FILES, open_runtime
from dl_pipelines.store.artifacts import ArtifactError
from dl_pipelines.store.home import Home
from dl_pipelines.store.workspace import Workspace
from tests.compressing import compress


@pytest.fixture(scope="module")
def validation(compressed_model, training_window, workspace, brief, task):
    from dl_pipelines.data.batches import window_rows

    return window_rows(workspace, training_window, "validation", brief.data, task)


def other_home(workspace, tmp_path, *, choices):
    """A copy of the home in which the stage has not run; its choices may be known."""
    shutil.copytree(workspace.home.root, tmp_path / "home", symlinks=True)
    home = Home(tmp_path / "home")
    shutil.rmtree(home.artifacts / workspace.project / "compressed_model")
    index = home.index / workspace.project / "compressed_model"
    for part in index.iterdir():
        if part.name != "choices" or not choices:
            shutil.rmtree(part)
    return Workspace(home, workspace.project)


def test_the_ledger_lists_every_variant_on_every_runtime_with_its_reason(compressed_model):
    ledger = compressed_model.measured["ledger"]
    assert [(row["variant"], row["runtime"]) for row in ledger] == [
        (variant, runtime)
        for variant in ("fp32", "static_int8", "static_int8_reduced")
        for runtime in ("onnxruntime", "openvino")
    ]
    assert compressed_model.measured["baseline"] == ledger[0]
    for row in ledger:
        assert row["latency_low"] <= row["latency_p50_ms"] <= row["latency_high"]
        assert row["size_mb"] > 0
        assert row["metrics"]["accuracy"]["low"] <= row["metrics"]["accuracy"]["value"]
        assert row["loss"]["low"] <= row["loss"]["value"] <= row["loss"]["high"]
        assert row["reason"]
    assert sum(row["chosen"] for row in ledger) == 1
    assert compressed_model.show["ledger"]["md"].count("\n") == 1 + len(ledger)


def test_what_serves_was_taken_last_and_is_as_fast_as_any_of_its_step(compressed_model):
    ledger = compressed_model.measured["ledger"]
    (chosen,) = (row for row in ledger if row["chosen"])
    assert chosen is [row for row in ledger if row["taken"]][-1]
    alike = [row for row in ledger if row["step"] == chosen["step"] and row["kept"] and row is not ledger[0]]
    if chosen is ledger[0]:
        assert not alike
    else:
        assert chosen in alike
        assert chosen["speed_up"]["low"] > 1
        fastest = min(alike, key=lambda row: row["latency_p50_ms"])
        assert chosen["latency_low"] <= fastest["latency_high"]


def test_the_artifact_holds_one_model_and_what_it_answers(compressed_model, validation, task):
    choice = compressed_model.read_json("choice.json")
    names = [f"model/{name}" for name in MODEL_FILES[choice["runtime"]]]
    network = ["network.json", "network.onnx", "network.safetensors"]
    assert sorted(compressed_model.files) == sorted(["choice.json", "outputs_validation.npy", *network, *names])
    stored = json.loads((compressed_model.path / "ledger" / "compression.json").read_text())
    assert stored == compressed_model.measured["ledger"]
    assert list(compressed_model.contents) == ["ledger"]
    assert choice["file"] == names[0]
    assert choice["size_bytes"] == sum((compressed_model.path / name).stat().st_size for name in names)
    outputs = np.load(compressed_model.file("outputs_validation.npy"), allow_pickle=False)
    session = open_runtime(choice["runtime"], compressed_model.file(choice["file"]), 2)
    np.testing.assert_allclose(session_outputs(session, validation.inputs, 7), outputs, atol=1e-3)
    accuracy = task.measure(outputs, validation.targets)["accuracy"]
    assert choice["metrics"]["accuracy"]["value"] == pytest.approx(accuracy)


def test_it_answers_as_the_trained_model(compressed_model, trained_model, validation, task):
    from dl_pipelines.models.restore import load_served

    reference = torch_outputs(load_served(trained_model, task), validation.inputs)
    outputs = np.load(compressed_model.file("outputs_validation.npy"), allow_pickle=False)
    assert (reference.argmax(1) == outputs.argmax(1)).mean() >= 0.98
    gates = {gate.name: gate for gate in compressed_model.gates}
    assert gates["parity"].passed and gates["parity"].blocking
    assert gates["parity"].facts["export_difference"] < 1e-3
    assert gates["parity"].facts["rows"] == len(validation)
    assert gates["accuracy_budget"].passed and not gates["accuracy_budget"].blocking
    compressed_model.require_gates()


def test_made_again_it_is_found(compressed_model, workspace, partition, brief, task):
    again = compress(brief, workspace, partition, task)
    assert again.digest == compressed_model.digest
    assert again.outcome["made_at"] == compressed_model.outcome["made_at"]


def test_a_choice_is_replayed_to_the_same_digest(compressed_model, workspace, partition, brief, task, tmp_path):
    other = other_home(workspace, tmp_path, choices=True)
    again = compress(brief, other, partition, task)
    assert again.digest == compressed_model.digest
    assert again.measured["ledger"] == compressed_model.measured["ledger"]


def test_a_recorded_choice_wins_over_what_would_be_measured_now(
    compressed_model, workspace, partition, brief, task, tmp_path
):
    other = other_home(workspace, tmp_path, choices=True)
    (path,) = (other.home.index / other.project / "compressed_model" / "choices").iterdir()
    choices = json.loads(path.read_text())
    assert sorted(name for name in choices if name.endswith("/ledger")) == ["static_int8/ledger", "trained/ledger"]
    for row in choices["static_int8/ledger"]:
        row["taken"] = (row["variant"], row["runtime"]) == ("static_int8_reduced", "openvino")
    path.write_text(json.dumps(choices))
    again = compress(brief, other, partition, task)
    assert again.read_json("choice.json")["variant"] == "static_int8_reduced"
    assert sorted(name for name in again.files if name.startswith("model/")) == ["model/model.bin", "model/model.xml"]
    assert again.digest != compressed_model.digest


def test_size_as_objective_and_one_runtime(compressed_model, workspace, partition, brief, task, tmp_path):
    other = other_home(workspace, tmp_path, choices=False)
    compression = brief.compression.model_copy(update={"objective": "size", "runtimes": ("openvino",), "max_loss": 0.2})
    made = compress(brief, other, partition, task, compression)
    ledger = made.measured["ledger"]
    assert {row["runtime"] for row in ledger} == {"openvino"}
    (chosen,) = (row for row in ledger if row["chosen"])
    assert chosen["size_mb"] == min(row["size_mb"] for row in ledger if row["kept"])
    assert chosen["variant"].startswith("static_int8")


def test_a_trained_model_that_failed_its_gates_is_refused(
    compressed_model, trained_model, workspace, partition, brief, task, tmp_path
):
    other = other_home(workspace, tmp_path, choices=False)
    path = other.get("trained_model", partition).path / "outcome.json"
    outcome = json.loads(path.read_text())
    outcome["gates"][0] |= {"passed": False, "summary": "the loss is nan"}
    path.write_text(json.dumps(outcome))
    with pytest.raises(ArtifactError, match=r"trained_model .* may not be used: found .*the loss is nan"):
        compress(brief, other, partition, task)
    assert not list((other.home.artifacts / other.project / "compressed_model").glob("*"))


def test_a_budget_that_nothing_meets_is_told_and_the_uncompressed_model_serves(
    compressed_model, workspace, partition, brief, task, tmp_path
):
    other = other_home(workspace, tmp_path, choices=True)
    (path,) = (other.home.index / other.project / "compressed_model" / "choices").iterdir()
    choices = json.loads(path.read_text())
    for place, row in enumerate(choices["static_int8/ledger"]):
        row |= {"taken": False, "kept": False, "loss": {"value": 0.02 + place / 100, "low": 0.01, "high": 0.5 + place}}
    path.write_text(json.dumps(choices))
    made = compress(brief, other, partition, task)
    assert made.read_json("choice.json")["variant"] == "fp32"
    gates = {gate.name: gate for gate in made.gates}
    assert gates["parity"].passed
    assert not gates["accuracy_budget"].passed and not gates["accuracy_budget"].blocking
    summary = gates["accuracy_budget"].summary
    assert summary.startswith("none of the 4 that were tried meets the budget of 0.005: static_int8 on onnxruntime ")
    assert "comes closest and loses 0.02 [0.01, 0.5] accuracy; fp32 on " in summary
    assert gates["accuracy_budget"].facts["nearest"]["high"] == 0.5


def test_with_few_validation_rows_the_budget_is_undecided(
    compressed_model, workspace, partition, brief, task, tmp_path, monkeypatch
):
    count = compressed_model.measured["rows"]
    monkeypatch.setattr("dl_pipelines.compression.budget.GATED_ROWS", count + 1)
    made = compress(brief, other_home(workspace, tmp_path, choices=True), partition, task)
    gates = {gate.name: gate for gate in made.gates}
    assert gates["parity"].passed and gates["accuracy_budget"].passed is None
    summary = gates["accuracy_budget"].summary
    assert summary.startswith(f"only {count} validation rows, {count + 1} are needed to decide; ")
    made.require_gates()


def test_energy_needs_a_counter(compressed_model, workspace, partition, brief, task, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "dl_pipelines.training.energy.find_counter", lambda: (None, "this machine shows no energy counter (RAPL)")
    )
    other = other_home(workspace, tmp_path, choices=False)
    with pytest.raises(NoEnergyCounter) as caught:
        compress(brief, other, partition, task, brief.compression.model_copy(update={"objective": "energy"}))
    assert str(caught.value) == (
        "found no energy counter (this machine shows no energy counter (RAPL)); expected one for "
        "compression.objective: energy; choose latency or size, or run where the kernel shows it"
    )


@pytest.mark.parametrize(("trains", "names"), [(False, set()), (True, {"training", "distributed", "augmentation"})])
def test_what_a_training_says_counts_where_a_technique_trains(brief, trains, names):
    class Some(StaticInt8):
        pass

    Some.trains = trains
    found = settings_of(
        brief.problem, brief.training, brief.distributed, brief.compression, brief.serving, brief.data,
        [Some(Some.Params())],
    )  # fmt: skip
    assert set(found) == {"compression", "targets", "as_served"} | names
    assert found["compression"]["techniques"] == [
        {"name": "static_int8", "params": Some.Params().model_dump(mode="json")}
    ]
    assert found["as_served"] == {"threads": brief.serving.threads, "instances": brief.serving.instances}
    if trains:
        assert found["training"]["epochs"] == brief.training.epochs
        assert not {"search", "warm_epochs"} & set(found["training"])
