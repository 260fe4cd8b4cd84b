import pytest

from dl_pipelines.wire.log_format import LogError, LogWriter, encode
from dl_pipelines.wire.log_reading import read_chunk, read_file, read_folder, writer_of

RECORDS = [{"id": f"r{number}", "out": [number / 3, -1.5]} for number in range(5)]


def test_a_tail_torn_at_any_byte_is_never_read(tmp_path):
    path = tmp_path / "a.log"
    whole, last = b"".join(map(encode, RECORDS[:3])), encode(RECORDS[3:])
    for cut in range(len(last)):
        path.write_bytes(whole + last[:cut])
        assert list(read_file(path)) == RECORDS[:3], cut
        assert read_chunk(path).end == len(whole)
    path.write_bytes(whole + last)
    assert list(read_file(path)) == RECORDS


@pytest.mark.parametrize("tail", [b"\0" * 9000, b"\0" * 4000 + b"\n" * 3 + b"\r\0\n", encode({"a": 1})[3:]])
def test_what_a_loss_of_power_leaves_behind_is_a_tail(tmp_path, tail):
    path = tmp_path / "a.log"
    path.write_bytes(encode(RECORDS[0]) + tail)
    assert list(read_file(path)) == RECORDS[:1]
    assert read_chunk(path, size=100).damage is None


def test_damage_before_a_sound_record_is_an_error_and_what_was_before_it_is_read(tmp_path):
    path = tmp_path / "a.log"
    lines = [encode(record) for record in RECORDS]
    at = len(lines[0] + lines[1])
    lines[2] = b"x" + lines[2][1:]
    path.write_bytes(b"".join(lines))
    with pytest.raises(LogError, match=rf"found the line at byte {at} of .*a\.log damaged; expected damage only at"):
        list(read_file(path))
    chunk = read_chunk(path)
    assert (chunk.records, chunk.end) == (RECORDS[:2], at)
    assert chunk.damage


def test_a_segment_is_read_in_pieces_while_it_grows(tmp_path):
    writer = LogWriter(tmp_path)
    found, at = [], 0
    for number in range(50):
        writer.append([{"id": number, "filler": "x" * (number * 7)}, {"id": -number}])
        if number % 3 == 0:
            while (chunk := read_chunk(writer.path, at, 100)).end > at:
                found, at = found + [record["id"] for record in chunk.records], chunk.end
    writer.close()
    assert found == [sign * number for number in range(49) for sign in (1, -1)]


def test_a_folder_that_is_not_there_has_no_records(tmp_path):
    assert list(read_folder(tmp_path / "none")) == []


def test_the_writer_is_part_of_the_name():
    assert writer_of("01792-12x0a1b-000003.log") == ("12x0a1b", 3)
    assert writer_of("01792-12-0a1b2c.log")[1] == 0, "as version 0 named them: each its own writer"
    assert writer_of("01792-12-0a1b2c.log") != writer_of("01793-12-0a1b2c.log")
