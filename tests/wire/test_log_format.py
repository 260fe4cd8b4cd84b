import resource
import signal
import subprocess
import sys
import time

import pytest

from dl_pipelines.wire.log_format import LogError, LogWriter, decode, encode, read_file, read_folder

RECORDS = [{"id": f"r{number}", "out": [number / 3, -1.5], "text": 'é\n"x"'} for number in range(5)]


@pytest.mark.parametrize("durability", ["process", "disk"])
def test_records_come_back_in_order(tmp_path, durability):
    writer = LogWriter(tmp_path, durability)
    writer.append(RECORDS[:2])
    writer.append(RECORDS[2:])
    writer.close()
    assert list(read_folder(tmp_path)) == RECORDS


def test_a_tail_torn_at_any_byte_is_never_read(tmp_path):
    path = tmp_path / "a.log"
    whole, last = b"".join(map(encode, RECORDS[:4])), encode(RECORDS[4])
    for cut in range(len(last) - 1):
        path.write_bytes(whole + last[:cut])
        assert list(read_file(path)) == RECORDS[:4], cut
    path.write_bytes(whole + last[:-1])  # only the newline is missing: the checksum vouches for the record
    assert list(read_file(path)) == RECORDS


def test_zeros_after_a_loss_of_power_are_a_tail(tmp_path):
    path = tmp_path / "a.log"
    path.write_bytes(encode(RECORDS[0]) + b"\0" * 4096)
    assert list(read_file(path)) == RECORDS[:1]


def test_any_changed_byte_is_noticed():
    line = encode(RECORDS[0])[:-1]
    assert decode(line) == RECORDS[0]
    for place in range(len(line)):
        changed = bytearray(line)
        changed[place] ^= 1
        assert decode(bytes(changed)) != RECORDS[0]


def test_damage_before_a_sound_record_is_an_error(tmp_path):
    path = tmp_path / "a.log"
    lines = [encode(record) for record in RECORDS]
    lines[2] = b"x" + lines[2][1:]
    path.write_bytes(b"".join(lines))
    with pytest.raises(LogError, match=r"found line 3 of .*a\.log damaged; expected damage only at the end"):
        list(read_file(path))


def test_files_of_several_writers_are_read_oldest_first(tmp_path):
    for record in RECORDS[:3]:
        writer = LogWriter(tmp_path)
        writer.append([record])
        writer.close()
    LogWriter(tmp_path).close()
    assert list(read_folder(tmp_path)) == RECORDS[:3]
    assert len(list(tmp_path.iterdir())) == 3


def test_a_full_disk_writes_nothing_and_says_so(tmp_path):
    writer = LogWriter(tmp_path)
    writer.append(RECORDS[:1])
    size = writer.path.stat().st_size
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 10, hard))
    try:
        with pytest.raises(LogError, match=r"can't be written .*free some space and ask again"):
            writer.append(RECORDS[1:])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert writer.path.stat().st_size == size
    writer.append(RECORDS[1:2])
    writer.close()
    assert list(read_folder(tmp_path)) == RECORDS[:2]


def test_numbers_that_json_has_not_are_refused(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        encode({"x": float("nan")})


def test_what_was_acknowledged_survives_kill_9(tmp_path):
    program = (
        "import sys; from pathlib import Path; from dl_pipelines.wire.log_format import LogWriter\n"
        "writer, number = LogWriter(Path(sys.argv[1])), 0\n"
        "while True:\n"
        "    writer.append([{'id': number, 'filler': 'x' * 500}]); print(number, flush=True); number += 1\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program, tmp_path], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    process.stdout.readline()
    time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    acknowledged = [0, *(int(line) for line in process.stdout.read().splitlines() if line)]
    process.stdout.close()
    process.wait()
    logged = {record["id"] for record in read_folder(tmp_path)}
    assert len(acknowledged) > 10
    assert set(acknowledged) <= logged
