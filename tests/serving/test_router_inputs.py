import contextlib
import json
import resource
import threading
import time

import numpy as np
import pytest

from benchmarks.mutated_requests import Mutated
from dl_pipelines.serving.server import running
from tests.serving.routers import SETTINGS, Client, Routed, asked, post, until

ONE = [1, 2, 3, 4]


@pytest.fixture(scope="module")
def routed(line):
    """A router with a champion of factor 2."""
    with running(line.home) as server:
        routed = Routed(server, "checked")
        routed.add("plain", 2)
        routed.route("plain")
        routed.load()
        yield routed


@pytest.fixture
def client(routed):
    client = Client(routed)
    yield client
    client.close()


def infer(routed, code_of_error, shape, datatype, content, name="x", request_id="", inputs=1, **parameters):
    """One gRPC request as bytes; the status code and text it got."""
    import grpc
    from tritonclient.grpc import service_pb2, service_pb2_grpc

    request = service_pb2.ModelInferRequest(model_name="checked", id=request_id)
    for _ in range(inputs):
        tensor = request.inputs.add(name=name, datatype=datatype)
        tensor.shape.extend(shape)
        request.raw_input_contents.append(content)
    for key, value in parameters.items():
        kind = {bool: "bool_param", int: "int64_param", str: "string_param", float: "double_param"}[type(value)]
        setattr(request.parameters[key], kind, value)
    channel = grpc.insecure_channel(routed.server.grpc, options=[("grpc.enable_http_proxy", 0)])
    with channel, pytest.raises(grpc.RpcError) as caught:
        service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request, timeout=10)
    assert caught.value.code().name == code_of_error
    return caught.value.details()


FLOATS = np.array([ONE], np.float32).tobytes()


def test_what_is_wrong_with_a_request_is_said_over_grpc(routed):
    def told(*given, **more):
        return infer(routed, "INVALID_ARGUMENT", *given, **more)

    assert "unexpected inference input 'z' for model 'checked'" in told([1, 4], "FP32", FLOATS, name="z")
    assert "expected 1 inputs but got 0 inputs for model 'checked'" in told([1, 4], "FP32", FLOATS, inputs=0)
    assert "data-type is 'FP64', but model 'checked' expects 'FP32'" in told([1, 4], "FP64", FLOATS * 2)
    assert "unexpected shape for input 'x' for model 'checked'. Expected [-1,4], got [1,3]" in told(
        [1, 3], "FP32", FLOATS[:12]
    )
    assert "batch-size must be <= 8 for 'checked'" in told([9, 4], "FP32", FLOATS * 9)
    for rows in (0, 2**62, -(2**63)):
        said = "found the shape [4] of the input x; expected [rows, 4]"
        assert told([rows, 4], "FP32", FLOATS) == said
    said = "found nan at [1, 2] of the input x; expected finite values"
    bad = np.array([ONE, [1, 2, np.nan, 4]], np.float32).tobytes()
    assert told([2, 4], "FP32", bad) == said
    assert "found inf at [0, 0]" in told([1, 4], "FP32", np.array([np.inf, 1, 2, 3], np.float32).tobytes())
    long = "found a request id of 81 characters for 1 rows; expected at most 80"
    assert told([1, 4], "FP32", FLOATS, request_id="i" * 81) == long
    long = "found a request id of 80 characters for 8 rows; expected at most 78"
    assert told([8, 4], "FP32", FLOATS * 8, request_id="i" * 80) == long
    assert "found a request id with a control character" in told([1, 4], "FP32", FLOATS, request_id="a\nb")
    said = "found the parameter unit_id of type int; expected a string"
    assert told([1, 4], "FP32", FLOATS, unit_id=5) == said
    assert told([1, 4], "FP32", FLOATS, unit_id="") == "found a unit_id of 0 characters; expected 1 to 200"
    assert told([1, 4], "FP32", FLOATS, unit_id="u" * 201) == "found a unit_id of 201 characters; expected 1 to 200"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"name": "z"}, "unexpected inference input 'z' for model 'checked'"),
        ({"datatype": "FP64"}, "data-type is 'FP64', but model 'checked' expects 'FP32'"),
        ({"shape": [1, 3], "data": [1, 2, 3]}, "Expected [-1,4], got [1,3]"),
        ({"shape": [9, 4], "data": [1] * 36}, "batch-size must be <= 8"),
        ({"data": [1, 2, 3]}, "Shape does not match true shape of 'data' field"),
        ({"shape": [-1, 4]}, "Unable to parse 'shape'"),
        ({"data": [1, 2, float("nan"), 4]}, "found nan at [0, 2] of the input x; expected finite values"),
        ({"data": [1e39, 2, 3, 4]}, "found inf at [0, 0] of the input x"),
    ],
)
def test_what_is_wrong_with_an_input_is_said_over_http(routed, change, said):
    body = asked(ONE)
    body["inputs"][0].update(change)
    status, told = post(routed, body)
    assert status in (400, 500) and said in told["error"]


def test_what_is_wrong_with_the_rest_is_said_over_http(routed):
    def told(**fields):
        status, body = post(routed, asked(ONE, **fields))
        assert status == 400
        return body["error"]

    assert told(id="i" * 81) == "found a request id of 81 characters for 1 rows; expected at most 80"
    assert told(parameters={"unit_id": True}) == "found the parameter unit_id of type bool; expected a string"
    assert told(parameters={"unit_id": "u" * 201}) == "found a unit_id of 201 characters; expected 1 to 200"
    assert "'unit_id' has invalid type" in told(parameters={"unit_id": ["u"]})


def test_requests_of_0_rows_fail_nobody_in_their_batch(routed):
    """Triton's Python backend counts each by its next dimension: 3 of them, as 12 rows, were too many for any batch."""
    answered: list[list] = []
    refused: list[str] = []

    def good() -> None:
        mine = Client(routed)
        answered.append(mine(ONE).tolist())
        mine.close()

    def bad(content: bytes) -> None:
        refused.append(infer(routed, "INVALID_ARGUMENT", [0, 4], "FP32", content))

    routed.mode("plain", "slow")  # who asks meanwhile shares the next batch
    threads = [threading.Thread(target=good)]
    threads[0].start()
    time.sleep(0.15)
    routed.mode("plain", "ok")
    threads += [threading.Thread(target=good) for _ in range(4)]
    threads += [threading.Thread(target=bad, args=(FLOATS,)) for _ in range(3)]
    for thread in threads[1:]:
        thread.start()
    for thread in threads:
        thread.join()
    assert answered == [[[10, 20]]] * 5
    assert refused == ["found the shape [4] of the input x; expected [rows, 4]"] * 3


def test_times_may_have_gaps_where_the_signature_says_so():
    from dl_pipelines.serving import config
    from dl_pipelines.tasks.base import Signature, Tensor

    tensors = (Tensor("x", "float32", (4,)),)
    found = {
        kind: config.router_parameters("p", Signature(tensors, tensors, summary=kind), SETTINGS)["finite"]
        for kind in ("series", "image", "tensor")
    }
    assert found == {"series": "no", "image": "yes", "tensor": "yes"}


def test_a_router_with_the_config_of_an_older_version_works(routed):
    from google.protobuf import text_format
    from tritonclient.grpc.model_config_pb2 import ModelConfig

    older = Routed(routed.server, "older")
    path = older.home.repository / "older" / "config.pbtxt"
    parsed = text_format.Parse(path.read_text(), ModelConfig())
    parsed.input[0].ClearField("reshape")
    for name in ("finite", "sample", "columns", "segment_bytes"):
        del parsed.parameters[name]
    path.write_text(text_format.MessageToString(parsed))
    older.route("plain")
    older.load()
    client = Client(older)
    assert client(ONE, "older/1", country="DE").tolist() == [[10, 20]]
    with pytest.raises(Exception, match="found nan at"):
        client([np.nan, 1, 2, 3])
    client.close()
    (record,) = older.records("r")
    assert record["col"] == {} and record["out"]
    routed.server.control.unload("older")


def test_a_log_that_is_full_is_each_clients_error_and_no_longer_than_that(routed, client):
    assert client(ONE, "full/before").tolist() == [[10, 20]]
    stub = routed.stub()
    size = sum(path.stat().st_size for path in routed.log.glob("*.log"))
    _, hard = resource.prlimit(stub, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
    try:
        for number in range(3):
            started = time.monotonic()
            with pytest.raises(Exception, match=r"found that the log in .* can't be written .*expected room") as caught:
                client(ONE, f"full/{number}")
            assert "UNAVAILABLE" in str(caught.value.status())
            assert time.monotonic() - started < 5
        assert post(routed, asked(ONE))[0] == 503
    finally:
        resource.prlimit(stub, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, hard))
    assert client(ONE, "full/after").tolist() == [[10, 20]]
    logged = {record["id"] for record in routed.records("r")}
    assert {"full/before", "full/after"} <= logged and not {f"full/{number}" for number in range(3)} & logged
    until(lambda: routed.metrics().get('dlp_log_errors_total{project="checked"}', 0) >= 4)


@contextlib.contextmanager
def good_clients(routed, count=3):
    """Clients of the same router, whose answers are counted; yields what they got that was not right."""
    over, wrong, answered = threading.Event(), [], []

    def work(number: int) -> None:
        mine = Client(routed)
        while not over.is_set():
            try:
                if (found := mine(ONE, f"beside/{number}/{time.time_ns()}").tolist()) != [[10, 20]]:
                    wrong.append(found)
            except Exception as error:  # noqa: BLE001 - whatever it is, it is wrong
                wrong.append(str(error))
            answered.append(number)
        mine.close()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    try:
        until(lambda: set(answered) == set(range(count)))
        yield wrong
    finally:
        over.set()
        for thread in threads:
            thread.join()


@pytest.fixture(scope="module")
def batched(routed):
    """A router that gathers batches: who asks at the same time shares one."""
    batched = Routed(routed.server, "gathered", SETTINGS.model_copy(update={"queue_delay_ms": 20}))
    batched.route("plain")
    batched.load()
    yield batched
    routed.server.control.unload("gathered")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"id": "h(bytes)"}, "found the byte 0xff in the request's id or parameters; expected UTF-8"),
        ({"id": "h", "parameters": {"unit_id": "(bytes)"}}, "found the byte 0xff in the request's id or parameters"),
        ({"id": "h", "parameters": {"country": "(bytes)"}}, "found the byte 0xff in the request's id or parameters"),
        ({"id": "h", "parameters": {"(bytes)": "DE"}}, "found the byte 0xff in the request's id or parameters"),
        ({"id": "i" * 81}, "found a request id of 81 characters"),
    ],
)
def test_a_request_that_can_not_be_read_is_refused_alone(batched, fields, said):
    refused = 'dlp_requests_total{arm="",outcome="refused",project="gathered"}'
    before = batched.metrics().get(refused, 0)
    with good_clients(batched) as wrong:
        for _ in range(3):
            status, body = post(batched, json.dumps(asked(ONE, **fields)).encode().replace(b"(bytes)", b"\xff\xfe"))
            assert status == 400 and said in body["error"] and "model.py" not in body["error"]
    assert not wrong
    until(lambda: batched.metrics().get(refused, 0) - before == 3)


def test_mutated_requests_are_refused_or_answered_rightly_and_others_go_on(batched):
    mutated = Mutated(batched.server.state().http, batched.server.grpc, "gathered", seed=1)
    outcomes = {"answered": 0, "refused": 0}
    with good_clients(batched) as wrong:
        for _ in range(150):
            outcomes[mutated.send()] += 1
    assert not wrong
    assert min(outcomes.values()) > 10
    assert batched.server.control.ready()
