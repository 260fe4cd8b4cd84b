import shutil
import subprocess
import threading
import time

import numpy as np
import pytest
from tritonclient.utils import InferenceServerException

from dl_pipelines.brief.live import PredictionLog
from dl_pipelines.serving.process import Installation
from dl_pipelines.serving.server import running
from dl_pipelines.wire import records
from tests.serving.routers import SETTINGS, Client, Routed, asked, post, texts_of, until

LOGGED = SETTINGS.model_copy(update={"log": PredictionLog(columns=("country", "visits"))})
SECRET = "anna.schmidt@example.org"


@pytest.fixture(scope="module")
def routed(line):
    """A router with a champion (factor 2) and another model (factor 3)."""
    with running(line.home) as server:
        routed = Routed(server, "routed", LOGGED)
        routed.add("two", 2)
        routed.add("three", 3)
        routed.route("two")
        routed.load()
        yield routed


@pytest.fixture
def client(routed):
    client = Client(routed)
    yield client
    client.close()


def test_an_unmodified_client_and_curl_get_the_same_answer(routed, client):
    routed.route("two")
    assert client([1, 2, 3, 4], "grpc/1", unit_id="u").tolist() == [[10, 20]]
    status, body = post(routed, asked([1, 2, 3, 4], id="http/1", parameters={"unit_id": "u"}))
    assert (status, body["id"], body["outputs"][0]["data"]) == (200, "http/1", [10, 20])
    curl = shutil.which("curl")
    if curl:
        state = routed.server.state()
        url = f"http://127.0.0.1:{state.http}/v2/models/routed/infer"
        given = '{"id":"curl/1","parameters":{"unit_id":"u"},"inputs":[{"name":"x","shape":[2,4],"datatype":"FP32",'
        given += '"data":[1,2,3,4,5,6,7,8]}]}'
        out = subprocess.run(
            [curl, "-sS", "--noproxy", "*", "--data", given, url], capture_output=True, text=True, check=True
        )
        assert '"data":[10.0,20.0,26.0,52.0]' in out.stdout
    found = {record["id"]: record for record in routed.records(records.ANSWERED)}
    assert {"grpc/1", "http/1", *(["curl/1#0", "curl/1#1"] if curl else [])} <= set(found)
    first = found["grpc/1"]
    assert records.unpacked(first).tolist() == [10, 20]
    assert (first["arm"], first["by"], first["model"], first["rev"]) == ("champion", "champion", "two", 0)
    assert first["sum"] == {"mean": 2.5, "std": pytest.approx(1.118034), "min": 1.0, "max": 4.0}
    assert first["unit"] == records.hashed_unit("routed", "u") == found["http/1"]["unit"]


SCRIPT = """
import sys
import numpy as np
import tritonclient.grpc, tritonclient.http

for triton, address in ((tritonclient.http, sys.argv[1]), (tritonclient.grpc, sys.argv[2])):
    client = triton.InferenceServerClient(address)
    tensor = triton.InferInput("x", [1, 4], "FP32")
    tensor.set_data_from_numpy(np.array([[1, 2, 3, 4]], np.float32))
    found = client.infer("routed", [tensor], request_id=f"script/{triton.__name__}", parameters={"unit_id": "u"})
    print(found.as_numpy("y").tolist())
    client.close()
"""


def test_a_script_of_tritons_own_clients_knows_nothing_of_arms(routed):
    state = routed.server.state()
    table = routed.route("two", "three", 0.5, revision=6)
    python = Installation.find().venv / "bin" / "python"  # there both clients of tritonclient are installed
    addresses = [f"127.0.0.1:{state.http}", f"127.0.0.1:{state.grpc}"]
    out = subprocess.run([python, "-c", SCRIPT, *addresses], capture_output=True, text=True, check=False)
    factor = 3 if table.arm("u").name == "challenger" else 2
    assert out.stdout.split("\n") == [f"[[10.0, {10.0 * factor}]]"] * 2 + [""], out.stderr
    ids = {record["id"] for record in routed.records("r") if record["rev"] == 6}
    assert ids == {"script/tritonclient.http", "script/tritonclient.grpc"}


def test_units_keep_their_arm_and_are_assigned_before_it_is_asked(routed, client):
    table = routed.route("two", "three", 0.3, revision=7, salt="s")
    units = [f"person {number}" for number in range(150)]
    for turn in range(2):
        for unit in units:
            factor = 3 if table.arm(unit).name == "challenger" else 2
            assert client([1, 0, 0, 0], f"sticky/{turn}/{unit}", unit_id=unit).tolist() == [[1, factor]]
    logged = [record for record in routed.records() if record.get("rev") == 7]
    order = {(record["k"], record["id"]): place for place, record in enumerate(logged)}
    arms = {}
    for record in logged:
        arms.setdefault(record["unit"], set()).add((record["arm"], record["model"]))
    assert all(order["a", name] < order["r", name] for kind, name in order if kind == "r")
    assert len(arms) == 150 and all(len(found) == 1 for found in arms.values())
    shown = sum(found == {("challenger", "three")} for found in arms.values())
    assert shown == sum(table.arm(unit).name == "challenger" for unit in units)


def test_without_a_unit_the_request_id_decides_and_without_that_chance(routed, client):
    table = routed.route("two", "three", 0.5, revision=8)
    for number in range(20):
        factor = 3 if table.arm(f"id/{number}").name == "challenger" else 2
        assert client([1, 0, 0, 0], f"id/{number}").tolist() == [[1, factor]]
    assert {client([1, 0, 0, 0])[0, 1] for _ in range(40)} == {2, 3}
    fresh = [record["id"] for record in routed.records("r") if record["id"].startswith("unnamed/")]
    assert len(set(fresh)) == 40


def test_a_new_table_takes_over_within_a_second_and_fails_nobody(routed):
    routed.route("two")
    stop, failures, seen = threading.Event(), [], []

    def work(number: int) -> None:
        client = Client(routed)
        while not stop.is_set():
            try:
                seen.append((time.monotonic(), client([1, 0, 0, 0])[0, 1]))
            except InferenceServerException as error:
                failures.append(error)
        client.close()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    moves = []
    for turn in range(6):
        time.sleep(0.15)
        routed.route(("three", "two")[turn % 2], revision=20 + turn)
        moves.append(time.monotonic())
    time.sleep(0.3)
    stop.set()
    for thread in threads:
        thread.join()
    assert not failures
    assert len(seen) > 100
    for turn, (at, end) in enumerate(zip(moves, [*moves[1:], time.monotonic()], strict=True)):
        old = [when - at for when, factor in seen if at < when < end and factor != (3, 2)[turn % 2]]
        assert max(old, default=0) < 1
        assert any(factor == (3, 2)[turn % 2] for when, factor in seen if at < when < end)


def test_a_router_that_is_loaded_anew_under_load_fails_nobody_and_counts_on(routed):
    table = routed.route("two", "three", 0.5, revision=30)
    before, server = _answered(routed), routed.server.state()
    stop, failures, answered = threading.Event(), [], []

    def work() -> None:
        client = Client(routed)
        while not stop.is_set():
            try:
                answered.append(client([1, 0, 0, 0])[0, 1])
            except InferenceServerException as error:
                failures.append(error)
        client.close()

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    config = routed.home.repository / "routed" / "config.pbtxt"
    for turn in range(2):
        config.write_text(f"{config.read_text()}# {turn}\n")
        routed.load()
        time.sleep(0.7)  # the old one takes leave of its metrics
    stop.set()
    for thread in threads:
        thread.join()
    assert not failures and set(answered) == {2, 3}
    assert routed.server.state() == server, "Triton frees a metric that another instance counts in"
    until(lambda: _answered(routed) - before >= len(answered))  # what was counted last before may come in late
    assert len([record for record in routed.records("r") if record["rev"] == table.revision]) == len(answered)


def _answered(routed: Routed) -> float:
    return sum(value for name, value in routed.metrics().items() if 'outcome="answered"' in name)


def test_a_batch_of_several_clients_is_answered_each_its_own(routed):
    routed.route("two", "three", 0.5, revision=9)
    wrong = []

    def work(number: int) -> None:
        client = Client(routed)
        for turn in range(30):
            rows = np.full((1 + turn % 3, 4), 100 * number + turn, np.float32)
            y = client(rows, f"many/{number}/{turn}")
            if y.shape != (len(rows), 2) or set(y[:, 0].tolist()) != {4.0 * (100 * number + turn)}:
                wrong.append((number, turn, y))
        client.close()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    rows = [record["id"] for record in routed.records("r") if record["id"].startswith("many/")]
    assert len(rows) == len(set(rows)) == 8 * 60


def test_one_bad_request_of_a_batch_fails_alone_and_is_logged(routed, client):
    routed.route("two")
    results = {}

    def work(number: int) -> None:
        mine = Client(routed)
        for turn in range(10):
            try:
                results[number, turn] = mine([-13 if number == 0 else number, 0, 0, 0], f"bad/{number}/{turn}")[0, 0]
            except InferenceServerException as error:
                results[number, turn] = str(error)
        mine.close()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    told = "two could not answer: "
    for (number, _), result in results.items():
        if number:
            assert result == number
        else:
            assert told in result and "this model is broken" in result
    failed = [record for record in routed.records(records.FAILED) if record["id"].startswith("bad/")]
    assert {record["id"] for record in failed} == {f"bad/0/{turn}" for turn in range(10)}
    assert all(record["fail"].startswith(told) for record in failed)


def test_no_table_is_said_and_a_new_one_helps(routed, client):
    routed.server.routing("routed").unlink()
    with pytest.raises(Exception, match=r"found no routing table at routed\.json .*promote a model") as caught:
        client([1, 2, 3, 4])
    assert "UNAVAILABLE" in str(caught.value.status())
    assert post(routed, asked([1, 2, 3, 4]))[0] == 503
    routed.route("two")
    assert client([1, 2, 3, 4]).tolist() == [[10, 20]]


def test_personal_data_stays_out_unless_the_brief_lists_it(routed, client):
    routed.route("two")
    given = {"unit_id": SECRET, "country": "DE", "visits": 3, "email": SECRET, "note": "x" * 300}
    client([1, 2, 3, 4], "private/1", **given)
    client([1, 2, 3, 4], "private/2", unit_id=SECRET, country="y" * 300)
    found = {record["id"]: record for record in routed.records("r")}
    assert found["private/1"]["col"] == {"country": "DE", "visits": 3}
    assert found["private/2"]["col"] == {"country": "y" * 200}
    for folder in (routed.home.predictions, routed.home.server):
        assert SECRET.encode() not in texts_of(folder)


def test_the_raw_unit_and_a_sample_where_the_brief_says_so(line):
    with running(line.home) as server:
        log = PredictionLog(columns=("unit_id",), sample=0.4)
        routed = Routed(server, "sampled", SETTINGS.model_copy(update={"log": log}))
        routed.route("two")
        routed.load()
        client = Client(routed)
        for number in range(60):
            for turn in range(2):
                client([1, 2, 3, 4], f"{number}/{turn}", unit_id=f"unit {number}")
        client.close()
        found = {record["id"]: record for record in routed.records("r")}
        server.control.unload("sampled")
    assert len(found) == 120
    kept = {name for name, record in found.items() if record["out"] is not None}
    assert 10 < len(kept) / 2 < 40
    for number in range(60):
        assert (f"{number}/0" in kept) == (f"{number}/1" in kept), "a unit is in the sample or not"
    for name, record in found.items():
        number = name.split("/")[0]
        assert record["col"] == ({"unit_id": f"unit {number}"} if name in kept else {})
        assert bool(record["sum"]) == (name in kept)


def test_what_the_router_does_is_in_tritons_metrics(routed, client):
    routed.route("two")
    before = routed.metrics()

    def grown(name: str) -> float:
        return routed.metrics().get(name, 0) - before.get(name, 0)

    for _ in range(5):
        client([1, 2, 3, 4])
    with pytest.raises(Exception, match="found nan"):
        client([np.nan, 2, 3, 4])
    until(lambda: grown('dlp_requests_total{arm="champion",outcome="answered",project="routed"}') == 5)
    until(lambda: grown('dlp_requests_total{arm="",outcome="refused",project="routed"}') == 1)
    until(lambda: grown('dlp_latency_ms_bucket{arm="champion",le="+Inf",project="routed"}') == 5)
    values = [
        value for name, value in sorted(routed.metrics().items()) if "bucket" in name and 'arm="champion"' in name
    ]
    assert len(values) == 14
