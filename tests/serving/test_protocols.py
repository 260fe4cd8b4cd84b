"""Through the real server, against the graph's own sums."""

import os
import socket
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from tritonclient.utils import InferenceServerException

from benchmarks.tiny import FIRST, reference
from dl_pipelines.serving import admin, process, repository
from dl_pipelines.serving.client import open_client
from dl_pipelines.serving.probe import probed, router_pbtxt
from dl_pipelines.serving.protocols import HttpCaller, SharedMemoryCaller, connecting, remove_left
from dl_pipelines.serving.settings import PROTOCOLS
from dl_pipelines.store.home import Home


@pytest.fixture(scope="module")
def live(line, task, serving, tmp_path_factory):
    """A tiny model behind a router of its own."""
    folder, signature = tmp_path_factory.mktemp("made") / "model", task.signature()
    repository.write_model(folder, line.get("compressed_model", FIRST), signature, serving)
    with probed(line, folder, router_pbtxt(line.project, signature, serving)) as found:
        yield found


@pytest.fixture(params=PROTOCOLS)
def call(request, live, task):
    made = connecting(request.param, live.server, live.router, task.signature())()
    yield made
    made.close()


def regions(server):
    return {path.name for path in process.SHARED_MEMORY.glob(f"{process.region_prefix(server.home)}client_*")}


def test_every_protocol_answers_as_the_model(call, inputs):
    for rows in (inputs[:1], inputs[:8], inputs[8:9], inputs[1:4], inputs[::-1][:8]):
        found = call(rows, "some-id")
        assert (found.dtype, found.shape) == (np.float32, (len(rows), 2))
        np.testing.assert_allclose(found, reference(rows, 0), atol=1e-4)


def test_answers_stay_what_they_were(call, inputs):
    first = call(inputs[:1])
    kept = first.copy()
    call(inputs[1:2])
    np.testing.assert_array_equal(first, kept)


def test_a_refusal_is_the_same_error_by_each(call, inputs):
    with pytest.raises(InferenceServerException, match="image"):
        call(inputs.astype(np.float64)[:1])
    with pytest.raises(InferenceServerException):
        call(inputs[:1, :4])
    np.testing.assert_allclose(call(inputs[:2]), reference(inputs[:2], 0), atol=1e-4)


def test_a_region_is_this_homes_and_goes_with_its_caller(live, task, inputs):
    call = connecting("shared_memory", live.server, live.router, task.signature())()
    assert regions(live.server) == set(), "room is made by the first request"
    call(inputs[:1])
    (name,) = regions(live.server)
    assert f"client_{os.getpid()}_" in name
    call(inputs[:8])
    assert len(regions(live.server)) == 1, "a larger region takes the place of the first"
    client = open_client(live.server.grpc)
    with pytest.raises(InferenceServerException, match="restricted"):
        client.unregister_system_shared_memory()
    key = admin.read_key(live.server.home)
    client.unregister_system_shared_memory(headers=admin.grpc_headers(key))  # as a server that was started anew
    client.close()
    with pytest.raises(InferenceServerException, match="shared memory"):
        call(inputs[:8])
    np.testing.assert_allclose(call(inputs[:8]), reference(inputs[:8], 0), atol=1e-4)
    call.close()
    assert regions(live.server) == set()


def test_regions_of_killed_clients_are_removed(tmp_path):
    home = Home(tmp_path).prepare()
    gone = subprocess.Popen(["sleep", "100"])
    born = (process.birth(gone.pid) or "").rpartition(":")[2]
    mine = (process.birth(os.getpid()) or "").rpartition(":")[2]
    prefix = process.region_prefix(home)
    left = process.SHARED_MEMORY / f"{prefix}client_{gone.pid}_{born}_0"
    kept = [
        process.SHARED_MEMORY / f"{prefix}client_{os.getpid()}_{mine}_0",
        process.SHARED_MEMORY / f"{prefix}of_the_server",
    ]
    try:
        for path in (left, *kept):
            path.write_bytes(b"x")
        assert remove_left(home) == 0, "it lives"
        gone.kill()
        gone.wait()
        assert remove_left(home) == 1
        assert not left.exists()
        assert all(path.exists() for path in kept)
    finally:
        for path in (left, *kept):
            path.unlink(missing_ok=True)


def test_nobody_waits_for_ever(task, inputs):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        for make in (
            lambda: HttpCaller(port, "m", task.signature(), timeout_ms=100),
            lambda: SharedMemoryCaller(f"127.0.0.1:{port}", port, "m", task.signature(), Home(Path("/none")), 100),
        ):
            call, started = make(), time.monotonic()
            with pytest.raises(InferenceServerException):
                call(inputs[:1])
            assert time.monotonic() - started < 30
            call.close()
    with pytest.raises(InferenceServerException, match="refused"):
        HttpCaller(port, "m", task.signature())(inputs[:1])
