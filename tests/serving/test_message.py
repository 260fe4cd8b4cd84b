"""Requests as bytes, against what tritonclient itself sends and reads."""

import numpy as np
import pytest
from tritonclient.grpc import InferInput, InferRequestedOutput, InferResult, service_pb2
from tritonclient.grpc._utils import _get_inference_request

from dl_pipelines.serving.message import Message, outputs_of


def expected(inputs, request_id):
    from tritonclient.utils import np_to_triton_dtype

    tensor = InferInput("x", list(inputs.shape), np_to_triton_dtype(inputs.dtype))
    tensor.set_data_from_numpy(inputs)
    wanted = [InferRequestedOutput("y")]
    return _get_inference_request(
        model_name="m", inputs=[tensor], model_version="", request_id=request_id, outputs=wanted, sequence_id=0,
        sequence_start=False, sequence_end=False, priority=0, timeout=None, parameters=None,
    )  # fmt: skip


@pytest.mark.parametrize("dtype", ["uint8", "int64", "float16", "float32", "bool"])
@pytest.mark.parametrize("shape", [(1, 8, 8, 1), (3, 50, 2), (1, 200, 300)])
@pytest.mark.parametrize("request_id", ["", "a", "ü" * 100])
def test_a_request_is_the_one_that_tritonclient_makes(dtype, shape, request_id):
    inputs = np.random.default_rng(0).integers(0, 2, shape).astype(dtype)
    found = service_pb2.ModelInferRequest.FromString(Message("m", "x", "y").of(inputs, request_id))
    assert found == expected(inputs, request_id)


def test_one_message_is_for_requests_of_any_shape_in_turn():
    message = Message("m", "x", "y")
    for inputs in (np.zeros((2, 3), np.float32), np.ones((1, 3), np.float32), np.ones((1, 3), np.int32)):
        found = service_pb2.ModelInferRequest.FromString(message.of(inputs, "id"))
        assert found == expected(inputs, "id")


def test_a_unit_is_sent_as_the_parameter_that_the_router_reads():
    inputs = np.zeros((1, 3), np.float32)
    found = service_pb2.ModelInferRequest.FromString(Message("m", "x", "y", "customer-7").of(inputs, "id"))
    wanted = expected(inputs, "id")
    wanted.parameters["unit_id"].string_param = "customer-7"
    assert found == wanted


def test_rows_of_a_larger_array_are_sent_as_they_look():
    rows = np.arange(24, dtype=np.float32).reshape(4, 6)[::2, ::3]
    found = service_pb2.ModelInferRequest.FromString(Message("m", "x", "y").of(rows))
    assert found.raw_input_contents[0] == np.array([[0, 3], [12, 15]], np.float32).tobytes()


def test_a_dtype_that_triton_has_not_is_refused():
    with pytest.raises(ValueError, match="found the dtype dtype\\('complex64'\\)"):
        Message("m", "x", "y").of(np.zeros((1, 2), np.complex64))


def test_an_answer_is_what_tritonclient_reads():
    values = np.random.default_rng(0).random((3, 2, 5), np.float32)
    reply = service_pb2.ModelInferResponse(model_name="m", id="a")
    reply.outputs.add(name="y", datatype="FP32", shape=values.shape)
    reply.raw_output_contents.append(values.tobytes())
    found = outputs_of(reply.SerializeToString())
    np.testing.assert_array_equal(found, InferResult(reply).as_numpy("y"))
    assert found.dtype == np.float32 and not found.flags.writeable
