import collections
import json

import numpy as np
import pytest
from pydantic import ValidationError

from dl_pipelines.brief.sections import Compression
from dl_pipelines.compression.base import TechniqueError
from dl_pipelines.compression.candidates import on_runtimes, served_files, spread
from dl_pipelines.compression.registry import TECHNIQUES
from dl_pipelines.compression.sensitive_layers import Search
from dl_pipelines.compression.static_int8 import StaticInt8
from dl_pipelines.compression.trials import Bench
from dl_pipelines.inference.parity import session_outputs
from dl_pipelines.inference.runtimes import ModelRunError, RuntimeFileError, open_runtime
from dl_pipelines.tasks.base import Rows
from tests.quantizing import network_of, shop_of


@pytest.fixture(scope="module")
def make(wide_onnx, wide_task, wide_rows, wide_reference, tmp_path_factory):
    """`make(folder=None, calibration=None, compression=None, onnx=wide, **params)`: variants by name."""

    def variants(folder=None, calibration=None, compression=None, onnx=wide_onnx, **params):
        folder = folder or tmp_path_factory.mktemp("int8")
        shop = shop_of(folder, onnx, wide_task, wide_rows, wide_reference, compression, calibration)
        made = StaticInt8(StaticInt8.Params(**params)).variants(network_of(onnx), shop)
        return {variant.name: variant for variant in made}

    return variants


@pytest.fixture(scope="module")
def quantized(make):
    return make()


def weights(path):
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(str(path)).graph
    arrays = [numpy_helper.to_array(item) for item in graph.initializer]
    return [array for array in arrays if array.dtype == np.int8 and array.ndim >= 2]


def test_both_ranges_are_made(quantized):
    assert list(quantized) == ["static_int8", "static_int8_reduced"]
    assert {variant.precision for variant in quantized.values()} == {"int8"}


def test_the_graph_has_qdq_nodes_and_int8_weights_with_a_scale_a_channel(quantized):
    import onnx
    from onnx import numpy_helper

    for variant in quantized.values():
        model = onnx.load(str(variant.path))
        onnx.checker.check_model(model, full_check=True)
        operators = collections.Counter(node.op_type for node in model.graph.node)
        assert operators["QuantizeLinear"] >= 4
        assert operators["DequantizeLinear"] >= 2 * 4
        assert sum(array.size for array in weights(variant.path)) == 32 * 9 + 256 * 32 * 9 + 512 * 256 * 4 + 2 * 512
        scales = [numpy_helper.to_array(item) for item in model.graph.initializer if item.name.endswith("weight_scale")]
        assert sorted(scale.size for scale in scales) == [2, 32, 256, 512]
        assert model.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8


def test_the_reduced_range_keeps_weights_to_seven_bits(quantized):
    assert max(np.abs(array.astype(int)).max() for array in weights(quantized["static_int8"].path)) == 127
    assert max(np.abs(array.astype(int)).max() for array in weights(quantized["static_int8_reduced"].path)) <= 64


def test_weights_are_the_rounded_originals(quantized, wide_network):
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(str(quantized["static_int8"].path)).graph
    arrays = {item.name: numpy_helper.to_array(item) for item in graph.initializer}
    original = wide_network.features[3].weight.detach().numpy()
    (name,) = [name for name, array in arrays.items() if array.shape == original.shape]
    scale = arrays[name.replace("_quantized", "_scale")].reshape(-1, 1, 1, 1)
    assert np.abs(arrays[name] * scale - original).max() <= scale.max() / 2 + 1e-7


def test_a_model_of_mostly_weights_shrinks_to_about_a_quarter(quantized, wide_onnx):
    for variant in quantized.values():
        assert 0.24 < variant.path.stat().st_size / wide_onnx.stat().st_size < 0.30


def test_it_decides_as_the_original_on_both_runtimes(quantized, wide_onnx, wide_rows, wide_reference, tmp_path):
    candidates = on_runtimes(list(quantized.values()), ("onnxruntime", "openvino"), tmp_path)
    assert [item.key for item in candidates] == [
        f"{variant} on {runtime}" for variant in quantized for runtime in ("onnxruntime", "openvino")
    ]
    for item in candidates:
        outputs = session_outputs(open_runtime(item.runtime, item.variant.path), wide_rows.inputs)
        assert (outputs.argmax(1) == wide_reference.argmax(1)).mean() >= 0.98
        assert all(path.is_file() for path in served_files(item.variant.path))
    size = sum(path.stat().st_size for path in served_files(candidates[1].variant.path))
    assert size / wide_onnx.stat().st_size < 0.4


def test_the_calibration_that_loses_least_is_taken_and_all_are_told(quantized, make, wide_onnx, wide_rows):
    expected = session_outputs(open_runtime("onnxruntime", wide_onnx), wide_rows.inputs)
    for variant in quantized.values():
        told = variant.details["calibration"]
        assert told["rows"] == 200
        assert set(told["loss"]) == set(told["difference"]) == {"minmax", "entropy", "percentile"}
        nearest = min(told["loss"], key=lambda method: (told["loss"][method], told["difference"][method]))
        assert told["method"] == nearest
        outputs = session_outputs(open_runtime("onnxruntime", variant.path), wide_rows.inputs)
        assert np.abs(outputs - expected).mean() == pytest.approx(told["difference"][nearest], rel=1e-6)
        json.dumps(dict(variant.details))


def test_the_same_rows_give_the_same_bytes(quantized, make, tmp_path):
    for name, first in quantized.items():
        given = "reduced" if name.endswith("reduced") else "full"
        method = first.details["calibration"]["method"]
        (variant,) = make(tmp_path / given, methods=(method,), ranges=(given,)).values()
        assert variant.path.read_bytes() == first.path.read_bytes()
        assert str(tmp_path).encode() not in variant.path.read_bytes()


def test_a_budget_that_int8_misses_leaves_layers_in_float(make, wide_network, wide_task, wide_rows, tmp_path):
    import copy

    import torch

    from dl_pipelines.inference.export import export_onnx
    from dl_pipelines.inference.parity import torch_outputs

    # One channel whose weights dwarf the others of its layer: with one scale for all of them, little is left of those.
    network = copy.deepcopy(wide_network)
    with torch.no_grad():
        network.features[3].weight[0] *= 3000
        network.features[6].weight[:, 0] /= 3000
    onnx = export_onnx(network, wide_task, tmp_path / "outlier" / "model.onnx")
    rows = Rows(wide_rows.inputs, torch_outputs(network, wide_rows.inputs).argmax(1), wide_rows.ids)
    shop = shop_of(
        tmp_path / "mixed", onnx, wide_task, rows, torch_outputs(network, rows.inputs), Compression(max_loss=0.01)
    )
    params = StaticInt8.Params(per_channel=False, methods=("minmax",), ranges=("full",))
    full, mixed = StaticInt8(params).variants(network_of(onnx), shop)
    assert (full.name, mixed.name) == ("static_int8", "static_int8_mixed")
    assert not shop.within_budget(shop.outputs(full.path, "onnxruntime", "int8"))
    assert shop.within_budget(shop.outputs(mixed.path, "onnxruntime", "int8"))
    assert mixed.details["in_float"]["node_conv2d_1"] > 0.01, "the layer with the outlier, and what it would lose"
    assert len(mixed.details["in_float"]) < 4
    assert mixed.details["evaluations"] <= 12
    off = StaticInt8.Params(per_channel=False, methods=("minmax",), ranges=("full",), sensitive="off")
    assert [variant.name for variant in StaticInt8(off).variants(network_of(onnx), shop)] == ["static_int8"]


def test_a_budget_that_nothing_meets_is_told(make, wide_rows):
    dark = np.zeros_like(wide_rows.inputs[:1])  # ranges of a black image hold nothing
    (full, mixed) = make(
        calibration=dark, methods=("minmax",), ranges=("full",), evaluations=2, compression=Compression(max_loss=0)
    ).values()
    assert full.path is not None
    assert mixed.failure == (
        "found no layers to leave in float that meet the budget, in 2 graphs; raise evaluations, or "
        "compression.max_loss"
    )


def test_a_model_without_anything_to_quantize_is_told(make, tmp_path):
    from onnx import TensorProto, helper, save

    given = helper.make_tensor_value_info("x", TensorProto.UINT8, ["n", 8, 8, 1])
    gives = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 8, 8, 1])
    graph = helper.make_graph([helper.make_node("Cast", ["x"], ["y"], to=TensorProto.FLOAT)], "g", [given], [gives])
    path = tmp_path / "cast.onnx"
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), str(path))
    made = make(tmp_path / "out", onnx=path).values()
    assert [variant.path for variant in made] == [None, None]
    assert {variant.failure for variant in made} == {
        "found no operator that int8 covers; the graph would stay as it is"
    }


def test_a_damaged_file_is_told(make, wide_onnx, tmp_path):
    bad = tmp_path / "bad.onnx"
    bad.write_bytes(wide_onnx.read_bytes()[:1000])
    (variant,) = make(tmp_path / "out", onnx=bad, ranges=("full",)).values()
    assert variant.path is None
    assert "bad.onnx, which onnxruntime can't load (" in variant.failure


def test_rows_that_do_not_determine_the_metric_are_told(make, wide_task, monkeypatch):
    measure = type(wide_task).measure
    monkeypatch.setattr(
        type(wide_task), "measure",
        lambda self, outputs, targets: {n: v for n, v in measure(self, outputs, targets).items() if n != "accuracy"},
    )  # fmt: skip
    (variant,) = make(methods=("minmax",), ranges=("full",)).values()
    assert variant.path is None
    assert variant.failure.startswith("found answers or rows that don't determine accuracy; expected answers that are ")


def test_a_graph_that_one_runtime_does_not_take_is_scored_on_the_other(
    wide_onnx, wide_task, wide_rows, wide_reference, tmp_path, monkeypatch
):
    def opened(self, path, runtime, precision="fp32"):
        # As OpenVINO 2026.4 with recurrent layers and attention in int8: it reads the graph and can't compile it.
        if runtime == "openvino" and precision == "int8":
            raise RuntimeFileError("found model.onnx, which openvino can't load")
        return open_runtime(runtime, path, self.threads, precision)

    monkeypatch.setattr(Bench, "open", opened)
    params = StaticInt8.Params(methods=("minmax",), ranges=("full",))
    for runtimes, expected in (
        (("openvino", "onnxruntime"), None),
        (("openvino",), "found model.onnx, which openvino"),
    ):
        shop = shop_of(
            tmp_path / runtimes[-1], wide_onnx, wide_task, wide_rows, wide_reference, Compression(runtimes=runtimes)
        )
        (variant,) = StaticInt8(params).variants(network_of(wide_onnx), shop)
        if expected is None:
            assert variant.details["calibration"]["loss"]["minmax"] < 0.01
        else:
            assert variant.failure.startswith(expected)


def test_sensitive_layers_are_looked_for_on_the_runtime_that_takes_the_graph(make, wide_rows, monkeypatch):
    def opened(self, path, runtime, precision="fp32"):
        if runtime == "openvino" and precision == "int8":
            raise RuntimeFileError("found model.onnx, which openvino can't load")
        return open_runtime(runtime, path, self.threads, precision)

    monkeypatch.setattr(Bench, "open", opened)
    dark = np.zeros_like(wide_rows.inputs[:2])
    full, mixed = make(
        calibration=dark, methods=("minmax",), ranges=("full",), evaluations=2,
        compression=Compression(runtimes=("openvino", "onnxruntime"), max_loss=0),
    ).values()  # fmt: skip
    assert full.path is not None
    assert mixed.failure is not None and mixed.failure.startswith("found no layers to leave in float that meet the ")


@pytest.mark.parametrize(
    "error", [RuntimeFileError("it is cut"), ModelRunError("it is cut"), TechniqueError("it is cut")]
)
def test_a_search_that_fails_leaves_what_was_made_before(make, wide_rows, monkeypatch, error):
    def find(self, float_graph):
        raise error

    monkeypatch.setattr(Search, "find", find)
    dark = np.zeros_like(wide_rows.inputs[:2])
    given = {"methods": ("minmax",), "ranges": ("full",), "compression": Compression(max_loss=0)}
    full, mixed = make(calibration=dark, **given).values()
    assert (full.path is not None, full.failure) == (True, None)
    assert (mixed.path, mixed.failure) == (None, "it is cut")


def test_an_int8_that_is_over_the_budget_on_a_slice_alone_is_repaired(
    wide_onnx, wide_task, wide_rows, wide_reference, tmp_path
):
    dark = np.zeros_like(wide_rows.inputs[:2])  # so that bright rows are taken for dark ones
    sliced = Rows(wide_rows.inputs, wide_rows.targets, wide_rows.ids, {"bright": wide_rows.targets == 1})
    shop = shop_of(tmp_path, wide_onnx, wide_task, sliced, wide_reference, calibration=dark)
    given = {"methods": ("minmax",), "ranges": ("full",), "evaluations": 2}
    (full,) = StaticInt8(StaticInt8.Params(**given, sensitive="off")).variants(network_of(wide_onnx), shop)
    outputs = shop.outputs(full.path, "onnxruntime", "int8")
    overall, bright = shop.loss(outputs)["high"], shop.worst(outputs)
    assert overall < bright
    between = Compression(max_loss=(overall + bright) / 2)
    again = shop_of(tmp_path, wide_onnx, wide_task, sliced, wide_reference, between, dark)
    made = StaticInt8(StaticInt8.Params(**given)).variants(network_of(wide_onnx), again)
    assert [variant.name for variant in made] == ["static_int8", "static_int8_mixed"]


def test_a_layer_may_be_left_in_float_and_an_unknown_one_is_named(make):
    import onnx

    (variant,) = make(in_float=("node_linear",), methods=("minmax",), ranges=("full",)).values()
    (linear,) = [node for node in onnx.load(str(variant.path)).graph.node if node.op_type == "Gemm"]
    assert linear.input[1].endswith("weight")
    (wrong,) = make(in_float=("head",), methods=("minmax",), ranges=("full",)).values()
    assert wrong.failure.startswith("found no layer 'head' for in_float; expected of node_conv2d, ")


def test_rows_are_spread_evenly_whatever_their_order():
    ids = np.array([f"{place:03d}" for place in range(100)], dtype=object)
    rows = Rows(np.arange(100, dtype=np.uint8)[:, None], np.zeros(100, int), ids)
    assert spread(rows, 5).ravel().tolist() == [0, 24, 49, 74, 99]
    order = np.random.default_rng(0).permutation(100)
    shuffled = Rows(rows.inputs[order], rows.targets, ids[order])
    np.testing.assert_array_equal(spread(shuffled, 40), spread(rows, 40))
    assert len(spread(rows, 1000)) == 100
    assert len(spread(Rows(rows.inputs[:0], rows.targets[:0], ids[:0]), 8)) == 0


def test_params_are_checked():
    assert TECHNIQUES.params_model("static_int8")().calibration_rows == 256
    wrong = (
        {"ranges": []}, {"ranges": ["half"]}, {"calibration_rows": 1}, {"bits": 4}, {"methods": ["mse"]},
        {"evaluations": 1}, {"sensitive": "on"},
    )  # fmt: skip
    for params in wrong:
        with pytest.raises(ValidationError):
            StaticInt8.Params.model_validate(params)
