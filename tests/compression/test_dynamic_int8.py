import collections

import numpy as np
import pytest
from pydantic import ValidationError

from dl_pipelines.compression.base import Variant
from dl_pipelines.compression.candidates import on_runtimes
from dl_pipelines.compression.dynamic_int8 import DynamicInt8
from dl_pipelines.compression.registry import TECHNIQUES
from dl_pipelines.inference.parity import check_parity, session_outputs, torch_outputs
from dl_pipelines.inference.runtimes import open_runtime
from dl_pipelines.tasks.base import Rows
from tests.quantizing import network_of, shop_of
from tests.sequences import WIDTH, frames, make_network, make_task, onnx_file, targets


def made(path, folder, **params):
    inputs = frames(8)
    rows = Rows(inputs, targets(inputs), np.arange(8).astype(str).astype(object))
    shop = shop_of(folder, path, make_task(), rows, torch_outputs(make_network(), inputs))
    technique = DynamicInt8(DynamicInt8.Params(**params))
    return {variant.name: variant for variant in technique.variants(network_of(path), shop)}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return onnx_file(tmp_path_factory.mktemp("dynamic") / "model.onnx")


@pytest.fixture(scope="module")
def quantized(base):
    return made(base, base.parent / "int8")


def operators(path):
    import onnx

    return collections.Counter(node.op_type for node in onnx.load(str(path)).graph.node)


def arrays(path):
    import onnx
    from onnx import numpy_helper

    return {item.name: numpy_helper.to_array(item) for item in onnx.load(str(path)).graph.initializer}


def test_products_are_integers_and_recurrent_weights_are_stored_in_eight_bits(quantized, base):
    import onnx

    assert list(quantized) == ["dynamic_int8", "dynamic_int8_reduced"]
    for variant in quantized.values():
        onnx.checker.check_model(onnx.load(str(variant.path)), full_check=True)
        found = operators(variant.path)
        # entry, the attention's q, k and v, its output, the head; the two products of activations stay.
        assert (found["MatMulInteger"], found["MatMul"], found["Gemm"]) == (5, 2, 0)
        assert (found["LSTM"], found["GRU"], found["DequantizeLinear"]) == (1, 1, 4)
        assert found["DynamicQuantizeLinear"] == 0
        assert variant.path.stat().st_size < 0.45 * base.stat().st_size
        small = [array for array in arrays(variant.path).values() if array.dtype == np.int8 and array.ndim > 1]
        assert sum(array.size for array in small) == sum(
            value.numel() for name, value in make_network().named_parameters()
            if value.ndim > 1 and not name.startswith("weekday")
        )  # fmt: skip


def test_recurrent_weights_are_the_rounded_originals(quantized):
    found = arrays(quantized["dynamic_int8"].path)
    original = make_network().lstm.weight_hh_l0.detach().numpy()
    gates = [np.arange(WIDTH) + WIDTH * gate for gate in (0, 3, 1, 2)]  # torch: i f g o; ONNX: i o f g
    expected = original[np.concatenate(gates)]
    near = [
        np.abs(array[0] * found[name.replace("_int8", "_scale")][:, None] - expected).max()
        for name, array in found.items() if array.shape == (1, *expected.shape)
    ]  # fmt: skip
    assert min(near) <= np.abs(original).max() / 127 / 2 + 1e-7


def test_reduced_weights_have_seven_bits(quantized):
    def largest(name):
        found = arrays(quantized[name].path)
        return max(np.abs(array.astype(int)).max() for key, array in found.items() if key.endswith("_quantized"))

    assert (largest("dynamic_int8"), largest("dynamic_int8_reduced")) == (127, 64)


def test_it_answers_as_the_original_whoever_else_asks_on_both_runtimes(base, tmp_path):
    inputs, network = frames(40), make_network()
    reference = torch_outputs(network, inputs)
    variants = [Variant("fp32", "none", "fp32", base), *made(base, tmp_path).values()]
    answers = {}
    for item in on_runtimes(variants, ("onnxruntime", "openvino"), tmp_path):
        variant, name, runtime = item.variant, item.variant.name, item.runtime
        session = open_runtime(runtime, variant.path)
        parity, answers[name, runtime] = check_parity(
            make_task(), reference, session, inputs, exact=variant.precision == "fp32"
        )
        assert parity.passed, parity.summary
        assert parity.max_difference < (1e-5 if name == "fp32" else 0.1)
        alone = session_outputs(session, inputs, batch=1)
        # Another order of summation may round an activation the other way, now and then.
        assert make_task().parity(answers[name, runtime], alone, 5e-3).passed
        assert (~np.isclose(alone, answers[name, runtime], rtol=1e-4, atol=1e-4)).mean() < 0.05
    # Each by its own scales: a runtime that fuses them into one would be ten times as far off. (In seven bits, in which
    # every CPU adds exactly: ONNX Runtime's sums of eight saturate where there is no VNNI.)
    ours, other = (answers["dynamic_int8_reduced", runtime] for runtime in ("onnxruntime", "openvino"))
    assert np.abs(ours - other).mean() < 0.1 * np.abs(ours - reference).mean()


def test_onnx_runtimes_own_lstm_depends_on_the_batch_and_is_refused(base, tmp_path):
    (variant,) = made(base, tmp_path, ranges=("full",), recurrent="dynamic").values()
    found = operators(variant.path)
    assert (found["DynamicQuantizeLSTM"], found["LSTM"], found["MatMulInteger"]) == (1, 0, 5)
    inputs = frames(40)
    inputs[5:9, :, 3] *= 50  # others who ask at the same time
    reference = torch_outputs(make_network(), inputs)
    parity, _ = check_parity(make_task(), reference, open_runtime("onnxruntime", variant.path), inputs, exact=False)
    assert not parity.passed
    assert parity.summary.startswith("answers depend on the batch: one row alone differs by ")


def test_the_same_file_gives_the_same_bytes(quantized, base, tmp_path):
    for name, variant in made(base, tmp_path).items():
        assert variant.path.read_bytes() == quantized[name].path.read_bytes()
        assert str(tmp_path).encode() not in variant.path.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dynamic_int8.onnx", "dynamic_int8_reduced.onnx"]


def test_a_model_without_anything_to_quantize_and_a_damaged_file_are_told(base, tmp_path):
    from onnx import TensorProto, helper, save

    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])
    gives = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])
    graph = helper.make_graph([helper.make_node("Abs", ["x"], ["y"])], "g", [given], [gives])
    path = tmp_path / "abs.onnx"
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), str(path))
    for variant in made(path, tmp_path / "out").values():
        assert variant.path is None
        assert variant.failure == "found no operator that dynamic int8 covers; the graph would stay as it is"
    bad = tmp_path / "bad.onnx"
    bad.write_bytes(base.read_bytes()[:1000])
    (variant,) = made(bad, tmp_path / "out", ranges=("full",)).values()
    assert variant.failure.startswith("DecodeError: Error parsing message")
    assert not list((tmp_path / "out").iterdir())


def test_params_are_checked():
    assert TECHNIQUES.params_model("dynamic_int8")().recurrent == "weights"
    for wrong in ({"ranges": []}, {"ranges": ["half"]}, {"recurrent": "both"}, {"calibration_rows": 5}):
        with pytest.raises(ValidationError):
            DynamicInt8.Params.model_validate(wrong)
