"""What `dlp serve` shows: as a table on a terminal until Ctrl-C, as one object, and only a sentence without either."""

from __future__ import annotations

import fcntl
import io
import json
import os
import pty
import re
import struct
import subprocess
import termios
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from dl_pipelines.cli.live import view
from dl_pipelines.serving.metrics import traffic
from dl_pipelines.serving.process import birth
from dl_pipelines.serving.server import TritonServer
from dl_pipelines.serving.state import ServerState, write_state
from dl_pipelines.store.home import Home
from dl_pipelines.wire.routing import Arm, RoutingTable
from tests.cli.conftest import DLP

TABLE = RoutingTable("p", "p__a", (Arm("champion", "p__a", 0.9), Arm("challenger", "p__b", 0.1)), 1)
STATE = ServerState(7, "x:1", 8000, 8001, 8002, True, True, "now")


def label(**labels):
    return frozenset({"project": "p", **labels}.items())


BEFORE = {("dlp_requests_total", label(arm="champion", outcome="answered")): 0.0}
AFTER = {
    ("dlp_requests_total", label(arm="champion", outcome="answered")): 450.0,
    ("dlp_requests_total", label(arm="challenger", outcome="answered")): 30.0,
    ("dlp_requests_total", label(arm="challenger", outcome="fell_back")): 20.0,
    ("dlp_requests_total", label(arm="", outcome="refused")): 5.0,
    ("dlp_latency_ms_bucket", label(arm="champion", le="2")): 225.0,
    ("dlp_latency_ms_bucket", label(arm="champion", le="10")): 450.0,
    ("dlp_latency_ms_bucket", label(arm="champion", le="+Inf")): 450.0,
    ("dlp_shadow_requests_total", label(outcome="answered")): 100.0,
    ("dlp_shadow_requests_total", label(outcome="left_out")): 20.0,
    ("dlp_breaker_open", label(model="p__b")): 1.0,
    ("dlp_breaker_open", label(model="p__c")): 0.0,
    ("dlp_log_errors_total", label()): 3.0,
    ("nv_inference_request_success", frozenset({("model", "p"), ("version", "1")})): 500.0,
}


def seen(table=TABLE, state=STATE, found=None, width=130) -> str:
    console = Console(record=True, width=width, file=io.StringIO())
    console.print(view(table, state, found, Path("logs/server.log")))
    return console.export_text()


def test_an_arm_is_a_line():
    text = seen(found=traffic("p", BEFORE, AFTER, 10.0))
    lines = [re.split(r"  +", line.strip()) for line in text.splitlines()]
    assert lines[0] == ["p http://127.0.0.1:8000, gRPC 127.0.0.1:8001"]
    assert lines[2] == ["arm", "model", "share", "asked/s", "p50 ms", "p95 ms", "p99 ms", "failed"]
    assert lines[3] == ["champion", "p__a", "90%", "45.0", "2.0", "9.2", "9.8", "0.0%"]
    assert lines[4] == ["challenger", "p__b", "10%", "5.0", "-", "-", "-", "40.0%"]
    assert "p__b is not asked any more: its breaker is open\n" in text and "p__c" not in text
    assert "last 10 s; Triton's own count, requests/s: p 50.0" in text
    assert "refused, as the request was wrong: 0.5/s" in text
    assert "3 appends to the prediction log failed since the router was loaded" in text
    assert lines[-1] == ["metrics http://127.0.0.1:8002/metrics; log logs/server.log"]


def test_a_shadow_and_what_is_not_known_yet():
    table = replace(TABLE, arms=TABLE.arms[:1], shadow="p__b")
    text = seen(table, found=traffic("p", BEFORE, AFTER, 10.0))
    assert "shadow p__b sees all and answers nobody: answered 10.0/s, left out 2.0/s\n" in text
    assert "answers nobody: nothing yet\n" in seen(table)
    assert re.search(r"champion +p__a +100% +\.\.\. *\n", seen(table))


def test_it_fits_a_terminal_of_80_columns():
    table = replace(
        TABLE, arms=(Arm("champion", "small__09040c25756c", 1), Arm("challenger", "small__1234567890ab", 1))
    )
    found = traffic("p", BEFORE, AFTER, 10.0)
    lines = seen(table, found=found, width=80).splitlines()
    assert re.fullmatch(r"champion +small__09040c25756c +50% +45\.0 +2\.0 +9\.2 +9\.8 +0\.0%", lines[3].strip())
    assert re.fullmatch(r"challenger +small__1234567890ab +50% .*40\.0%", lines[4].strip())


def test_what_is_wrong_with_the_server_is_said():
    again = replace(STATE, restarts=2, last_exit="it ended by SIGKILL at noon")
    assert "gRPC 127.0.0.1:8001; started again 2 times: it ended by SIGKILL at noon" in seen(state=again)
    assert "started again once" in seen(state=replace(again, restarts=1))
    assert "p is being started again: it ended by SIGKILL at noon" in seen(state=replace(again, ready=False))
    assert "p is being started again: for the first time" in seen(state=replace(STATE, ready=False))
    assert "p given up: 5 crashes within 60 s" in seen(state=replace(STATE, gave_up="5 crashes within 60 s"))
    assert "; can't be loaded: p__b: no such file" in seen(state=replace(STATE, failing="p__b: no such file"))


def test_status_tells_what_befell_the_server(tmp_path, dlp):
    home = Home(tmp_path / "home").prepare()
    mine, born = os.getpid(), birth(os.getpid())
    state = replace(STATE, pid=mine, born=born, restarts=2, last_exit="it hung", failing="p__b: no such file")
    write_state(home, state)
    found = dlp("status", "--home", home.root, "--json").json
    assert found["server"] == {
        "http": 8000, "grpc": 8001, "metrics": 8002, "pid": mine, "ready": True, "kept": True, "restarts": 2,
        "last_exit": "it hung", "failing": "p__b: no such file",
    }  # fmt: skip
    told = "127.0.0.1:8000 (HTTP), :8001 (gRPC), started again 2 times (it hung), can't load p__b: no such file\n"
    assert dlp("status", "--home", home.root).out.partition("; server ")[2].startswith(told)
    write_state(home, replace(state, pid=1, gave_up="5 crashes within 60 s, the last: it hung"))
    found = dlp("status", "--home", home.root, "--json").json
    assert (found["server"], found["server_gone"]) == (None, "5 crashes within 60 s, the last: it hung")
    assert "; server not running: 5 crashes within 60 s, the last: it hung\n" in dlp("status", "--home", home.root).out


class Terminal:
    """A command on a terminal of its own, and what it wrote."""

    def __init__(self, *arguments: object):
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 160, 0, 0))
        self.process = subprocess.Popen(
            ["setsid", "--ctty", "--wait", str(DLP), *map(str, arguments)], stdin=slave, stdout=slave, stderr=slave,
            env={name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")},
        )  # fmt: skip
        os.close(slave)
        self._written = b""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        while True:
            try:
                self._written += os.read(self._master, 65536)
            except OSError:  # nobody has it open any more
                return

    @property
    def text(self) -> str:
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self._written.decode(errors="replace"))

    def until(self, pattern: str, seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while not re.search(pattern, self.text):
            assert time.monotonic() < deadline and self.process.poll() is None, self.text
            time.sleep(0.05)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._master)

    def press(self, key: bytes) -> int:
        os.write(self._master, key)
        return self.ended()

    def ended(self) -> int:
        code = self.process.wait(30)
        self._reader.join(10)
        return code


@pytest.mark.slow
def test_the_table_of_a_live_server_ctrl_c_and_the_object(copy, dlp):
    server = TritonServer(Home(copy))
    with Terminal("serve", "small", "--home", copy) as shown:
        shown.until(r"champion +small__\w+ +100% +0\.0 ")
        state = server.state()
        assert state and state.kept
        assert f"metrics http://127.0.0.1:{state.metrics}/metrics; log {copy}/server/server.log" in shown.text
        os.kill(state.pid, 9)
        shown.until("started again once: it ended by SIGKILL")
        assert shown.press(b"\x03") == 0
        assert shown.text.rstrip().endswith("the server runs on; `dlp stop` ends it, `dlp serve` shows it again")
    now = server.state()
    assert now and (now.http, now.restarts) == (state.http, 1), "Ctrl-C leaves it running"

    found = dlp("serve", "small", "--home", copy, "--json")
    assert found.code == 0
    told = found.json
    assert told["server"]["pid"] == now.pid and told["server"]["restarts"] == 1
    assert told["metrics"] == f"http://127.0.0.1:{now.metrics}/metrics"
    assert told["log"] == str(server.log)
    assert [arm["name"] for arm in told["routing"]["arms"]] == ["champion"]
    assert told["traffic"]["seconds"] >= 1 and told["traffic"]["log_errors"] == 0

    sentence = dlp("serve", "small", "--home", copy, "--detach")
    assert sentence.code == 0 and sentence.err == ""
    assert sentence.out.startswith("small serves small__") and sentence.out.count("\n") == 1

    with Terminal("serve", "small", "--home", copy) as shown:
        shown.until(r"champion +small__")
        assert dlp("stop", "--home", copy).out == "the server has ended\n"
        assert shown.ended() == 0
        assert shown.text.rstrip().endswith("the server has ended")
    assert json.loads(dlp("status", "--home", copy, "--json").out)["server"] is None
