"""Rotation under a writer that never stops: every line is there, once, in order."""

from __future__ import annotations

import subprocess
import sys
import time

from dl_pipelines.serving.server_log import ServerLog, paused
from dl_pipelines.serving.stubs import group_of

WRITER = """
import os, sys, threading
over, counts = threading.Event(), {}
def write(name):
    number = 0
    while not over.is_set():
        os.write(1, b"%s %d %s\\n" % (name.encode(), number, b"x" * 40))
        number += 1
    counts[name] = number
threads = [threading.Thread(target=write, args=(name,)) for name in "ab"]
[thread.start() for thread in threads]
sys.stdin.read()
over.set()
[thread.join() for thread in threads]
print(counts["a"], counts["b"], file=sys.stderr)
"""
"""Writes numbered lines until its standard input ends; then tells how many of each thread."""


def test_no_line_of_a_writer_is_lost_or_told_twice(tmp_path):
    log = ServerLog(tmp_path / "server.log", limit=2_000_000)
    pipes = {"stdin": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with log.path.open("ab") as sink:
        writer = subprocess.Popen([sys.executable, "-c", WRITER], stdout=sink, start_new_session=True, **pipes)
    rotated, deadline = 0, time.monotonic() + 60
    while rotated < 3 and time.monotonic() < deadline:
        rotated += log.rotate(lambda: set(group_of(writer.pid)))
        time.sleep(0.002)
    _, counts = writer.communicate(timeout=30)
    files = [log.path.with_suffix(f".log.{number}") for number in (3, 2, 1)] + [log.path]
    assert rotated == 3 and all(file.exists() for file in files)
    lines = [line.split() for file in files for line in file.read_text().splitlines()]
    for name, count in zip("ab", counts.split(), strict=True):
        numbers = [int(line[1]) for line in lines if line[0] == name]
        assert numbers == list(range(int(count))), "nothing between, nothing twice"
    assert all(len(line) == 3 and line[2] == "x" * 40 for line in lines)


def test_three_old_ones_are_kept(tmp_path):
    log = ServerLog(tmp_path / "server.log", limit=10)
    for number in range(6):
        log.path.write_text(f"this is text {number}")
        assert log.rotate(set) is True
        assert log.path.read_text() == ""
    log.say("hello")
    assert log.path.read_text().endswith("Z supervisor: hello\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "server.log", "server.log.1", "server.log.2", "server.log.3"
    ]  # fmt: skip
    assert log.path.with_suffix(".log.3").read_text() == "this is text 3"
    log.shift()
    assert not log.path.exists() and log.path.with_suffix(".log.3").read_text() == "this is text 4"
    assert log.rotate(set) is False, "there is none"


def test_a_short_log_and_a_full_disk_are_left_alone(tmp_path, monkeypatch):
    log = ServerLog(tmp_path / "server.log", limit=10)
    log.path.write_text("short")
    assert log.rotate(set) is False
    log.path.write_text("long enough to go")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("shutil.copyfileobj", full)
    for number in (1, 2):
        log.path.with_suffix(f".log.{number}").write_text(f"old {number}")
    for _ in range(4):
        assert log.rotate(set) is False
    left = {path.name: path.read_text() for path in tmp_path.iterdir() if path != log.path}
    assert left == {"server.log.2": "old 1", "server.log.3": "old 2"}, "tried again and again, none is lost"
    assert log.path.read_text() == "long enough to go"


def test_a_paused_process_goes_on(tmp_path):
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"], start_new_session=True)
    try:
        with paused({busy.pid, 2**22 - 1}):
            assert group_of(busy.pid) == {busy.pid: "T"}
        assert group_of(busy.pid)[busy.pid] in "RS"
    finally:
        busy.kill()
        busy.wait()
