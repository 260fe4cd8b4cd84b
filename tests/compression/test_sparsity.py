import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from pydantic import ValidationError

from dl_pipelines.brief.sections import Compression
from dl_pipelines.compression.base import TechniqueError
from dl_pipelines.compression.candidates import on_runtimes, served_files
from dl_pipelines.compression.sparsity import KIND, Sparsity, store_masks, zero_weights
from dl_pipelines.inference.parity import session_outputs, torch_outputs
from dl_pipelines.inference.runtimes import open_runtime, save_openvino
from tests.compressing import workshop
from tests.quantizing import shop_of

SIZE = Compression(objective="size")


@pytest.fixture(scope="module")
def made(trained_model, tmp_path_factory, brief, workspace, partition, task):
    """The workshop of the session's model, and two variants of it of which the first can't be smaller."""
    folder = tmp_path_factory.mktemp("sparsity")
    shop = workshop(folder, brief, workspace, partition, task, SIZE).of("sparsity")
    return shop, Sparsity(Sparsity.Params(shares=(0.01, 0.5))).variants(shop.trained, shop)


@pytest.fixture(scope="module")
def zeroed(wide_onnx, tmp_path_factory):
    """The wide graph with half of its weights zero by numpy, how many it has, how many of them are zero."""
    model, count, zeros = onnx.load(str(wide_onnx)), 0, 0
    for item in model.graph.initializer:
        array = numpy_helper.to_array(item).copy()
        if array.size >= 256:
            array[np.abs(array) <= np.median(np.abs(array))] = 0
            item.CopyFrom(numpy_helper.from_array(array, item.name))
            count, zeros = count + array.size, zeros + int((array == 0).sum())
    path = tmp_path_factory.mktemp("zeroed") / "zeroed.onnx"
    onnx.save(model, str(path))
    return path, count, zeros


def test_the_smallest_weights_of_each_layer_become_zero():
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv2d(2, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.Linear(20, 30))
    with torch.no_grad():
        network[2].weight *= 50  # whatever its scale, a layer is judged by its own
    before = [network[place].weight.detach().numpy().copy() for place in (0, 2)]
    threshold, zeros = zero_weights(network, 0.6)
    sizes = [np.abs(array) / array.std() for array in before]
    limit = np.sort(np.concatenate([size.ravel() for size in sizes]))[round(0.6 * (144 + 600)) - 1]
    assert threshold == pytest.approx(limit, abs=1e-4)
    for place, array, size in zip((0, 2), before, sizes, strict=True):
        expected = np.where(size <= limit, 0, array)
        assert np.array_equal(network[place].weight.detach().numpy(), expected)
        assert zeros[str(place)] == pytest.approx((expected == 0).mean(), abs=1e-4)
    assert list(zeros) == ["0", "2"]


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_masks_answer_as_the_dense_graph_and_are_smaller_on_both_runtimes(zeroed, wide_rows, tmp_path, runtime):
    dense, count, zeros = zeroed
    store_masks(dense, tmp_path / "masked.onnx")
    paths = [dense, tmp_path / "masked.onnx"]
    if runtime == "openvino":
        paths = [save_openvino(path, tmp_path / path.stem / "model.xml")[0] for path in paths]
    expected, found = (session_outputs(open_runtime(runtime, path), wide_rows.inputs) for path in paths)
    assert np.array_equal(found, expected)
    before, after = (sum(path.stat().st_size for path in served_files(path)) for path in paths)
    assert before - after == pytest.approx(4 * zeros - count / 8, abs=30_000)  # the operators that restore weights


def test_onnx_runtime_makes_the_weights_whole_when_it_loads_them(zeroed, tmp_path):
    import onnxruntime

    store_masks(zeroed[0], tmp_path / "masked.onnx")
    onnx.checker.check_model(onnx.load(str(tmp_path / "masked.onnx")), full_check=True)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(tmp_path / "loaded.onnx")
    onnxruntime.InferenceSession(str(tmp_path / "masked.onnx"), options, providers=["CPUExecutionProvider"])
    loaded = {node.op_type for node in onnx.load(str(tmp_path / "loaded.onnx")).graph.node}
    assert loaded.isdisjoint({"BitwiseAnd", "CumSum", "Gather"})
    assert "Conv" in loaded


def test_a_variant_is_the_network_with_zeros_in_it(made):
    shop, variants = made
    variant = variants[1]
    assert (variant.name, variant.precision, variant.network.plan) == ("sparse_50", "fp32", shop.trained.plan)
    weights = shop.module(variant.network).state_dict()
    layers = [value for name, value in weights.items() if value.ndim > 1 and name.endswith("weight")]
    assert sum(int((value == 0).sum()) for value in layers) == round(sum(value.numel() for value in layers) / 2)
    expected = torch_outputs(shop.module(variant.network), shop.rows.inputs)
    for candidate in on_runtimes([variant], ["onnxruntime", "openvino"], shop.folder):
        assert np.abs(shop.outputs(candidate.variant.path, candidate.runtime) - expected).max() < 1e-4
    assert variant.details["bytes"] == [variant.network.onnx.stat().st_size, variant.path.stat().st_size]
    assert variant.details["bytes"][1] < 0.6 * variant.details["bytes"][0]
    assert (variant.details["kind"], variant.details["share"]) == (KIND, 0.5)


def test_a_file_that_gets_no_smaller_is_a_failure_and_the_others_are_made(made):
    _, variants = made
    assert (variants[0].name, variants[0].path, variants[0].network) == ("sparse_1", None, None)
    assert "bytes with masks; expected fewer than the" in variants[0].failure
    assert variants[1].failure is None


def test_the_same_network_gives_the_same_bytes(made):
    shop, variants = made
    written = variants[1].path.read_bytes()
    again = Sparsity(Sparsity.Params(shares=(0.5,))).variants(shop.trained, shop)
    assert again == variants[1:]
    assert again[0].path.read_bytes() == written


@pytest.mark.parametrize("objective", ["latency", "energy", "size"])
def test_it_is_only_for_size(tmp_path, wide_onnx, wide_task, wide_rows, wide_reference, objective):
    compression = Compression(objective=objective)
    shop = shop_of(tmp_path, wide_onnx, wide_task, wide_rows, wide_reference, compression)
    why = f"makes files smaller, not faster: only for compression.objective: size, not {objective}"
    assert Sparsity(Sparsity.Params()).unsuited(shop.trained, shop) == (None if objective == "size" else why)


def test_a_network_without_weights_to_speak_of_is_refused():
    with pytest.raises(TechniqueError, match="found no convolution or dense layer; expected some"):
        zero_weights(torch.nn.Sequential(torch.nn.ReLU()), 0.5)


def test_shares_that_round_to_one_percent_have_files_of_their_own(made):
    shop = made[0].of("close")
    first, second = Sparsity(Sparsity.Params(shares=(0.995, 0.999))).variants(shop.trained, shop)
    assert (first.name, second.name) == ("sparse_99_5", "sparse_99_9")
    assert first.path != second.path and first.network.weights != second.network.weights
    for variant in (first, second):
        assert variant.details["bytes"] == [variant.network.onnx.stat().st_size, variant.path.stat().st_size]
        weights = shop.module(variant.network).state_dict()
        layers = [value for name, value in weights.items() if value.ndim > 1 and name.endswith("weight")]
        zeros = sum(int((value == 0).sum()) for value in layers) / sum(value.numel() for value in layers)
        assert zeros == pytest.approx(variant.details["share"], abs=1e-4)


@pytest.mark.parametrize("shares", [(0.0,), (1.0,), (0.5, 0.5), (0.5, 0.500001), ()])
def test_shares_are_different_and_between_nothing_and_everything(shares):
    with pytest.raises(ValidationError, match=r"shares between 0 and 1 that differ|at least 1 item"):
        Sparsity.Params(shares=shares)
