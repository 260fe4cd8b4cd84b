"""`dlp labels`: its key, its files, what it tells."""

from __future__ import annotations

import json
import stat

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from dl_pipelines.cli.label_files import read_labels_file
from dl_pipelines.serving.carry import carry_log
from dl_pipelines.serving.labels import LabelError, read_labels
from dl_pipelines.store.home import Home
from dl_pipelines.store.workspace import Workspace
from dl_pipelines.tasks.image_classification import ImageClassification
from tests.logged import answer, writer_of
from tests.tiny import task  # noqa: F401 - a fixture

CLASSES = ["dark", "bright"]
BRIEF = {
    "project": "tiny",
    "problem": {"task": {"name": "image_classification", "params": {
        "classes": CLASSES, "height": 8, "width": 8, "channels": 1,
    }}},
    "data": {"source": {"name": "digits"}},
}  # fmt: skip


@pytest.fixture
def home(tmp_path):
    place = Home(tmp_path / "home").prepare()
    (place.briefs / "tiny.yaml").write_text(yaml.safe_dump(BRIEF))
    return place


@pytest.fixture
def key(home, dlp, monkeypatch):
    said = dlp("labels", "--new-key", "--home", home.root)
    told = "give it to `dlp labels` in DLP_LABEL_KEY, or in a file with --key-file; it is not shown again\n"
    assert (said.code, said.err) == (0, told)
    monkeypatch.setenv("DLP_LABEL_KEY", said.out.strip())
    return said.out.strip()


def ask(home, *names):
    writer = writer_of(Workspace(home, "tiny"))
    for name in names:
        answer(writer, name)
    writer.close()
    carry_log(Workspace(home, "tiny"))


def test_what_became_of_each_label_is_told(home, key, dlp, tmp_path):
    ask(home, "a", "b", "c")
    file = tmp_path / "labels.csv"
    file.write_text("when,request_id,label\n1,a,1\n2,b,dark\n3,later,0\n")
    said = dlp("labels", file, "--project", "tiny", "--home", home.root)
    assert (said.code, said.err) == (0, "")
    assert said.out == "3 new, 0 known already\n1 without a request as yet, stored all the same: later\n"
    file.write_text("request_id,label\na,0\nb,0\nc,bright\n")
    said = dlp("labels", file, "-p", "tiny", "--home", home.root, "--json")
    assert said.json == {"new": 1, "known": 1, "conflicts": ["a"], "unknown": []}
    assert read_labels(Workspace(home, "tiny")) == {"a": 1, "b": 0, "later": 0, "c": 1}
    assert "1 in conflict, the first label was kept: a\n" in dlp("labels", file, "-p", "tiny", "--home", home.root).out


def test_without_the_homes_key_nothing_is_stored(home, dlp, tmp_path, monkeypatch):
    file = tmp_path / "labels.csv"
    file.write_text("request_id,label\na,1\n")
    given = ("labels", file, "--project", "tiny", "--home", home.root)
    said = dlp(*given)
    assert said.code == 2
    assert said.err.startswith(f"error: found no label key in {home.root}; expected one: ")
    assert said.err.endswith("make one with `dlp labels --new-key`\n")
    key = dlp("labels", "--new-key", "--home", home.root).out.strip()
    assert stat.S_IMODE(home.label_key.stat().st_mode) == 0o600
    assert dlp("labels", "--new-key", "--home", home.root).code == 2, "it is shown once"
    assert "found no label key; expected that of" in dlp(*given).err
    monkeypatch.setenv("DLP_LABEL_KEY", "0" * 64)
    assert "found a label key that is not the home's" in dlp(*given).err
    assert read_labels(Workspace(home, "tiny")) == {}
    (tmp_path / "key").write_text(key + "\n")
    assert dlp(*given, "--key-file", tmp_path / "key").out.startswith("1 new")
    kept = [path for path in home.root.rglob("*") if path.is_file() and key.encode() in path.read_bytes()]
    assert kept == [home.label_key]


def test_nothing_of_a_file_with_a_wrong_label_is_stored(home, key, dlp, tmp_path):
    file = tmp_path / "labels.csv"
    file.write_text("request_id,label\na,1\nb,2\n")
    said = dlp("labels", file, "--project", "tiny", "--home", home.root)
    assert (said.code, said.out) == (2, "")
    assert said.err.startswith(f"error: {file}, line 3: found the label 2 (there is no such class); expected ")
    assert read_labels(Workspace(home, "tiny")) == {}
    said = dlp("labels", "--home", home.root)
    assert (said.code, said.err[:45]) == (2, "error: found no file, or no --project; expect")


def test_each_format_gives_the_same(task, tmp_path):  # noqa: F811
    pairs = [("a", 1), ("b", 0), ("a", 0)]
    files = {name: tmp_path / f"labels.{name}" for name in ("csv", "jsonl", "parquet")}
    files["csv"].write_text("\ufeffrequest_id,label\r\na,bright\r\nb,0\r\na,0\r\n")
    lines = [json.dumps({"request_id": name, "label": label, "other": 1}) for name, label in pairs]
    files["jsonl"].write_text("\n\n".join(lines) + "\n")
    table = {"request_id": ["a", "b", "a"], "label": [1, 0, 0], "other": [None, "x", "y"]}
    pq.write_table(pa.table(table), files["parquet"])
    for file in files.values():
        assert read_labels_file(file, task) == pairs


def named(*classes):
    return ImageClassification(ImageClassification.Params(classes=classes, height=8, width=8, channels=1))


@pytest.mark.parametrize(
    ("classes", "cells", "expected"),
    [
        (("1", "2", "3"), "1 2 3", [0, 1, 2]),
        (("1", "0"), "1 0", [0, 1]),
        (("0", "1", "2"), "2 0", [2, 0]),
        (("10", "20", "30"), "10 1 30", [0, 1, 2]),
        (("true", "false", "null"), "false true null 1", [1, 0, 2, 1]),
    ],
)
def test_in_a_csv_a_class_is_called_by_its_name_first(tmp_path, classes, cells, expected):
    file, lines = tmp_path / "a.csv", tmp_path / "a.jsonl"
    file.write_text("request_id,label\n" + "".join(f"a,{cell}\n" for cell in cells.split()))
    assert [label for _, label in read_labels_file(file, named(*classes))] == expected
    names = [cell if cell in classes else int(cell) for cell in cells.split()]
    lines.write_text("".join(json.dumps({"request_id": "a", "label": name}) + "\n" for name in names))
    assert [label for _, label in read_labels_file(lines, named(*classes))] == expected, "as JSON lines have it"


def test_a_position_among_names_that_are_numbers_is_refused(tmp_path):
    file = tmp_path / "a.csv"
    file.write_text("request_id,label\na,1\nb,0\n")
    said = r"a\.csv, line 3: found the label 0; expected a class's name, one of 1, 2, 3: numbers are names here"
    with pytest.raises(LabelError, match=said):
        read_labels_file(file, named("1", "2", "3"))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "", r"found .*a\.txt; expected a file whose name ends in \.csv, \.jsonl"),
        ("a.csv", "id,label\n", r"a\.csv: found no request_id; expected request_id and label"),
        ("a.csv", "", r"a\.csv: found no request_id and no label"),
        ("a.csv", "request_id,label\na,\n", r"a\.csv, line 2: found the label None \(there is nothing to compare with"),
        ("a.csv", "request_id,label\n,1\n", r"a\.csv, line 2: found the request id ''; expected 1 to 80 characters"),
        ("a.csv", "request_id,label\na\n", r"a\.csv, line 2: found the label None"),
        ("a.jsonl", "{}\n", r"a\.jsonl, line 1: found no request_id and no label"),
        ("a.jsonl", '\n{"request_id": "a", "label": 1}\n{"req', r"a\.jsonl, line 3: found no JSON"),
        ("a.jsonl", "[" * 9000, r"a\.jsonl, line 1: found no JSON \(maximum recursion"),
        ("a.csv", "request_id,label\na," + "[" * 9000, r"a\.csv, line 2: found the label"),
        ("a.jsonl", "7\n", r"a\.jsonl, line 1: found no request_id"),
        ("a.jsonl", '{"request_id": 7, "label": 1}', r"a\.jsonl, line 1: found the request id 7"),
        ("a.parquet", "none", r"found .*a\.parquet: .*expected columns request_id and label"),
    ],
)
def test_files_that_cannot_be_used(task, tmp_path, name, content, message):  # noqa: F811
    (tmp_path / name).write_text(content)
    with pytest.raises(LabelError, match=message):
        read_labels_file(tmp_path / name, task)


def test_a_file_that_is_not_there(task, tmp_path):  # noqa: F811
    with pytest.raises(LabelError, match=r"found .*none\.csv: .*No such file"):
        read_labels_file(tmp_path / "none.csv", task)
