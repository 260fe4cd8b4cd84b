"""Generated C of graphs by hand, against ONNX Runtime; what can't be generated is named."""

import subprocess

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from dl_pipelines.bundles import c_code
from dl_pipelines.bundles.static_graph import every_tensor, run_rows


def saved(path, nodes, weights, given, gives, dtype=TensorProto.FLOAT):
    ends = [helper.make_tensor_value_info("rows", dtype, given), helper.make_tensor_value_info("out", dtype, gives)]
    kept = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "by_hand", ends[:1], ends[1:], kept)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, path)
    return model


def test_backward_slices_and_recurrence(tmp_path):
    """What forecasters are made of, and what the generator refuses as it is spelled."""
    rng = np.random.default_rng(0)
    end = np.iinfo(np.int64).min
    weights = {
        "starts": np.array([-1]), "ends": np.array([end]), "axes": np.array([1]), "steps": np.array([-1]),
        "w": rng.normal(0, 1, (1, 9, 2)).astype(np.float32), "r": rng.normal(0, 1, (1, 9, 3)).astype(np.float32),
    }  # fmt: skip
    nodes = [
        helper.make_node("Slice", ["rows", "starts", "ends", "axes", "steps"], ["turned"]),
        helper.make_node("Transpose", ["turned"], ["sequence"], perm=[1, 0, 2]),
        helper.make_node("GRU", ["sequence", "w", "r"], ["", "last"], hidden_size=3, direction="forward"),
        helper.make_node("Squeeze", ["last", "first"], ["out"]),
    ]
    weights["first"] = np.array([0])
    model = saved(tmp_path / "gru.onnx", nodes, weights, [1, 5, 2], [1, 3])
    rows = rng.normal(0, 1, (7, 5, 2)).astype(np.float32)
    wanted = run_rows(tmp_path / "gru.onnx", rows)
    c_code.write(model, next(every_tensor(tmp_path / "gru.onnx", rows)), tmp_path / "c")
    compiled = c_code.compile_here(tmp_path / "c", tmp_path / "work")
    found = c_code.run_here(compiled.program, rows, wanted, tmp_path / "work")
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    assert np.abs(wanted).max() > 0.1
    assert "void model(const float input[1][5][2], float output[1][3]);" in (tmp_path / "c" / "model.h").read_text()


def test_operators_that_it_has_not_are_named(tmp_path):
    nodes = [helper.make_node("Nonsense", ["rows"], ["a"]), helper.make_node("Absurd", ["a"], ["out"])]
    model = saved(tmp_path / "none.onnx", nodes, {}, [1, 2], [1, 2])
    with pytest.raises(c_code.NoCode, match="the generator has not the operators Absurd, Nonsense"):
        c_code.write(model, {}, tmp_path / "c")


def test_what_it_refuses_is_told(tmp_path):
    node = helper.make_node("Slice", ["rows", "starts", "ends", "axes", "steps"], ["out"])
    weights = {
        "starts": np.array([-1, -1]),
        "ends": np.array([-9, -9]),
        "axes": np.array([0, 1]),
        "steps": np.array([-1, -1]),
    }
    model = saved(tmp_path / "slice.onnx", [node], weights, [1, 5], [1, 5])
    shapes = {name: np.zeros((1, 5), np.float32) for name in ("rows", "out")}
    with pytest.raises(
        c_code.NoCode, match=r"the generator can't take this graph \(UnsupportedOpError: Slice only supp"
    ):
        c_code.write(model, shapes, tmp_path / "c")


def test_a_large_model_gets_none(tmp_path):
    node = helper.make_node("Add", ["rows", "big"], ["out"])
    model = saved(tmp_path / "big.onnx", [node], {"big": np.zeros((1, 1_500_000), np.float32)}, [1, 1_500_000], [1, 1])
    with pytest.raises(c_code.NoCode, match=r"found 6\.0 MB of weights; C is written up to 4 MB"):
        c_code.write(model, {}, tmp_path / "c")


def test_half_floats_get_none(tmp_path):
    node = helper.make_node("Relu", ["rows"], ["out"])
    model = saved(tmp_path / "half.onnx", [node], {}, [1, 2], [1, 2], TensorProto.FLOAT16)
    with pytest.raises(c_code.NoCode, match="found float16 at an end of the graph; C is written for float32, float64"):
        c_code.write(model, dict.fromkeys(("rows", "out"), np.zeros((1, 2), np.float16)), tmp_path / "c")


def test_a_compiler_that_fails_is_quoted(tmp_path, monkeypatch):
    (tmp_path / "model.c").write_text("#error no such thing\n")
    with pytest.raises(c_code.NoCode, match=r"cc failed: .*#error no such thing"):
        c_code.compile_here(tmp_path, tmp_path / "work")
    monkeypatch.setenv("CC", "gcc")
    assert c_code.compiler().endswith("gcc")
    monkeypatch.setattr(c_code.shutil, "which", lambda name: None)
    with pytest.raises(c_code.NoCode, match="found no C compiler"):
        c_code.compile_here(tmp_path, tmp_path / "work")


def test_a_folder_from_which_nothing_may_be_run_is_told(tmp_path):
    """As a temporary folder is that is mounted noexec: the operating system refuses, no program fails."""
    program = tmp_path / "parity"
    program.write_bytes(b"")
    program.chmod(0o644)
    rows = np.zeros((2, 3), np.float32)
    with pytest.raises(c_code.NoCode, match=rf"^{program} can't be run here \(Permission denied\)$"):
        c_code.run_here(program, rows, rows, tmp_path)


def test_what_says_sizes_otherwise_costs_no_c(tmp_path, monkeypatch):
    monkeypatch.setattr(c_code, "_run", lambda command, folder: "text of another tool")
    assert c_code._sections(tmp_path / "model.o", tmp_path) == (None, None)


@pytest.fixture(scope="module")
def doubled(tmp_path_factory):
    """The parity program of a model that doubles one row of three, with two rows of inputs."""
    folder = tmp_path_factory.mktemp("doubled")
    node = helper.make_node("Add", ["rows", "rows"], ["out"])
    model = saved(folder / "model.onnx", [node], {}, [1, 3], [1, 3])
    c_code.write(model, {"rows": np.zeros((1, 3), np.float32), "out": np.zeros((1, 3), np.float32)}, folder)
    np.arange(6, dtype=np.float32).tofile(folder / "inputs.bin")
    return c_code.compile_here(folder, folder / "work").program


@pytest.mark.parametrize(
    ("apart", "limit", "code"),
    [
        (0.0, "0", 0), (0.0, None, 0), (0.25, "0.25", 0), (0.25, "0.2", 1), (1e9, "0.2", 1), (1e9, None, 0),
        (np.nan, "0.2", 1), (np.nan, None, 1),
    ],
)  # fmt: skip
def test_the_parity_program_fails_on_wrong_answers(doubled, tmp_path, apart, limit, code):
    wanted = 2 * np.arange(6, dtype=np.float32)
    wanted[1] += apart  # what comes after it is right
    wanted.tofile(tmp_path / "outputs.bin")
    arguments = [doubled.parent.parent / "inputs.bin", tmp_path / "outputs.bin", tmp_path / "answers.bin"]
    ended = subprocess.run([doubled, *arguments, *([limit] if limit else [])], capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (code, "")
    assert ended.stdout.startswith("2 rows, largest difference ")
    np.testing.assert_array_equal(np.fromfile(tmp_path / "answers.bin", np.float32), [0, 2, 4, 6, 8, 10])


def test_answers_that_are_too_few_are_told(doubled, tmp_path):
    rows = np.zeros((2, 3), np.float32)
    with pytest.raises(c_code.NoCode, match="found 6 values from the compiled model; expected 12"):
        c_code.run_here(doubled, rows, np.zeros((2, 6), np.float32), tmp_path)
