import pytest
from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig, ModelInstanceGroup

from dl_pipelines.brief.live import PredictionLog, Serving
from dl_pipelines.serving import config
from dl_pipelines.serving.repository import ROUTER
from dl_pipelines.tasks.base import Signature, Tensor

SERVING = Serving(max_batch=8, instances=2, threads=3, queue_delay_ms=0.25)


def parsed(text: str) -> ModelConfig:
    return text_format.Parse(text, ModelConfig())


@pytest.mark.parametrize(
    ("runtime", "threads"), [("onnxruntime", "intra_op_thread_count"), ("openvino", "INFERENCE_NUM_THREADS")]
)
def test_a_model_is_described_by_its_signature(task, runtime, threads):
    found = parsed(config.model_config(task.signature(), runtime, SERVING))
    assert (found.backend, found.max_batch_size, found.name) == (runtime, 8, "")
    assert [(tensor.name, list(tensor.dims)) for tensor in found.input] == [("image", [8, 8, 1])]
    assert [(tensor.name, list(tensor.dims), tensor.label_filename) for tensor in found.output] == [
        ("logits", [2], "labels.txt")
    ]
    assert found.HasField("dynamic_batching")
    (group,) = found.instance_group
    assert (group.count, group.kind) == (2, ModelInstanceGroup.KIND_CPU)
    assert found.parameters[threads].string_value == "3"
    assert [warmup.batch_size for warmup in found.model_warmup] == [1, 8]


@pytest.mark.parametrize(
    ("runtime", "precision", "told"),
    [
        ("openvino", "fp32", {}),
        ("openvino", "int8", {}),
        ("openvino", "bf16", {"INFERENCE_PRECISION_HINT": "bf16", "HINT_BF16": "YES"}),
        ("openvino", "fp16", {"INFERENCE_PRECISION_HINT": "f16"}),
        ("openvino", "fp16_stored", {}),
        ("onnxruntime", "fp16", {}),
    ],
)
def test_a_model_is_served_in_the_precision_that_it_was_chosen_in(task, runtime, precision, told):
    found = parsed(config.model_config(task.signature(), runtime, SERVING, precision)).parameters
    hints = {key: found[key].string_value for key in found if "HINT" in key}
    assert hints == told


def test_the_ends_of_a_config_are_read_back(task):
    text = config.model_config(task.signature(), "onnxruntime", SERVING)
    assert config.ends(text) == {"inputs": ["image UINT8 [8, 8, 1]"], "outputs": ["logits FP32 [2]"]}
    assert config.ends("") == {"inputs": [], "outputs": []}


def test_the_router_has_the_models_tensors_and_the_queue(task):
    base = (ROUTER / "config.pbtxt").read_text()
    found = parsed(config.router_config(base, task.signature(), SERVING, {"summary": "image"}))
    assert (found.backend, found.max_batch_size) == ("python", 8)
    assert [(list(tensor.dims), list(tensor.reshape.shape)) for tensor in found.input] == [([8, 8, 1], [1, 8, 8, 1])]
    assert found.dynamic_batching.max_queue_delay_microseconds == 250
    assert found.input[0].name == "image"
    assert found.parameters["summary"].string_value == "image"
    again = parsed(config.with_parameters(text_format.MessageToString(found), {"summary": "tensor"}))
    assert again.parameters["summary"].string_value == "tensor"


def test_a_free_dimension_is_warmed_up_with_one():
    signature = Signature((Tensor("x", "float32", (-1, 3)),), (Tensor("y", "float32", (1,)),))
    (one, _) = parsed(config.model_config(signature, "onnxruntime", SERVING)).model_warmup
    assert list(one.inputs["x"].dims) == [1, 3]


def test_unknown_words_are_refused(task):
    with pytest.raises(ValueError, match="found the runtime 'tensorrt'; expected onnxruntime or openvino"):
        config.model_config(task.signature(), "tensorrt", SERVING)
    with pytest.raises(ValueError, match="found the dtype 'complex64'"):
        config.triton_type("complex64")


def test_the_router_is_told_what_the_brief_says_of_its_log(task):
    log = PredictionLog(sample=0.25, columns=("country", "unit_id"), segment_mb=0.5)
    found = config.router_parameters("p", task.signature(), Serving(durability="disk", log=log))
    assert found == {
        "summary": "image", "finite": "yes", "limit_seconds": "10", "durability": "disk", "sample": "0.25",
        "columns": '["country", "unit_id"]', "segment_bytes": "524288", "routing": "../../server/routing/p.json",
        "log_folder": "../../predictions/p",
    }  # fmt: skip
    for timeout_ms, limit in ((200, "5"), (30_000, "150")):
        given = config.router_parameters("p", task.signature(), Serving(timeout_ms=timeout_ms))
        assert given["limit_seconds"] == limit
