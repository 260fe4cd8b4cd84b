import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dl_pipelines.serving import process
from dl_pipelines.serving.process import TritonError, birth, region_prefix
from dl_pipelines.serving.server import TritonServer, running
from dl_pipelines.serving.state import state_file
from dl_pipelines.store.home import Home


def gone(pid: int, seconds: float = 10) -> bool:
    deadline = time.monotonic() + seconds
    while birth(pid) is not None and time.monotonic() < deadline:
        time.sleep(0.02)
    return birth(pid) is None


def listening() -> set[tuple[str, int]]:
    """Addresses and ports that sockets of this machine listen on, from the kernel."""
    found = set()
    for name in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A":
                address, port = fields[1].split(":")
                found.add((address, int(port, 16)))
    return found


def test_one_server_a_home_found_again_and_stopped_by_its_starter(tmp_path):
    home = Home(tmp_path).prepare()
    with running(home) as server:
        state = server.state()
        assert state and state.ready and not state.kept
        assert TritonServer(home).start() == state
        with running(home) as inner:
            assert inner.state() == state
        assert server.state() == state, "an inner block stops nothing"
        assert server.control.ready()
        loopback = {"0100007F", "0000000000000000FFFF00000100007F"}
        ports = {state.http, state.grpc, state.metrics}
        assert {port for _, port in listening() if port in ports} == ports
        assert {address for address, port in listening() if port in ports} <= loopback
    assert gone(state.pid, 0.1)
    assert server.state() is None
    assert not state_file(server.home).exists()


def test_a_killed_server_is_noticed_and_started_again(tmp_path):
    home = Home(tmp_path).prepare()
    with running(home) as server:
        first = server.state()
        assert first
        left = Path("/dev/shm") / f"{region_prefix(home)}left"
        left.write_bytes(b"x")
        os.kill(first.pid, signal.SIGKILL)
        assert gone(first.pid)
        second = server.start()
        assert second.pid != first.pid
        assert (second.http, second.grpc, second.metrics) == (first.http, first.grpc, first.metrics)
        assert (first.restarts, second.restarts) == (0, 1)
        assert second.last_exit.startswith("it ended by SIGKILL at 20")
        assert not left.exists(), "what the killed one left in shared memory is removed"
    assert gone(second.pid, 0.1)


def test_a_state_file_of_another_process_or_of_nonsense_is_not_believed(tmp_path):
    server = TritonServer(Home(tmp_path).prepare())
    server.home.server.mkdir()
    with pytest.raises(TritonError, match=r"found no living server of .*; expected one; run `dlp serve PROJECT`"):
        _ = server.grpc
    for text in ("", "{}", "[1]", f'{{"pid": {os.getpid()}, "born": "x:1", "http": 1}}'):
        state_file(server.home).write_text(text)
        assert server.state() is None
    state = {"pid": os.getpid(), "born": "x:1", "http": 1, "grpc": 2, "metrics": 3, "ready": True, "kept": False}
    state_file(server.home).write_text(json.dumps({**state, "started_at": "now"}))
    assert server.state() is None, "the process lives but is not the one that was started"
    assert server.stop() is False


def test_a_server_ends_with_its_killed_starter(tmp_path):
    program = (
        "import sys, time; from pathlib import Path\n"
        "from dl_pipelines.serving.server import running; from dl_pipelines.store.home import Home\n"
        "with running(Home(Path(sys.argv[1])).prepare()) as server:\n"
        "    print(server.state().pid, flush=True); time.sleep(60)"
    )
    starter = subprocess.Popen([sys.executable, "-c", program, tmp_path], stdout=subprocess.PIPE, text=True)
    assert starter.stdout
    pid = int(starter.stdout.readline())
    starter.kill()
    starter.wait()
    starter.stdout.close()
    assert gone(pid)


def test_the_last_of_two_commands_ends_the_server(tmp_path):
    program = (
        "import sys; from pathlib import Path\n"
        "from dl_pipelines.serving.server import running; from dl_pipelines.store.home import Home\n"
        "with running(Home(Path(sys.argv[1])).prepare()) as server:\n"
        "    print(server.state().pid, flush=True); input()"
    )
    first = subprocess.Popen(
        [sys.executable, "-c", program, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert first.stdout
    pid = int(first.stdout.readline())
    with running(Home(tmp_path)) as server:
        first.communicate("\n")
        assert first.returncode == 0
        time.sleep(1)
        state = server.state()
        assert state and state.pid == pid, "the first command left it to the second"
        assert server.control.ready()
    assert gone(pid, 0.1)


def test_a_kept_server_outlives_its_starter_until_it_is_stopped(tmp_path):
    home = Home(tmp_path).prepare()
    program = (
        "import sys; from pathlib import Path\n"
        "from dl_pipelines.serving.server import running; from dl_pipelines.store.home import Home\n"
        "with running(Home(Path(sys.argv[1])), keep=True): pass"
    )
    subprocess.run([sys.executable, "-c", program, tmp_path], check=True)
    server = TritonServer(home)
    state = server.state()
    try:
        assert state and state.kept
        with running(home) as found:
            assert found.state() == state
        assert server.state() == state, "a command leaves a kept server as it was"
        os.kill(state.pid, signal.SIGKILL)
        assert gone(state.pid)
        with running(home) as found:
            state = found.state()
        assert state and state.kept, "what was to be kept is kept again"
        assert server.state() == state
    finally:
        assert server.stop() is True
    assert gone(state.pid, 0.1)


def test_a_port_in_use_is_named(tmp_path):
    server = TritonServer(Home(tmp_path).prepare())
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(TritonError, match=f"found port {port} of 127.0.0.1 in use .*give another port"):
            TritonServer(server.home, grpc=port).start()
    assert server.state() is None


def test_a_fixed_port_is_taken(tmp_path):
    home, (port,) = Home(tmp_path).prepare(), process.free_ports(1)
    with running(home, http=port) as server:
        assert server.control.port == port
        with pytest.raises(TritonError, match=f"found the server of this home at http port {port}; expected 1"):
            TritonServer(home, http=1).start()


def test_a_missing_installation_says_make_setup(tmp_path, monkeypatch):
    monkeypatch.setenv("DLP_TRITON_VENV", str(tmp_path / "nowhere"))
    with pytest.raises(TritonError, match=r"found no .*nowhere.*tritonserver; expected .*run `make setup`"):
        TritonServer(Home(tmp_path).prepare()).start()


def test_a_server_that_can_not_start_gives_its_reason(tmp_path, monkeypatch):
    home = Home(tmp_path).prepare()
    monkeypatch.setattr(process.Installation, "binary", property(lambda _: Path("/bin/false")))
    with pytest.raises(TritonError, match=r"did not become ready \(it printed nothing\).*dlp doctor"):
        TritonServer(home).start()
    assert TritonServer(home).state() is None


def test_a_number_is_not_a_process_for_ever():
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    born = birth(child.pid)
    assert born and born != birth(os.getpid())
    process.end(child.pid, "another:1", 0.1)
    assert birth(child.pid) == born, "another process under that number is left alone"
    process.end(child.pid, born, 5)
    assert birth(child.pid) is None
    child.communicate()
