import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from pydantic import ValidationError

from dl_pipelines.brief.sections import Compression
from dl_pipelines.compression.base import TechniqueError
from dl_pipelines.compression.candidates import on_runtimes, served_files
from dl_pipelines.compression.sparsity import KIND, Sparsity, sparsify
from dl_pipelines.inference.parity import session_outputs
from dl_pipelines.inference.runtimes import open_runtime
from tests.quantizing import network_of, shop_of

SIZE = Compression(objective="size")
COUNTED = ("Conv", "Gemm", "MatMul")


@pytest.fixture
def shop(tmp_path, wide_onnx, wide_task, wide_rows, wide_reference):
    return shop_of(tmp_path, wide_onnx, wide_task, wide_rows, wide_reference, SIZE)


def weights_of(path):
    """Weights of convolutions and products, by name: those of the wide network, of 288 numbers and more."""
    graph = onnx.load(str(path)).graph
    used = {name for node in graph.node if node.op_type in COUNTED for name in node.input}
    found = {item.name: numpy_helper.to_array(item) for item in graph.initializer if item.name in used}
    return {name: array for name, array in found.items() if array.ndim > 1}


def zeroed(path, target, share):
    """The dense graph with the smallest weights set to zero by numpy: an independent reference."""
    model = onnx.load(str(path))
    known = weights_of(path)
    sizes = {name: np.abs(array) / array.std() for name, array in known.items()}
    ranked = np.sort(np.concatenate([size.ravel() for size in sizes.values()]))
    limit = ranked[round(share * len(ranked)) - 1]
    for item in model.graph.initializer:
        if item.name in known:
            array = np.where(sizes[item.name] <= limit, np.float32(0), known[item.name])
            item.CopyFrom(numpy_helper.from_array(array, item.name))
    onnx.save(model, str(target))
    zeros = {name: float((sizes[name] <= limit).mean()) for name in known}
    return target, zeros, sum(array.size for array in known.values())


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_it_answers_as_the_dense_graph_with_zeros_and_is_smaller_on_both_runtimes(shop, wide_onnx, wide_rows, runtime):
    variant = Sparsity(Sparsity.Params(shares=(0.5,))).variants(shop.trained, shop)[0]
    reference, _, _ = zeroed(wide_onnx, shop.folder / "zeroed.onnx", 0.5)
    expected = session_outputs(open_runtime("onnxruntime", reference), wide_rows.inputs)
    (candidate,) = on_runtimes([variant], [runtime], shop.folder)
    found = session_outputs(open_runtime(runtime, candidate.variant.path, 1, "sparse"), wide_rows.inputs)
    assert np.abs(found - expected).max() < (1e-4 if runtime == "openvino" else 1e-6)
    size = sum(path.stat().st_size for path in served_files(candidate.variant.path))
    assert size < 0.56 * wide_onnx.stat().st_size


def test_the_file_is_the_values_that_stay_and_a_bit_a_weight(wide_onnx, tmp_path):
    details = sparsify(wide_onnx, tmp_path / "sparse.onnx", 0.7)
    _, zeros, count = zeroed(wide_onnx, tmp_path / "zeroed.onnx", 0.7)
    assert details["zeros"] == {name: pytest.approx(share, abs=1e-4) for name, share in zeros.items()}
    before, after = details["bytes"]
    assert (before, after) == (wide_onnx.stat().st_size, (tmp_path / "sparse.onnx").stat().st_size)
    saved = 0.7 * 4 * count - count / 8
    assert before - after == pytest.approx(saved, abs=8_000)  # the operators that restore the weights
    assert (details["kind"], details["share"]) == (KIND, 0.7)
    onnx.checker.check_model(onnx.load(str(tmp_path / "sparse.onnx")), full_check=True)


def test_onnx_runtime_makes_the_weights_whole_when_it_loads_them(wide_onnx, tmp_path):
    import onnxruntime

    sparsify(wide_onnx, tmp_path / "sparse.onnx", 0.5)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(tmp_path / "loaded.onnx")
    onnxruntime.InferenceSession(str(tmp_path / "sparse.onnx"), options, providers=["CPUExecutionProvider"])
    loaded = {node.op_type for node in onnx.load(str(tmp_path / "loaded.onnx")).graph.node}
    assert loaded.isdisjoint({"BitwiseAnd", "CumSum", "Gather"})
    assert "Conv" in loaded


def test_each_share_is_a_variant_and_the_same_graph_gives_the_same_bytes(shop):
    technique = Sparsity(Sparsity.Params(shares=(0.3, 0.6)))
    variants = technique.variants(shop.trained, shop)
    assert [(variant.name, variant.precision, variant.network) for variant in variants] == [
        ("sparse_30", "sparse", None), ("sparse_60", "sparse", None),
    ]  # fmt: skip
    written = [variant.path.read_bytes() for variant in variants]
    assert len(written[1]) < len(written[0])
    again = technique.variants(shop.trained, shop)
    assert [variant.path.read_bytes() for variant in again] == written
    assert again == variants


@pytest.mark.parametrize("objective", ["latency", "energy"])
def test_it_is_only_for_size(shop, tmp_path, wide_onnx, wide_task, wide_rows, wide_reference, objective):
    technique = Sparsity(Sparsity.Params())
    assert technique.unsuited(shop.trained, shop) is None
    other = shop_of(tmp_path, wide_onnx, wide_task, wide_rows, wide_reference, Compression(objective=objective))
    assert technique.unsuited(other.trained, other) == (
        f"makes files smaller, not faster: only for compression.objective: size, not {objective}"
    )


def test_a_file_that_gets_no_smaller_is_a_failure_and_the_others_are_made(shop, wide_onnx):
    variants = Sparsity(Sparsity.Params(shares=(0.01, 0.5))).variants(shop.trained, shop)
    assert variants[0].path is None
    assert variants[0].failure.startswith("found ")
    assert (
        f"bytes with 1% of the weights zero; expected fewer than the {wide_onnx.stat().st_size}" in variants[0].failure
    )
    assert not (shop.folder / "sparse_1.onnx").exists()
    assert variants[1].failure is None


def test_a_graph_without_weights_to_speak_of_is_refused(tmp_path):
    from tests.tiny import tiny_onnx

    small = tiny_onnx(tmp_path / "tiny.onnx", 0)
    with pytest.raises(TechniqueError, match="found no weights of Conv, Gemm, MatMul with 256 numbers or more"):
        sparsify(small, tmp_path / "sparse.onnx", 0.5)
    assert network_of(small).onnx == small


@pytest.mark.parametrize("shares", [(0.0,), (1.0,), (0.5, 0.5), ()])
def test_shares_are_different_and_between_nothing_and_everything(shares):
    with pytest.raises(ValidationError, match=r"different shares between 0 and 1|at least 1 item"):
        Sparsity.Params(shares=shares)
