"""A gRPC request of one tensor as bytes, and the answer's tensor: what tritonclient makes, with one copy of the data.

Protobuf copies a tensor into its message and again when it writes that; here it is joined behind the written head. The
fields are those of KServe's ModelInferRequest (grpc_predict_v2.proto), whose order on the wire is free.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dl_pipelines.serving.config import triton_type

if TYPE_CHECKING:
    import numpy as np

METHOD = "/inference.GRPCInferenceService/ModelInfer"
_ID, _CONTENT = b"\x1a", b"\x3a"
"""Keys of the fields `id` (3) and `raw_input_contents` (7), both with a length before what they hold."""


class Message:
    """Requests to one model with the input `given` and the output `gives`, all of one `unit`, where that is given."""

    def __init__(self, model: str, given: str, gives: str, unit: str = ""):
        self._model, self._given, self._gives, self._unit = model, given, gives, unit
        self._kind: tuple[object, ...] = ()
        self._head = b""

    def of(self, inputs: np.ndarray, request_id: str = "") -> bytes:
        """`inputs` [N, ...] of numbers under a request id. Raises ValueError for a dtype that Triton has not."""
        import numpy as np

        kind = inputs.shape, inputs.dtype
        if kind != self._kind:
            self._head, self._kind = self._written(inputs), kind
        data = np.ascontiguousarray(inputs).reshape(-1).view(np.uint8).data
        name = request_id.encode()
        named = (_ID, _varint(len(name)), name) if name else ()
        return b"".join((self._head, *named, _CONTENT, _varint(len(data)), data))

    def _written(self, inputs: np.ndarray) -> bytes:
        request = _messages().ModelInferRequest(model_name=self._model)
        request.inputs.add(name=self._given, datatype=triton_type(inputs.dtype), shape=inputs.shape)
        request.outputs.add(name=self._gives)
        if self._unit:
            request.parameters["unit_id"].string_param = self._unit
        return request.SerializeToString()


def outputs_of(reply: bytes) -> np.ndarray:
    """The one tensor of a ModelInferResponse, read-only."""
    import numpy as np
    from tritonclient.utils import triton_to_np_dtype

    response = _messages().ModelInferResponse.FromString(reply)
    (told,), (content,) = response.outputs, response.raw_output_contents
    return np.frombuffer(content, triton_to_np_dtype(told.datatype)).reshape(told.shape)


def _messages() -> Any:
    """Protobuf's generated classes, which have no types."""
    from tritonclient.grpc import service_pb2

    return service_pb2


def _varint(number: int) -> bytes:
    """Protobuf's whole numbers: seven bits a byte, the lowest first."""
    found = bytearray()
    while number > 127:
        found.append(number & 127 | 128)
        number >>= 7
    return bytes([*found, number])
