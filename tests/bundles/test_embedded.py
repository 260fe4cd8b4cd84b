"""The embedded bundle: one row, fixed shapes, int8, a plan, C that answers as ONNX Runtime does."""

import json
import re
import shutil
import subprocess
from dataclasses import replace

import numpy as np
import onnx
import pytest

from dl_pipelines.brief.live import Serving
from dl_pipelines.bundles import c_code, embedded, static_graph
from dl_pipelines.bundles.make import make_bundle
from dl_pipelines.compression.base import TechniqueError
from tests.bundles.conftest import FP32, INT8
from tests.cpu import needs_exact_int8


@pytest.fixture(scope="module")
def made(source_of, tmp_path_factory):
    """The bundle of the model that serves as int8 ONNX."""
    folder = tmp_path_factory.mktemp("embedded")
    return make_bundle(source_of(INT8), "embedded", folder / "out", folder)


def run(path, rows):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, {"image": row[None]})[0] for row in rows])


def test_the_served_int8_file_with_fixed_shapes(made, source_of):
    facts = made.manifest["facts"]
    assert (facts["precision"], facts["why"]) == ("int8", "the served file")
    model = onnx.load(made.path / "model.onnx")
    assert [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim] == [1, 8, 8, 1]
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    shapes = [value.type.tensor_type.shape.dim for value in inferred.graph.value_info]
    assert all(dim.HasField("dim_value") for shape in shapes for dim in shape)
    assert {node.domain for node in model.graph.node} == {""}
    source = source_of(INT8)
    np.testing.assert_allclose(run(made.path / "model.onnx", source.inputs), source.outputs, atol=1e-4)


@needs_exact_int8
def test_the_integer_graph_has_integer_operators(made, source_of):
    listed = json.loads((made.path / "operators.json").read_text())
    count = {item["operator"]: item["count"] for item in listed["model_integer.onnx"]["operators"]}
    assert count["QLinearConv"] == 4
    assert "Conv" not in count
    source = source_of(INT8)
    np.testing.assert_allclose(run(made.path / "model_integer.onnx", source.inputs), source.outputs, atol=1e-4)


@needs_exact_int8
def test_the_plan_holds_the_largest_pair(made):
    plan = json.loads((made.path / "memory.json").read_text())
    by_name = {item["name"]: item for item in plan["tensors"]}
    at_step = [
        sum(item["bytes"] for item in by_name.values() if item["first"] <= step <= item["last"])
        for step in range(len(plan["steps"]))
    ]
    # The first two convolutions: 8 channels of 8 x 8 bytes in, as many out.
    assert plan["peak_bytes"] == max(at_step) == 2 * 8 * 8 * 8
    assert plan["peak_bytes"] <= plan["arena_bytes"] <= 1.2 * plan["peak_bytes"]
    float32 = sum(
        onnx.numpy_helper.to_array(item).size for item in onnx.load(made.path / "model.onnx").graph.initializer
    )
    assert plan["weights_bytes"] < 2 * float32


@needs_exact_int8
def test_the_c_answers_as_onnx_runtime(made, source_of, tmp_path):
    assert [check["name"] for check in made.manifest["parity"]] == [
        "the served files with their recorded answers",
        "model.onnx (int8) with the recorded answers of the served model",
        "model_integer.onnx with model.onnx",
        "model_integer.onnx (int8) with the recorded answers of the served model",
        "the C on this machine with model_integer.onnx on ONNX Runtime",
        "the C on this machine with model_integer.onnx on ONNX Runtime, decisions",
    ]
    measured = made.manifest["facts"]["c"]
    assert "why" not in measured, measured
    assert 0 < measured["stack_bytes"] < 10_000
    assert measured["flash_bytes"] > made.manifest["facts"]["memory"]["weights_bytes"]
    assert measured["ram_bytes"] == 0
    # As README.md says, by hand.
    folder = shutil.copytree(made.path / "c", tmp_path / "c")
    build = ["cc", "-std=c11", "-Wall", "-Werror", "parity.c", "model.c", "-lm", "-o", "parity"]
    subprocess.run(build, cwd=folder, check=True)
    limit = repr(measured["tolerance"])
    command = ["./parity", "inputs.bin", "outputs.bin", "answers.bin", limit]
    assert " ".join(command) in (made.path / "README.md").read_text()
    said = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout
    assert said.startswith("32 rows, largest difference 0.00e+00")
    answers = np.fromfile(folder / "answers.bin", np.float32).reshape(32, 2)
    np.testing.assert_allclose(answers, source_of(INT8).outputs, atol=1e-4)
    assert "malloc" not in (folder / "model.c").read_text()


def test_a_float_model_is_quantized_for_it(source_of, tmp_path):
    graph = embedded._graph(source_of(FP32), tmp_path)
    assert graph.precision == "int8"
    told = r"quantized for this bundle from the network that serves, with \d+ train rows: what serves is fp32"
    assert re.match(told, graph.why)
    assert all(check.parity.passed for check in graph.checks)
    assert graph.tolerance >= 1e-3


def test_without_int8_it_is_float_and_says_so(source_of, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise TechniqueError("found no operator that int8 covers")

    monkeypatch.setattr(embedded, "quantize", refuse)
    monkeypatch.setattr(c_code, "compiler", lambda: None)
    made = make_bundle(source_of(FP32), "embedded", tmp_path / "out", tmp_path)
    facts = made.manifest["facts"]
    assert (facts["precision"], facts["why"]) == ("fp32", "no int8: found no operator that int8 covers")
    assert facts["c"] == (
        "not written: found no C compiler (CC, cc, gcc, clang) to prove it with; install one"
    )  # fmt: skip
    assert "C: not written: found no C compiler" in (made.path / "README.md").read_text()
    assert not [name for name in made.manifest["files"] if name.startswith("c/") or "integer" in name]


def test_int8_that_decides_otherwise_is_not_carried(source_of, tmp_path, monkeypatch):
    def spoil(base, target, rows, reduce_range, per_channel):
        model = onnx.load(base)
        for item in model.graph.initializer:
            if len(item.dims) > 1:
                item.CopyFrom(onnx.numpy_helper.from_array(-onnx.numpy_helper.to_array(item), item.name))
        onnx.save(model, target)

    monkeypatch.setattr(embedded, "quantize", spoil)
    graph = embedded._graph(source_of(FP32), tmp_path)
    assert graph.precision == "fp32"
    assert graph.why.startswith("no int8: ")
    assert "agreement" in graph.why


@needs_exact_int8
def test_c_of_the_float_graph_where_int8_is_too_much(source_of, tmp_path, monkeypatch):
    write = c_code.write

    def refuse(model, tensors, folder):
        if any(node.op_type == "QLinearConv" for node in model.graph.node):
            raise c_code.NoCode("the generator has not the operators QLinearConv")
        write(model, tensors, folder)

    monkeypatch.setattr(c_code, "write", refuse)
    made = make_bundle(source_of(INT8), "embedded", tmp_path / "out", tmp_path)
    facts = made.manifest["facts"]
    assert facts["precision"] == "int8"
    assert (facts["c"]["graph"], facts["c"]["why"]) == (
        "model_float32.onnx",
        "float32, as there is no C of model_integer.onnx: the generator has not the operators QLinearConv",
    )
    assert [check["name"] for check in made.manifest["parity"]][-3:] == [
        "model_float32.onnx (float32) with the recorded answers of the served model",
        "the C on this machine with model_float32.onnx on ONNX Runtime",
        "the C on this machine with model_float32.onnx on ONNX Runtime, decisions",
    ]
    assert made.manifest["parity"][-2]["max_difference"] < 1e-5
    assert {"c/model.c", "model_float32.onnx"} <= set(made.manifest["files"])
    assert "made of `model_float32.onnx` (float32, as there is no C of" in (made.path / "README.md").read_text()


def test_float_c_that_decides_otherwise_costs_the_c_alone(source_of, tmp_path, monkeypatch):
    def refuse(model, tensors, folder):
        raise c_code.NoCode("the generator has not the operators QLinearConv")

    run = static_graph.run_rows
    monkeypatch.setattr(c_code, "write", refuse)
    monkeypatch.setattr(
        static_graph, "run_rows", lambda path, rows: run(path, rows) * (-1 if path.name == "float32.onnx" else 1)
    )
    made = make_bundle(source_of(INT8), "embedded", tmp_path / "out", tmp_path)
    assert made.manifest["facts"]["precision"] == "int8"
    assert re.fullmatch(
        r"not written: the generator has not the operators QLinearConv; of the float32 graph: it decides otherwise "
        r"than what serves: \d+ rows: largest difference \S+, agreement 0\.00% \(agreement >= 98%\)",
        made.manifest["facts"]["c"],
    )
    assert not [name for name in made.manifest["files"] if name.startswith(("c/", "model_float32"))]


def test_a_fused_graph_within_the_tolerance_that_decides_otherwise_is_left_out(source_of, tmp_path, monkeypatch):
    run = static_graph.run_rows
    monkeypatch.setattr(
        static_graph, "run_rows", lambda path, rows: run(path, rows) * (-1 if path.name == "integer.onnx" else 1)
    )
    source = replace(source_of(INT8), serving=Serving(parity_tolerance=1e6))
    after = run(source.model, source.inputs)
    assert source.check("", after, -after).parity.passed  # the tolerance alone would take it
    graph = embedded._graph(source, tmp_path)
    assert graph.planned == graph.model
    assert [check.name for check in graph.checks] == ["model.onnx (int8) with the recorded answers of the served model"]


def test_c_within_the_tolerance_that_decides_otherwise_is_left_out(source_of, tmp_path, monkeypatch):
    run = c_code.run_here
    monkeypatch.setattr(c_code, "run_here", lambda *given: -run(*given))
    source = source_of(INT8)
    fixed = static_graph.fix(source.model, tmp_path / "model.onnx", source.inputs)
    with pytest.raises(c_code.NoCode, match=r"answers otherwise: 32 rows: .*agreement 0\.00% \(agreement >= 98%\)"):
        embedded._code_of(source, fixed, "model.onnx", 1e6, tmp_path / "out", tmp_path / "work")
    assert not (tmp_path / "out").exists()


def test_a_fused_graph_that_answers_otherwise_is_left_out(source_of, tmp_path, monkeypatch):
    run = static_graph.run_rows

    def apart(path, rows):
        return run(path, rows) + (9 if path.name == "integer.onnx" else 0)

    monkeypatch.setattr(static_graph, "run_rows", apart)
    graph = embedded._graph(source_of(INT8), tmp_path)
    assert (graph.precision, graph.planned) == ("int8", graph.model)
    assert [check.parity.passed for check in graph.checks] == [True]


def test_c_that_answers_otherwise_is_left_out(source_of, tmp_path, monkeypatch):
    monkeypatch.setattr(c_code, "write", lambda *_: None)
    monkeypatch.setattr(c_code, "compile_here", lambda *_: c_code.Compiled(tmp_path, "cc", 1, 1, 1))
    monkeypatch.setattr(c_code, "run_here", lambda program, rows, like, work: like + 5)
    made = make_bundle(source_of(FP32), "embedded", tmp_path / "out", tmp_path)
    assert made.manifest["facts"]["c"].startswith("not written: the generated C answers otherwise: 32 rows: largest d")
