"""Requests that no client would send: made from a good one by a seeded mutation, over HTTP (JSON, binary) and gRPC.

Each is sent to the router. When it is answered, the very same request goes to a model itself, whose answer must be the
same: the server's own reading of the bytes is the reference. A refusal, or a connection that ends, is fine.
"""

from __future__ import annotations

import copy
import gzip
import http.client
import json
import random
from collections.abc import Callable
from typing import Any

import numpy as np

SECONDS = 20.0
ODD: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 7, 2**31, 2**63, -(2**63), 2**64, 1.5, -0.0, 1e39, 1e308, float("nan"), float("inf"),
    "", "x", "FP16", "BYTES", "../../etc/passwd", "'; DROP TABLE predictions; --", "$(reboot)", "\x00", "ü\ud83d\ude00",
    "i" * 500, [], [[]], [1, [2, 3]], {}, {"a": {"b": []}}, "gASVBAAAAAAAAABLAS4=",
)  # fmt: skip
NAMES = ("shared_memory_region", "shared_memory_byte_size", "binary_data_size", "classification", "sequence_id",
         "priority", "timeout", "unit_id", "binary_data_output", "triton_x", "a" * 300)  # fmt: skip

_DEEP, _BYTES = "(deep)", "(bytes)"


class Mutated:
    """Sends mutated requests for `x` float32 [N, 4] to a router, and what it answers to the model `reference` too."""

    def __init__(self, http_port: int, grpc: str, model: str, seed: int, reference: str = "plain", depth: int = 60):
        """`depth` of nested JSON: thousands have ended servers of this version, a test may not."""
        self._port, self._grpc, self._models = http_port, grpc, (model, reference)
        self._random, self._depth = random.Random(seed), depth

    def send(self) -> str:
        """Send the next one: `answered` or `refused`. Raises AssertionError for a wrong answer or none in time."""
        kind = self._random.choice((self._json, self._binary, self._message))
        ask = kind()
        found = ask(self._models[0])
        if found is None:
            return "refused"
        own = ask(self._models[1])
        assert found == own, f"the router answered {found!r} where the model itself gives {own!r}"
        return "answered"

    def _rows(self) -> np.ndarray:
        return np.array([[self._random.randrange(9) for _ in range(4)] for _ in range(self._random.choice((1, 1, 3)))])

    def _good(self) -> dict[str, Any]:
        rows = self._rows()
        tensor = {"name": "x", "shape": list(rows.shape), "datatype": "FP32", "data": rows.ravel().tolist()}
        return {"id": "m", "inputs": [tensor], "outputs": [{"name": "y"}], "parameters": {"unit_id": "u"}}

    def _json(self) -> Callable[[str], Any]:
        body = self._good()
        for _ in range(self._random.choice((0, 1, 1, 2, 4))):
            self._change(body)
        data = self._bytes(self._text(body))
        headers = {}
        if self._random.random() < 0.1:
            headers["Content-Encoding"] = self._random.choice(("gzip", "deflate", "br"))
            data = gzip.compress(data) if self._random.random() < 0.5 else data
        return lambda model: self._post(model, data, headers)

    def _binary(self) -> Callable[[str], Any]:
        body = self._good()
        content = np.array(body["inputs"][0].pop("data"), np.float32).tobytes()
        body["inputs"][0]["parameters"] = {"binary_data_size": len(content)}
        for _ in range(self._random.choice((0, 1, 2))):
            self._change(body)
        if self._random.random() < 0.5:
            content = self._bytes(content)
        head = self._text(body)
        length = self._random.choice((len(head),) * 6 + (0, -1, len(head) - 1, len(head) + 1, 2**40, "x"))
        return lambda model: self._post(model, head + content, {"Inference-Header-Content-Length": str(length)})

    def _message(self) -> Callable[[str], Any]:
        from tritonclient.grpc import service_pb2

        rows, draw = self._rows(), self._random
        request = service_pb2.ModelInferRequest(id="m")
        tensor = request.inputs.add(name="x", datatype="FP32")
        tensor.shape.extend(rows.shape)
        content = rows.astype(np.float32).tobytes()
        changes: tuple[Callable[[], Any], ...] = (
            lambda: tensor.shape.__setitem__(draw.randrange(2), draw.choice((-1, 0, 5, 2**31, 2**62, -(2**63)))),
            lambda: tensor.shape.append(draw.choice((0, 1, 2**40))),
            lambda: setattr(tensor, "datatype", draw.choice(("FP16", "INT64", "BYTES", "", "nonsense"))),
            lambda: setattr(tensor, "name", draw.choice(("", "y", "x\x00", "../x"))),
            lambda: tensor.contents.fp32_contents.extend([1.0] * draw.randrange(8)),
            lambda: request.inputs.add(name="x", datatype="FP32"),
            lambda: request.outputs.add(name=draw.choice(("y", "z", ""))),
            lambda: request.raw_input_contents.append(content[: draw.randrange(17)]),
            lambda: setattr(request, "id", draw.choice(("", "i" * 500, "a\nb"))),
            lambda: setattr(request, "model_version", draw.choice(("1", "2", "-1", "../1"))),
            lambda: setattr(request.parameters[draw.choice(NAMES)], "int64_param", draw.choice((0, -1, 2**62))),
            lambda: setattr(request.parameters[draw.choice(NAMES)], "string_param", draw.choice(("", "u", "u" * 500))),
            lambda: setattr(request.parameters[draw.choice(NAMES)], "bool_param", True),
            lambda: setattr(request.parameters[draw.choice(NAMES)], "double_param", float("nan")),
            lambda: setattr(tensor.parameters[draw.choice(NAMES)], "string_param", "nowhere"),
        )
        if draw.random() < 0.9:
            request.raw_input_contents.append(content)
        for _ in range(draw.choice((0, 1, 1, 2, 4))):
            draw.choice(changes)()
        data = request.SerializeToString()
        if draw.random() < 0.3:
            data = self._bytes(data)
        return lambda model: self._call(b"\x0a" + bytes([len(model)]) + model.encode() + data)

    def _text(self, body: dict[str, Any]) -> bytes:
        left, right = self._random.choice((("[", "]"), ('{"a":', "}")))
        deep = json.dumps(body).replace(f'"{_DEEP}"', left * self._depth + "1" + right * self._depth)
        return deep.encode().replace(_BYTES.encode(), b"\xff\xfe")

    def _change(self, body: dict[str, Any]) -> None:
        """Put something odd somewhere into a JSON tree, take something out, or double it."""
        draw, places = self._random, list(_places(body))
        holder, key = draw.choice(places)
        turn = draw.random()
        if turn < 0.2:
            del holder[key]
        elif turn < 0.3 and isinstance(holder, list):
            holder.append(copy.deepcopy(holder[key]))
        elif turn < 0.5 and isinstance(holder, dict):
            holder[draw.choice(NAMES)] = draw.choice(ODD)
        elif turn < 0.55:
            holder[key] = _DEEP
        elif turn < 0.65:  # no UTF-8 where the router itself reads texts
            named = {"id": _BYTES}, {"parameters": {"unit_id": _BYTES}}, {"parameters": {draw.choice(NAMES): _BYTES}}
            body.update(draw.choice(named))
        else:
            holder[key] = copy.deepcopy(draw.choice(ODD))

    def _bytes(self, data: bytes) -> bytes:
        """Flip, cut or insert bytes, or leave them."""
        draw, found = self._random, bytearray(data)
        turn = draw.random()
        if turn < 0.15:
            for _ in range(draw.choice((1, 1, 3))):
                if found:
                    found[draw.randrange(len(found))] ^= 1 << draw.randrange(8)
        elif turn < 0.25:
            del found[draw.randrange(len(found) + 1) :]
        elif turn < 0.3:
            found[draw.randrange(len(found) + 1) : 0] = draw.randbytes(draw.randrange(1, 9))
        return bytes(found)

    def _post(self, model: str, data: bytes, headers: dict[str, str]) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=SECONDS)
        try:
            connection.request("POST", f"/v2/models/{model}/infer", data, headers)
            reply = connection.getresponse()
            body, length = reply.read(), reply.headers.get("Inference-Header-Content-Length")
            if reply.status != 200:
                return None
            head, rest = (body[: int(length)], body[int(length) :]) if length else (body, b"")
            return json.dumps({**json.loads(head), "model_name": ""}, sort_keys=True), rest
        except TimeoutError as error:
            raise AssertionError(f"no answer within {SECONDS:g} s to {data[:300]!r}") from error
        except (http.client.HTTPException, OSError):
            return None
        finally:
            connection.close()

    def _call(self, data: bytes) -> Any:
        import grpc
        from tritonclient.grpc import service_pb2

        with grpc.insecure_channel(self._grpc, options=[("grpc.enable_http_proxy", 0)]) as channel:
            call = channel.unary_unary(
                "/inference.GRPCInferenceService/ModelInfer", lambda data: data, lambda data: data
            )
            try:
                reply = service_pb2.ModelInferResponse.FromString(call(data, timeout=SECONDS))
            except grpc.RpcError as error:
                code = error.code()  # pyright: ignore[reportAttributeAccessIssue] - its classes have no types
                assert code != grpc.StatusCode.DEADLINE_EXCEEDED, f"no answer within {SECONDS:g} s to {data[:300]!r}"
                return None
        reply.model_name = ""
        return reply.SerializeToString(deterministic=True)


def _places(tree: Any):
    """Every (holder, key) of a JSON tree."""
    for key in list(tree) if isinstance(tree, dict) else range(len(tree)):
        yield tree, key
        if isinstance(tree[key], dict | list):
            yield from _places(tree[key])
