"""The edge bundle: a script that answers in an environment with its runtime alone."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from dl_pipelines.bundles.make import make_bundle
from dl_pipelines.inference.model_files import ModelFileError
from tests.bundles.conftest import FP32, IR


@pytest.fixture(scope="module")
def bundles(source_of, workspace, tmp_path_factory):
    """Both runtimes' bundles, by runtime."""
    folder = tmp_path_factory.mktemp("edge")
    return {
        name: make_bundle(source_of(partition), "edge", folder / name, workspace.home.locks)
        for name, partition in (("onnxruntime", FP32), ("openvino", IR))
    }


@pytest.mark.parametrize(("runtime", "rows"), [("onnxruntime", 32), ("openvino", 32)])
def test_the_script_answered_as_the_served_model(bundles, runtime, rows):
    (check,) = bundles[runtime].manifest["parity"]
    assert check["passed"]
    assert check["max_difference"] < 1e-5
    tested = bundles[runtime].manifest["facts"]["tested"]["packages"]
    assert {"numpy", runtime} <= set(tested)
    assert not {"torch", "onnx"} & set(tested)
    pins = (bundles[runtime].path / "requirements.txt").read_text().splitlines()[1:]
    assert pins == [f"{name}=={version}" for name, version in tested.items()]


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_a_user_runs_it(bundles, runtime, source_of, tmp_path):
    folder = bundles[runtime].path
    lines = (folder / "infer.py").read_text().splitlines()
    assert len(lines) <= 30
    assert f"import {runtime}" in (folder / "infer.py").read_text()
    source = source_of(FP32)
    np.save(tmp_path / "rows.npy", source.many_inputs[:5])
    command = [sys.executable, "-I", "-B", folder / "infer.py"]
    subprocess.run([*command, tmp_path / "rows.npy", tmp_path / "answers.npy"], check=True)
    np.testing.assert_allclose(np.load(tmp_path / "answers.npy"), source.many_outputs[:5], atol=1e-4)
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert said.startswith("32 rows, largest difference 0.00e+00, at most 1.00e-03 is right")


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@pytest.mark.parametrize(("apart", "code"), [(0.0005, 0), (0.01, 1), (1e9, 1), (np.nan, 1)])
def test_the_self_test_fails_on_wrong_answers(bundles, tmp_path, runtime, apart, code):
    folder = shutil.copytree(bundles[runtime].path, tmp_path / "bundle")
    outputs = np.load(folder / "parity_outputs.npy")
    outputs[7, 1] += apart
    np.save(folder / "parity_outputs.npy", outputs)
    said = subprocess.run([sys.executable, "-I", "-B", folder / "infer.py"], capture_output=True, text=True)
    assert (said.returncode, said.stderr) == (code, "")
    assert f"largest difference {apart:.2e}" in said.stdout


def test_files_that_changed_since_they_were_checked_are_not_shipped(copied, source_of, tmp_path):
    source = source_of(FP32, within=copied)
    source.model.write_bytes(b"other")
    with pytest.raises(
        ModelFileError, match=r"found sha256 \w+ in model\.onnx; expected \w+, as its artifact lists it"
    ):
        make_bundle(source, "edge", tmp_path / "out", tmp_path)
    assert not (tmp_path / "out").exists()


def test_the_limit_of_a_forecasters_self_test_is_in_its_units(source_of):
    """A forecast of 200 a day may be 0.2 apart where one of 3 may be 0.003: shares of each one's level."""
    from dl_pipelines.tasks.forecasting import Forecasting

    forecasts = np.stack([np.full((7, 3), level, np.float32) for level in (0.0, 3.0, 200.0)])
    source = replace(source_of(FP32), task=Forecasting(Forecasting.Params()))
    assert source.largest_allowed(forecasts, 1e-3) == pytest.approx(0.2)


def test_the_settings_are_the_servers(bundles):
    about = json.loads((bundles["onnxruntime"].path / "runtime.json").read_text())
    assert about["settings"]["intra_op_num_threads"] == 2
    assert (about["input"], about["input_shape"], about["output"]) == ("image", [8, 8, 1], "logits")
    about = json.loads((bundles["openvino"].path / "runtime.json").read_text())
    assert about["settings"]["INFERENCE_NUM_THREADS"] == 2
    assert about["settings"]["INFERENCE_PRECISION_HINT"] == "f32"
    assert (bundles["openvino"].path / "labels.txt").read_text() == "dark\nbright\n"
