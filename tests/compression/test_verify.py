"""The demo's compressed model holds together, and every fault in every link of it is noticed where it was put."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest

from dl_pipelines.compression import static_int8
from dl_pipelines.compression.verify import LEAST_ROWS, LINKS_FILE, ROWS, _some, links_gate, verify_compressed
from dl_pipelines.data.batches import window_rows
from dl_pipelines.inference.faults import FAULTS
from dl_pipelines.inference.parity_chain import LINKS, Link
from dl_pipelines.inference.runtimes import MODEL_FILES, save_openvino
from dl_pipelines.store import durable
from dl_pipelines.store.artifacts import ArtifactError, Gate
from dl_pipelines.store.home import Home
from dl_pipelines.store.workspace import Workspace
from tests.cpu import needs_exact_int8


@pytest.fixture(scope="module")
def int8_line(compressed_model, workspace, tmp_path_factory, brief, partition, task):
    """A function: the line in a home of its own, whose model is int8 on a runtime, whatever was fastest here."""
    window = workspace.get("training_window", partition.daily)
    rows = window_rows(workspace, window, "train", brief.data, task).inputs[:128]

    def build(draft, runtime):
        for name in ("network.json", "network.onnx", "network.safetensors"):
            shutil.copyfile(compressed_model.file(name), draft.file(name))
        path = draft.file("model/model.onnx") if runtime == "onnxruntime" else draft.work / "model.onnx"
        static_int8.quantize(draft.path / "network.onnx", path, rows, reduce_range=True, per_channel=True)
        if runtime == "openvino":
            save_openvino(path, draft.file("model/model.xml"))
        choice = {"runtime": runtime, "precision": "int8", "file": f"model/{MODEL_FILES[runtime][0]}"}
        draft.write_json("choice.json", choice)
        draft.gate(Gate("parity", True, "made by a test", blocking=True))

    def make(runtime):
        home = Home(tmp_path_factory.mktemp("int8") / "home").prepare()
        shutil.copytree(workspace.home.root, home.root, dirs_exist_ok=True)
        other = Workspace(home, workspace.project)
        other.make(
            "compressed_model",
            partition,
            lambda draft: build(draft, runtime),
            settings={},
            parents={"training_window": window},
        )
        return other

    return make


@pytest.fixture(scope="module", params=["onnxruntime", "openvino"])
def line(int8_line, request):
    """One for each runtime."""
    return int8_line(request.param)


@pytest.fixture
def verify(partition, task, brief, tmp_path):
    """A function: the verification of that partition of a workspace."""
    return lambda place, *what: verify_compressed(place, partition, task, brief.data, tmp_path, 1, *what)


def test_what_the_stage_made_is_sound(verify, workspace, compressed_model):
    found = verify(workspace)
    assert found.broken is None and found.injected is None
    assert found.artifact.digest == compressed_model.digest
    assert {link.rows for link in found.links} == {
        min(len(np.load(compressed_model.file("outputs_validation.npy"))), ROWS)
    }
    written = durable.read_json(compressed_model.path / LINKS_FILE)
    assert written == [link.plain() for link in found.links], "what the stage has kept"
    gate = next(gate for gate in compressed_model.gates if gate.name == "parity")
    assert "links: each link holds" in gate.summary and gate.facts["breaks_at"] is None
    assert gate.facts["mean_difference"] == found.links[-1].mean_difference
    plain = found.plain()
    assert (plain["sound"], plain["breaks_at"], plain["between"], plain["injected"]) == (True, None, None, None)
    assert [link["name"] for link in plain["links"]] == list(LINKS)


def test_the_rows_are_of_the_window_that_it_was_made_from(verify, workspace, compressed_model, partition, tmp_path):
    """Another window of that day, which has no rows, is no matter of this model."""
    home = Home(tmp_path / "home").prepare()
    shutil.copytree(workspace.home.root, home.root, dirs_exist_ok=True)
    other = Workspace(home, workspace.project)
    later = other.make("training_window", partition.daily, lambda draft: None, settings={"later": True}, parents={})
    assert other.get("training_window", partition.daily).digest == later.digest
    assert later.digest != compressed_model.parents["training_window"]
    assert [link.plain() for link in verify(other).links] == [link.plain() for link in verify(workspace).links]


def test_int8_is_sound_on_both_runtimes(verify, line):
    found = verify(line)
    assert found.broken is None
    assert found.links[2].noise is not None and found.links[2].limit is not None
    assert found.links[2].what.startswith("int8 on ")


INJECTED = [
    pytest.param(fault, at, marks=needs_exact_int8 if (fault, at) == ("norm-swap", "quantized") else ())
    for at in LINKS
    for fault in FAULTS
]
"""Each fault at each link; a swapped norm is of the size of what eight bits lose where they do not add exactly."""


@pytest.mark.parametrize(("fault", "at"), INJECTED)
def test_every_fault_is_noticed_where_it_is(verify, line, fault, at):
    found = verify(line, fault, at)
    assert found.broken is not None and found.broken.name == at
    plain = found.plain()
    assert (plain["breaks_at"], plain["injected"]["fault"], plain["injected"]["at"]) == (at, fault, at)
    assert plain["between"][1] == found.broken.what
    found.artifact.verify()  # the fault went into a copy


def test_a_damaged_artifact_is_not_compared(verify, int8_line, partition):
    line = int8_line("onnxruntime")
    file = line.get("compressed_model", partition).file("model/model.onnx")
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ArtifactError, match=r"found model/model\.onnx of compressed_model .* damaged"):
        verify(line)


def link(name, noise=None, limit=None, alike=True):
    """One by hand."""
    return Link(
        name, f"what {name} is", "what was before", alike, 9, 0.1, 0.01, 1.0, "9 rows: as they should", noise, limit
    )


def test_noise_alone_is_told_and_does_not_stop_the_line():
    sound = [link("onnx"), link("optimised"), link("quantized", 0.02, 0.05)]
    passed, told, facts = links_gate(sound)
    assert (passed, facts["breaks_at"]) == (True, None)
    assert told == "each link holds, answers move by 0.02 of their size (rounding explains 0.05)"
    passed, told, facts = links_gate([*sound[:2], link("quantized", 0.2, 0.05)])
    assert (passed, facts["breaks_at"], facts["noise"], facts["noise_limit"]) == (True, "quantized", 0.2, 0.05)
    assert told.startswith("broken between what was before and what quantized is: its answers lie 0.2 of their size")
    passed, told, facts = links_gate([link("onnx", alike=False), *sound[1:]])
    assert (passed, facts["breaks_at"]) == (False, "onnx")
    assert told == "broken between what was before and what onnx is: 9 rows: as they should"


def test_noise_that_is_not_judged_is_said():
    unjudged = replace(link("quantized", 0.02), not_judged="found a graph that can't be rounded")
    passed, told, facts = links_gate([link("onnx"), link("optimised"), unjudged])
    assert (passed, facts["noise"], facts["noise_limit"]) == (True, 0.02, None)
    assert told == "each link holds, noise not judged: found a graph that can't be rounded"
    _, told, _ = links_gate([link("onnx", alike=False), link("optimised"), unjudged])
    assert told.endswith("9 rows: as they should, noise not judged: found a graph that can't be rounded")
    _, told, _ = links_gate([link("onnx"), link("optimised"), replace(unjudged, alike=False)])
    assert told.count("noise not judged") == 1


def test_few_rows_of_large_inputs_are_enough():
    assert len(_some(np.zeros((2000, 8, 8, 1), np.uint8))) == ROWS
    assert len(_some(np.broadcast_to(np.uint8(0), (2000, 224, 224, 3)))) == 53
    assert len(_some(np.broadcast_to(np.uint8(0), (2000, 1024, 1024, 3)))) == LEAST_ROWS
    places = _some(np.zeros((20, 3)))
    assert list(places) == list(range(20))
