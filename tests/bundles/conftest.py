"""A trained narrow network on the tiny records, as compression leaves it: as float32 ONNX, int8 ONNX, OpenVINO's IR."""

# ruff: noqa: F811 - pytest hands fixtures over by name
from __future__ import annotations

import shutil
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from benchmarks.tiny import make_window, records
from dl_pipelines.brief.live import Serving
from dl_pipelines.brief.references import FamilyRef
from dl_pipelines.brief.sections import Split
from dl_pipelines.bundles.base import Options, Source
from dl_pipelines.bundles.source import open_source
from dl_pipelines.compression.static_int8 import quantize
from dl_pipelines.inference.export import export_onnx
from dl_pipelines.inference.parity import session_outputs
from dl_pipelines.inference.runtimes import MODEL_FILES, open_runtime, save_openvino
from dl_pipelines.models.plan import NetworkPlan
from dl_pipelines.store.artifacts import Draft, Gate
from dl_pipelines.store.home import Home
from dl_pipelines.store.workspace import Partition, Workspace
from tests.tiny import data, task  # noqa: F401 - fixtures

FP32, INT8, IR = (Partition(date(2026, 1, 1), name) for name in ("base", "int8", "ir"))
SERVED = {FP32: ("onnxruntime", "fp32"), INT8: ("onnxruntime", "int8"), IR: ("openvino", "fp32")}


@pytest.fixture(scope="session")
def serving() -> Serving:
    """Two threads, as a brief may ask for."""
    return Serving(threads=2, instances=2)


@pytest.fixture(scope="session")
def network(task, tmp_path_factory) -> tuple[NetworkPlan, Path, Path]:
    """Plan, weights and ONNX of a small `cnn` that tells dark from bright."""
    import torch
    from safetensors.torch import save_file

    torch.set_num_threads(1)
    torch.manual_seed(0)
    plan = NetworkPlan(FamilyRef(name="cnn", params={"width": 8}), task.fit(records(task), np.ones(300, bool)))
    module = plan.build(task)
    table = records(task)
    images = torch.from_numpy(task.rows(table).inputs)
    wanted = torch.from_numpy(table["label"].to_numpy().copy())
    optimizer = torch.optim.Adam(module.parameters(), 1e-2)
    for _ in range(15):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(module(images), wanted).backward()
        optimizer.step()
    folder = tmp_path_factory.mktemp("network")
    save_file(module.state_dict(), folder / "network.safetensors")
    onnx = export_onnx(plan.load(task, folder / "network.safetensors"), task, folder / "network.onnx")
    return plan, folder / "network.safetensors", onnx


@pytest.fixture(scope="session")
def workspace(tmp_path_factory, task, network) -> Workspace:
    """A home with the three models; tests that change one work on a copy."""
    workspace = Workspace(Home(tmp_path_factory.mktemp("home")).prepare(), "tiny")
    make_window(workspace, task, (FP32,))
    for partition in SERVED:
        make_compressed(workspace, partition, task, network)
    return workspace


def make_compressed(workspace, partition, task, network, shift: float = 0.0):
    """As compress.py writes it; `shift` is added to the recorded answers, as if they were another model's."""
    plan, weights, onnx = network
    runtime, precision = SERVED[partition]
    window = workspace.get("training_window", partition.daily)

    def build(draft: Draft) -> None:
        table = records(task)
        splits = task.split(table, date(2026, 1, 1), Split())
        rows, train = (task.rows(table.filter(pa.array(splits == name))) for name in ("validation", "train"))
        main = draft.file(f"model/{MODEL_FILES[runtime][0]}")
        if runtime == "openvino":
            save_openvino(onnx, main)
        elif precision == "int8":
            quantize(onnx, main, train.inputs, False, True)
        else:
            shutil.copyfile(onnx, main)
        outputs = session_outputs(open_runtime(runtime, main, 2, precision), rows.inputs)
        np.save(draft.file("outputs_validation.npy"), outputs + np.float32(shift), allow_pickle=False)
        choice = {"variant": precision, "runtime": runtime, "precision": precision, "file": f"model/{main.name}"}
        draft.write_json("choice.json", choice)
        shutil.copyfile(weights, draft.file("network.safetensors"))
        shutil.copyfile(onnx, draft.file("network.onnx"))
        draft.write_json("network.json", {"name": "trained", **plan.plain()})
        draft.gate(Gate("parity", True, "made by a test", blocking=True))

    settings = {"served": [runtime, precision], "shift": shift}
    return workspace.make("compressed_model", partition, build, settings=settings, parents={"training_window": window})


@pytest.fixture(scope="session")
def source_of(workspace, serving, data, task):
    """`source_of(partition)`: what its bundles are made from."""

    def of(partition: Partition, options: Options | None = None, within: Workspace = workspace) -> Source:
        return open_source(within, partition, serving, data, task, options)

    return of


@pytest.fixture
def copied(workspace, tmp_path) -> Workspace:
    """A home of the test's own with the same models."""
    shutil.copytree(workspace.home.root, tmp_path / "home")
    return Workspace(Home(tmp_path / "home"), "tiny")
