import contextlib
import errno
import os
import random
import resource
import signal
import subprocess
import sys
import threading
import time

import pytest

from dl_pipelines.wire import log_format
from dl_pipelines.wire.log_format import LogError, LogWriter, decode, encode, has_writer
from dl_pipelines.wire.log_reading import read_folder, segments, writer_of

RECORDS = [{"id": f"r{number}", "out": [number / 3, -1.5], "text": 'é\n"x"'} for number in range(5)]
WRITER = """
import itertools, sys, threading
from pathlib import Path
from dl_pipelines.wire.log_format import LogWriter
writer = LogWriter(Path(sys.argv[1]), sys.argv[2], segment_bytes=20_000)
def work(mine):
    for number in itertools.count():
        writer.append([{"id": f"{mine}/{number}", "filler": "x" * 300}, {"id": f"{mine}/{number}b"}])
        print(f"{mine}/{number}\\n", end="", flush=True)
threads = [threading.Thread(target=work, args=[mine]) for mine in range(3)]
[thread.start() for thread in threads]
"""


@pytest.mark.parametrize(("durability", "expected"), [("process", []), ("disk", ["a", ".", "a/b"])])
def test_the_folders_entry_is_flushed_as_its_segments_are(tmp_path, monkeypatch, durability, expected):
    flushed: list[str] = []
    flush = log_format._flush_folder
    monkeypatch.setattr(
        log_format, "_flush_folder", lambda each: (flushed.append(str(each.relative_to(tmp_path))), flush(each))
    )
    LogWriter(tmp_path / "a" / "b", durability).close()
    assert flushed == expected
    LogWriter(tmp_path / "a" / "b", durability).close()
    assert flushed[len(expected) :] == expected[:1] + expected[2:], "it may have been made, and not flushed, before"


@pytest.mark.parametrize("durability", ["process", "disk"])
def test_records_come_back_in_order(tmp_path, durability):
    writer = LogWriter(tmp_path, durability)
    writer.append(RECORDS[:2])
    writer.append(RECORDS[2:])
    writer.close()
    assert list(read_folder(tmp_path)) == RECORDS


def test_any_changed_byte_is_noticed():
    line = encode(RECORDS[0])[:-1]
    assert decode(line) == RECORDS[:1]
    for place in range(len(line)):
        changed = bytearray(line)
        changed[place] ^= 1
        assert decode(bytes(changed)) != RECORDS[:1]


def test_numbers_that_json_has_not_are_refused():
    with pytest.raises(ValueError, match="JSON"):
        encode({"x": float("nan")})


def test_a_refused_record_leaves_nothing_of_its_append(tmp_path):
    writer = LogWriter(tmp_path)
    with pytest.raises(ValueError, match="JSON"):
        writer.append([RECORDS[0], {"x": float("inf")}])
    writer.append(RECORDS[1:2])
    writer.close()
    assert list(read_folder(tmp_path)) == RECORDS[1:2]


def test_files_of_several_writers_are_read_oldest_first(tmp_path):
    for record in RECORDS[:3]:
        writer = LogWriter(tmp_path)
        writer.append([record])
        writer.close()
    LogWriter(tmp_path).close()
    assert list(read_folder(tmp_path)) == RECORDS[:3]
    assert len(list(tmp_path.iterdir())) == 3, "a writer that wrote nothing leaves nothing"


@pytest.mark.parametrize("durability", ["process", "disk"])
def test_a_segment_is_followed_before_it_grows_too_large(tmp_path, durability):
    records = [{"id": number} for number in range(5)]
    line = len(encode(records[:1]))
    writer = LogWriter(tmp_path, durability, segment_bytes=2 * line)
    for record in records:
        writer.append([record])
    writer.append(records)  # more than a segment takes, and yet not parted
    writer.close()
    sizes = [path.stat().st_size for path in segments(tmp_path)]
    assert sizes == [2 * line, 2 * line, line, len(encode(records))]
    assert list(read_folder(tmp_path)) == records * 2
    names = [writer_of(path.name) for path in segments(tmp_path)]
    assert [number for _, number in names] == [0, 1, 2, 3]
    assert len({name for name, _ in names}) == 1


def test_a_segment_of_yesterday_is_followed_at_the_next_append(tmp_path, monkeypatch):
    writer = LogWriter(tmp_path)
    writer.append(RECORDS[:1])
    writer.append(RECORDS[1:2])
    assert len(segments(tmp_path)) == 1
    monkeypatch.setattr(log_format, "SEGMENT_SECONDS", -1)
    writer.append(RECORDS[2:3])
    assert len(segments(tmp_path)) == 2
    writer.close()
    assert list(read_folder(tmp_path)) == RECORDS[:3]


def test_a_closed_writer_takes_nothing(tmp_path):
    writer = LogWriter(tmp_path)
    writer.append(RECORDS[:1])
    writer.close()
    with pytest.raises(LogError, match="can't be written"):
        writer.append(RECORDS[1:2])
    assert list(read_folder(tmp_path)) == RECORDS[:1]


def test_a_segment_tells_whether_its_writer_lives(tmp_path):
    writer = LogWriter(tmp_path, segment_bytes=1)
    writer.append(RECORDS[:1])
    writer.append(RECORDS[1:2])
    first, second = segments(tmp_path)
    assert not has_writer(first), "it is followed by another one"
    assert has_writer(second)
    writer.close()
    assert not has_writer(second)
    with pytest.raises(FileNotFoundError):
        has_writer(tmp_path / "none.log")


def slow_flushes(monkeypatch, fails=lambda number: False):
    """Count the flushes, each of 20 ms as a slow disk's; some fail."""
    flushes, real = [], os.fdatasync

    def flush(handle):
        time.sleep(0.02)
        flushes.append(handle)
        if fails(len(flushes)):
            raise OSError(errno.EIO, "Input/output error")
        real(handle)

    monkeypatch.setattr(log_format.os, "fdatasync", flush)
    return flushes


def in_threads(work, count=8):
    threads = [threading.Thread(target=work, args=[mine]) for mine in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_one_flush_serves_all_threads_that_wait(tmp_path, monkeypatch):
    flushes = slow_flushes(monkeypatch)
    writer = LogWriter(tmp_path, "disk")

    def work(mine):
        for number in range(10):
            before = len(flushes)
            writer.append([{"id": f"{mine}/{number}"}])
            assert len(flushes) > before, "it came back without a flush that began after it was written"

    in_threads(work)
    # 80 appends; a thread waits for the flush under way and then for its own: at most two flushes an append of it.
    assert 10 <= len(flushes) <= 40
    before = len(flushes)
    writer.append([{"id": "later"}], flush=False)
    assert len(flushes) == before
    writer.close()
    assert len(flushes) == before + 1
    assert len({record["id"] for record in read_folder(tmp_path)}) == 81


def test_processes_alone_need_no_flush(tmp_path, monkeypatch):
    flushes = slow_flushes(monkeypatch)
    writer = LogWriter(tmp_path, "process", segment_bytes=50)
    for record in RECORDS:
        writer.append([record])
    writer.close()
    assert flushes == []


def test_a_flush_that_failed_fails_all_that_it_was_for_and_another_segment_follows(tmp_path, monkeypatch):
    slow_flushes(monkeypatch, fails=lambda number: number == 2)
    writer = LogWriter(tmp_path, "disk")
    kept, refused = [], []

    def work(mine):
        for number in range(5):
            try:
                writer.append([{"id": f"{mine}/{number}"}])
                kept.append(f"{mine}/{number}")
            except LogError as error:
                refused.append(str(error))

    in_threads(work)
    writer.close()
    assert len(kept) + len(refused) == 40
    assert refused
    assert all("can't be written (Input/output error)" in text for text in refused)
    assert set(kept) <= {record["id"] for record in read_folder(tmp_path)}
    assert len(segments(tmp_path)) == 2


@contextlib.contextmanager
def no_file_beyond(size):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("durability", ["process", "disk"])
def test_a_full_disk_writes_nothing_and_says_so(tmp_path, durability):
    writer = LogWriter(tmp_path, durability)
    writer.append(RECORDS[:1])
    size = writer.path.stat().st_size
    with no_file_beyond(size + 10):  # the system writes 10 bytes of it
        for _ in range(2):
            with pytest.raises(LogError, match=r"can't be written .*expected room there; free some space and ask"):
                writer.append(RECORDS[1:])
    assert writer.path.stat().st_size == size
    writer.append(RECORDS[1:2])
    writer.close()
    assert list(read_folder(tmp_path)) == RECORDS[:2]


def test_half_a_line_that_stays_is_the_torn_end_of_its_segment(tmp_path, monkeypatch):
    writer = LogWriter(tmp_path)
    writer.append(RECORDS[:1])
    old = writer.path
    with no_file_beyond(old.stat().st_size + 10), monkeypatch.context() as patch:
        patch.setattr(log_format.os, "ftruncate", lambda *_: (_ for _ in ()).throw(OSError(errno.EIO, "no")))
        with pytest.raises(LogError):
            writer.append(RECORDS[1:2])
    assert has_writer(old), "until the next segment is there"
    writer.append(RECORDS[2:3])
    writer.close()
    assert old.stat().st_size > len(encode(RECORDS[:1]))
    assert list(read_folder(tmp_path)) == [RECORDS[0], RECORDS[2]]


def test_where_no_segment_can_be_made_the_old_one_is_kept(tmp_path, monkeypatch):
    writer = LogWriter(tmp_path, segment_bytes=1)
    writer.append(RECORDS[:1])
    with monkeypatch.context() as patch:
        patch.setattr(log_format.fcntl, "flock", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOLCK, "No locks")))
        with pytest.raises(LogError, match="No locks"):
            writer.append(RECORDS[1:2])
    assert has_writer(writer.path)
    assert len(list(tmp_path.iterdir())) == 1
    writer.append(RECORDS[1:2])
    writer.close()
    assert list(read_folder(tmp_path)) == RECORDS[:2]


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(LogError, match=r"the log in .*file/log can't be written \(Not a directory\)"):
        LogWriter(tmp_path / "file" / "log")


@pytest.mark.parametrize("durability", ["process", "disk"])
def test_what_was_acknowledged_survives_kill_9(tmp_path, durability):
    moments = random.Random(7)
    for trial in range(4):
        folder = tmp_path / str(trial)
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, folder, durability], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout
        first = process.stdout.readline()
        time.sleep(moments.uniform(0, 0.1))
        process.send_signal(signal.SIGKILL)
        told = (first + process.stdout.read()).rpartition("\n")[0]
        process.stdout.close()
        process.wait()
        logged = [record["id"] for record in read_folder(folder)]
        assert set(told.split()) <= set(logged)
        assert len(set(logged)) == len(logged)
        assert {name + "b" for name in logged if not name.endswith("b")} <= set(logged), "no half of an append"
        assert not any(has_writer(path) for path in segments(folder))
