"""The manifest: good lines, wrong lines each with its reason, and files that are no manifest."""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path

import pytest

from dl_pipelines.data.sources.base import SourceError
from dl_pipelines.data.sources.manifest import inside, read_manifest


def read(root: Path, text: str | bytes):
    path = root / "manifest.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_manifest(path, root)


def test_every_column(tmp_path):
    (item,), wrong = read(
        tmp_path,
        "\ufefffile, date ,class,event_time,group,note\ncat/1.png,2026-03-02,dog,2026-02-28T23:30:00+02:00,g,x\n",
    )
    assert not wrong
    assert (item.file, item.day, item.label, item.group) == ("cat/1.png", date(2026, 3, 2), "dog", "g")
    assert item.event_time == datetime(2026, 2, 28, 21, 30, tzinfo=UTC)
    assert item.problem is None


def test_what_is_not_said(tmp_path):
    (item, other), _ = read(
        tmp_path, "file,date,event_time\ncat/1.png,2026-03-02,\n./cat/2.png,2026-03-02,2026-03-01\n"
    )
    assert (item.label, item.group) == (None, None)
    assert item.event_time == datetime(2026, 3, 2, 12, tzinfo=UTC)
    assert other.file == "cat/2.png"
    assert other.event_time == datetime(2026, 3, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("line", "uri", "reason"),
    [
        ("", None, None),
        (",2026-03-02", "line 2", "line 2 of the manifest: no file"),
        ("a.png,", "a.png", "line 2 of the manifest: found the date ''; expected YYYY-MM-DD"),
        ("a.png,2026-02-30", "a.png", "line 2 of the manifest: found the date '2026-02-30'; expected YYYY-MM-DD"),
        ("a.png", "a.png", "line 2 of the manifest: found the date ''; expected YYYY-MM-DD"),
        ("a,b.png,2026-03-02", "a", "line 2 of the manifest: found the date 'b.png'; expected YYYY-MM-DD"),
    ],
)
def test_a_line_without_a_day(tmp_path, line, uri, reason):
    listed, wrong = read(tmp_path, f"file,date\n{line}\n")
    assert not listed
    assert [(item.uri, item.reason) for item in wrong] == ([(uri, reason)] if uri else [])


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("../secret.png,2026-03-02,", "line 2 of the manifest: a file outside the folder"),
        ("/etc/hostname,2026-03-02,", "line 2 of the manifest: a file outside the folder"),
        ("a\0b.png,2026-03-02,", "line 2 of the manifest: a file outside the folder"),
        ("a.png,2026-03-02,noon", "line 2 of the manifest: found the event_time 'noon'; expected ISO 8601"),
        ("a.png,2026-03-02,0001-01-01T00:00+14:00", "line 2 of the manifest: found the event_time "
                                                    "'0001-01-01T00:00+14:00'; expected ISO 8601"),
    ],
)  # fmt: skip
def test_a_line_that_can_not_be_used_stays_on_its_day(tmp_path, line, problem):
    (item,), wrong = read(tmp_path, f"file,date,event_time\n{line}\n")
    assert not wrong
    assert (item.day, item.problem) == (date(2026, 3, 2), problem)


def test_a_file_counts_once(tmp_path):
    listed, wrong = read(tmp_path, "file,date\na.png,2026-03-02\n./a.png,2026-03-03\n")
    assert [item.day for item in listed] == [date(2026, 3, 2)]
    assert [(item.uri, item.reason) for item in wrong] == [("a.png", "line 3 of the manifest: the file a second time")]


def test_names_with_commas_quotes_and_other_letters(tmp_path):
    listed, wrong = read(tmp_path, 'file,date\n"cat/a, ""b"".png",2026-03-02\ncat/Käuzchen 梟.png,2026-03-02\n')
    assert [item.file for item in listed] == ['cat/a, "b".png', "cat/Käuzchen 梟.png"]
    assert not wrong


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "found the columns none in {path}; expected file, date and, if wanted, {optional}; add file, date"),
        ("file;date\na;b\n",
         "found the columns file;date in {path}; expected file, date and, if wanted, {optional}; add file, date"),
        ("file,class\n",
         "found the columns file, class in {path}; expected file, date and, if wanted, {optional}; add date"),
        ("file,date,date\n", "found the column date twice in {path}; expected each once; remove or rename one"),
        (b"file,date\n\xff\xfe.png,2026-03-02\n",
         "found no readable manifest at {path} ('utf-8' codec can't decode byte 0xff in position 10: invalid start "
         "byte); expected a UTF-8 CSV with the columns file, date; mend data.source.params.manifest"),
        ("file,date\n" + "x" * 200_000,
         "found no readable manifest at {path} (field larger than field limit (131072)); expected a UTF-8 CSV with the "
         "columns file, date; mend data.source.params.manifest"),
    ],
)  # fmt: skip
def test_no_manifest(tmp_path, text, message):
    with pytest.raises(SourceError) as caught:
        read(tmp_path, text)
    assert str(caught.value) == message.format(path=tmp_path / "manifest.csv", optional="class, event_time, group")


def test_a_manifest_that_is_not_there(tmp_path):
    with pytest.raises(SourceError) as caught:
        read_manifest(tmp_path / "days.csv", tmp_path)
    assert str(caught.value) == (
        f"found no readable manifest at {tmp_path}/days.csv (No such file or directory); expected a UTF-8 CSV with the "
        "columns file, date; mend data.source.params.manifest"
    )


def test_inside_follows_links(tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    (root / "out").symlink_to(tmp_path)
    (root / "round").symlink_to(root / "round")
    assert inside(root, root / "a.png")
    assert not inside(root, root / "out" / "a.png")
    assert not inside(root, root / "round")
