import contextlib
import json
import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from tritonclient.utils import InferenceServerException

from benchmarks.tiny import FIRST, reference
from dl_pipelines.serving.champion import champion
from dl_pipelines.serving.client import Caller, PredictError, predict
from dl_pipelines.serving.load_test import load_test
from dl_pipelines.serving.prediction_log import missing_ids, read_log
from dl_pipelines.serving.publish import make_triton_repository
from dl_pipelines.serving.server import TritonServer
from dl_pipelines.serving.traffic import ensure_champion
from dl_pipelines.store import durable
from dl_pipelines.wire.routing import only


@pytest.fixture(scope="module")
def served(line, task, data, serving, evaluation):
    """The session's workspace with its first model as champion."""
    artifact = make_triton_repository(line, FIRST, serving, data, task, evaluation)
    ensure_champion(line, FIRST, artifact)
    return line


def test_answers_are_the_models_whatever_the_batch(served, task, inputs):
    found = predict(served, task, inputs, [f"plain/{place}" for place in range(len(inputs))])
    np.testing.assert_allclose(found, reference(inputs, 0), atol=1e-4)
    assert found.dtype == np.float32
    call = Caller.of(TritonServer(served.home).grpc, "tiny", task.signature())
    np.testing.assert_allclose(call(inputs[:5], "several"), reference(inputs[:5], 0), atol=1e-4)
    call.close()
    logged = read_log(served).to_pylist()
    several = {row["request_id"]: row["outputs"] for row in logged if row["request_id"].startswith("several")}
    assert sorted(several) == [f"several#{place}" for place in range(5)]
    np.testing.assert_allclose(several["several#3"], reference(inputs[3:4], 0)[0], atol=1e-4)


def test_nothing_is_asked_for_no_rows(served, task):
    assert predict(served, task, np.zeros((0, 8, 8, 1), np.uint8), []).shape == (0, 2)


@pytest.mark.parametrize(
    ("given", "ids", "message"),
    [
        (np.zeros((2, 8, 8, 1), np.float32), ["a", "b"], r"found inputs of float32 \[2, 8, 8, 1\]; expected uint8"),
        (np.zeros((2, 9, 8, 1), np.uint8), ["a", "b"], r"found inputs of uint8 \[2, 9, 8, 1\]; expected uint8 \[N, 8"),
        (np.zeros((8, 8, 1), np.uint8), ["a"], r"found inputs of uint8 \[8, 8, 1\]"),
        (np.zeros((2, 8, 8, 1), np.uint8), ["a"], "found 1 request ids for 2 rows"),
        (np.zeros((1, 8, 8, 1), np.uint8), [""], "expected one for each"),
    ],
)
def test_wrong_input_is_refused_before_it_is_sent(served, task, given, ids, message):
    with pytest.raises(PredictError, match=message):
        predict(served, task, given, ids)


def test_a_killed_server_is_started_again_and_nothing_acknowledged_is_lost(served, task, inputs):
    server = TritonServer(served.home)
    before = server.start()
    many = np.concatenate([inputs] * 20)
    ids = [f"killed/{place}" for place in range(len(many))]

    def kill() -> None:
        time.sleep(0.15)
        os.kill(before.pid, signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    found = predict(served, task, many, ids)
    thread.join()
    np.testing.assert_allclose(found, reference(many, 0), atol=1e-4)
    after = predict(served, task, inputs[:2], ["after/0", "after/1"])
    np.testing.assert_allclose(after, reference(inputs[:2], 0), atol=1e-4)
    state = server.state()
    assert state and state.pid != before.pid
    assert _living(before.pid) == [], "what its backends ran in has ended too"
    log = read_log(served)
    assert missing_ids(served) == []
    assert set(ids) <= set(log["request_id"].to_pylist())
    assert len(set(log["request_id"].to_pylist())) == log.num_rows


def test_without_room_for_the_log_there_is_no_answer(served, task, inputs):
    """The router's process may not write another byte: its clients are told, and nothing is acknowledged."""
    import resource

    server = TritonServer(served.home)
    predict(served, task, inputs[:1], ["room/before"])
    (writer,) = _writers(served)
    limits = resource.prlimit(writer, resource.RLIMIT_FSIZE)
    resource.prlimit(writer, resource.RLIMIT_FSIZE, (1, limits[1]))
    try:
        with pytest.raises(PredictError, match=r"found 1 of 1 requests without an answer .*can't be written"):
            predict(served, task, inputs[:1], ["room/none"])
    finally:
        resource.prlimit(writer, resource.RLIMIT_FSIZE, limits)
    predict(served, task, inputs[:1], ["room/after"])
    logged = set(read_log(served)["request_id"].to_pylist())
    assert {"room/before", "room/after"} <= logged
    assert "room/none" not in logged
    assert server.state() is not None


def _living(group: int) -> list[int]:
    """Processes of a process group that have not ended (a dead one may wait for its parent to ask)."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            if int(fields[2]) == group and fields[0] not in "ZX":
                found.append(int(folder.name))
    return found


def _writers(workspace) -> list[int]:
    """Processes that hold the router's log open; one of a killed server ends within a second or so."""
    place, deadline = str(workspace.home.predictions / workspace.project), time.monotonic() + 10
    while True:
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if any(str(handle.readlink()).startswith(place) for handle in (folder / "fd").iterdir()):
                    found.append(int(folder.name))
        if len(found) == 1 or time.monotonic() > deadline:
            return found
        time.sleep(0.1)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("{", "found a routing table that can't be read"),
        (json.dumps(only("tiny", "tiny__nobody", 1).plain()), "tiny__nobody could not answer"),
        (None, "found no routing table"),
    ],
)
def test_a_router_without_a_usable_table_says_so(served, task, inputs, table, message):
    server = TritonServer(served.home)
    predict(served, task, inputs[:1], ["table/before"])
    path = server.routing("tiny")
    sound = path.read_text()
    call = Caller.of(server.grpc, "tiny", task.signature())
    try:
        path.unlink() if table is None else durable.write_text(path, table)
        with pytest.raises(InferenceServerException, match=message):
            call(inputs[:1], "table/none")
    finally:
        durable.write_text(path, sound)
    call(inputs[:1], "table/after")
    call.close()
    assert "table/none" not in read_log(served)["request_id"].to_pylist()


def test_a_load_on_a_model_that_is_not_there_counts_failures(served, task, inputs):
    address = TritonServer(served.home).grpc
    found = load_test(lambda: Caller.of(address, "nobody", task.signature()), inputs, clients=2, seconds=0.1)
    assert found.failed == found.requests > 0
    assert found.p50_ms is None
    assert found.failure and "nobody" in found.failure


def test_a_champion_is_named_by_its_bytes(served):
    now = champion(served)
    assert now and now.model.startswith("tiny__")
    assert now.since.endswith("+00:00")
