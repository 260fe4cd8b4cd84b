"""Many inputs into one file through the real router: order, what can't be read, resume after a kill, a lost server."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from tritonclient.utils import InferenceServerException

from benchmarks.tiny import FIRST, reference
from dl_pipelines.serving import bulk, bulk_pieces, repair
from dl_pipelines.serving.bulk import Scored, score
from dl_pipelines.serving.bulk_inputs import find_inputs
from dl_pipelines.serving.client import Caller, PredictError
from dl_pipelines.serving.prediction_log import missing_ids, read_log
from dl_pipelines.serving.publish import make_triton_repository
from dl_pipelines.serving.server import TritonServer
from dl_pipelines.serving.traffic import ensure_champion
from dl_pipelines.store import durable

DIES = """
import os, sys
from pathlib import Path
from dl_pipelines.serving import bulk, bulk_pieces
from dl_pipelines.store.home import Home
from dl_pipelines.store.workspace import Workspace
from tests.tiny import task
bulk.PIECE_ROWS = 16
put, seen = bulk_pieces.Pieces.put, []
def dies(self, start, table):
    if len(seen) == 3:
        os._exit(17)
    seen.append(start)
    put(self, start, table)
bulk_pieces.Pieces.put = dies
bulk.score(Workspace(Home(Path(sys.argv[1])), "tiny"), task.__wrapped__(), [sys.argv[2]], Path(sys.argv[3]))
"""


@pytest.fixture(scope="module")
def served(line, task, data, serving, evaluation):
    """The session's workspace with its first model as champion, its server running."""
    artifact = make_triton_repository(line, FIRST, serving, data, task, evaluation)
    ensure_champion(line, FIRST, artifact)
    TritonServer(line.home).start()
    return line


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(bulk, "PIECE_ROWS", 16)


def pictures(folder: Path, images: np.ndarray) -> list[Path]:
    folder.mkdir()
    paths = [folder / f"{number:03}.png" for number in range(len(images))]
    for path, image in zip(paths, images, strict=True):
        Image.fromarray(image[..., 0]).save(path)
    return paths


def answers(out):
    return np.array(pq.read_table(out)["outputs"].to_pylist())


def logged(workspace, begins):
    return [row for row in read_log(workspace).to_pylist() if row["request_id"].startswith(begins)]


def test_files_folders_lists_and_arrays_in_their_order(served, task, inputs, tmp_path, small):
    paths = pictures(tmp_path / "pictures", inputs[:9])
    (tmp_path / "pictures" / ".hidden").write_text("")
    paths[4].write_bytes(b"no image")
    np.save(tmp_path / "rows.npy", inputs[9:35])
    (tmp_path / "list.csv").write_text("path,other\npictures/001.png,x\ngone.png,y\n")
    pq.write_table(pa.table({"path": ["pictures/002.png"]}), tmp_path / "list.parquet")
    out = tmp_path / "out.parquet"
    given = [tmp_path / "pictures", tmp_path / "rows.npy", tmp_path / "list.csv", tmp_path / "list.parquet", paths[3]]
    scored = score(served, task, [str(path) for path in given], out)

    table = pq.read_table(out)
    rows = table.to_pylist()
    names = [str(path) for path in paths] + [f"{tmp_path}/rows.npy[{row}]" for row in range(26)]
    names += [f"{tmp_path}/pictures/001.png", f"{tmp_path}/gone.png", f"{tmp_path}/pictures/002.png", str(paths[3])]
    assert [row["input"] for row in rows] == names
    failed = [place for place, row in enumerate(rows) if row["error"] is not None]
    assert failed == [4, 36]
    assert "not a readable PNG or JPEG" in rows[4]["error"] and "No such file" in rows[36]["error"]
    assert all(rows[place][name] is None for place in failed for name in ("outputs", "request_id", "answer_json"))
    why = tuple((names[place], rows[place]["error"]) for place in failed)
    assert scored == Scored(37, 0, why)
    assert score(served, task, [str(path) for path in given], out) == Scored(37, 37, why), "the same once more"
    images = np.concatenate([inputs[:35], inputs[1:2], inputs[:1], inputs[2:4]])
    there = [place for place in range(39) if place not in failed]
    found = np.array([rows[place]["outputs"] for place in there])
    np.testing.assert_allclose(found, reference(images[there], 0), atol=1e-4)
    assert json.loads(rows[0]["answer_json"]) == task.answer(found[0].astype(np.float32))
    assert table.schema.metadata[b"dlp.project"] == b"tiny"
    assert b"dlp.model" not in table.schema.metadata, "the log knows who answered"
    ids = [rows[place]["request_id"] for place in there]
    assert len(set(ids)) == len(ids)
    assert len({row["unit"] for row in logged(served, ids[0].rpartition("-")[0])}) == 1, "one arm answers all of it"
    in_log = {row["request_id"]: row["outputs"] for row in logged(served, "bulk-")}
    for place in there:
        np.testing.assert_allclose(in_log[rows[place]["request_id"]], rows[place]["outputs"])
    assert missing_ids(served) == []
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_killed_run_goes_on_where_it_was_and_nothing_is_twice_in_the_log(served, task, inputs, tmp_path, small):
    np.save(tmp_path / "rows.npy", np.concatenate([inputs] * 3))
    out = tmp_path / "out.parquet"
    command = [sys.executable, "-c", DIES, served.home.root, tmp_path / "rows.npy", out]
    assert subprocess.run([str(item) for item in command], timeout=60).returncode == 17
    assert not out.exists()
    told: list[float] = []
    served_watched = type(served)(served.home, served.project, lambda step: told.append(step.done or 0))
    scored = score(served_watched, task, [str(tmp_path / "rows.npy")], out)
    assert scored == Scored(120, 48, ())
    assert told[-1] == 120
    np.testing.assert_allclose(answers(out), reference(np.concatenate([inputs] * 3), 0), atol=1e-4)
    ids = pq.read_table(out)["request_id"].to_pylist()
    begins = ids[0].rpartition("-")[0]
    assert sorted(row["request_id"] for row in logged(served, begins)) == sorted(ids), "and none is there twice"
    before = out.stat().st_mtime_ns
    assert score(served, task, [str(tmp_path / "rows.npy")], out) == Scored(120, 120, ()), "it is done"
    assert out.stat().st_mtime_ns == before


def test_a_removed_file_is_scored_anew_and_the_log_has_both(served, task, inputs, tmp_path, small):
    np.save(tmp_path / "rows.npy", inputs)
    out, ids = tmp_path / "out.parquet", list[str]()
    for _ in range(2):
        assert score(served, task, [str(tmp_path / "rows.npy")], out) == Scored(40, 0, ())
        ids += pq.read_table(out)["request_id"].to_pylist()
        out.unlink()
    assert len(set(ids)) == 80, "an id says which asking it was"
    rows = {row["request_id"]: row for row in logged(served, ids[0].rpartition("-")[0].rpartition("-")[0])}
    assert sorted(rows) == sorted(ids) and len({row["unit"] for row in rows.values()}) == 1, "one arm for both"
    assert max(rows[name]["asked_at"] for name in ids[:40]) < min(rows[name]["asked_at"] for name in ids[40:])
    assert missing_ids(served) == []


class Crash(BaseException):
    """The process is gone."""


@pytest.mark.parametrize(("place", "removed", "before"), [
    ("rename", False, 40), ("remove", False, 40), ("remove", True, 0)
])  # fmt: skip
def test_a_crash_around_the_rename_of_the_output(served, task, inputs, tmp_path, small, place, removed, before):
    np.save(tmp_path / "rows.npy", inputs)
    out = tmp_path / "out.parquet"

    def hook(operation, path):
        if operation == place and path.name in ("out.parquet", ".out.parquet.pieces"):
            raise Crash

    with durable.inject(hook), pytest.raises(Crash):
        score(served, task, [str(tmp_path / "rows.npy")], out)
    first = pq.read_table(tmp_path / ".out.parquet.pieces" / "000000000000.parquet")["request_id"].to_pylist()
    assert out.exists() == (place == "remove")
    if removed:
        out.unlink()
    assert score(served, task, [str(tmp_path / "rows.npy")], out) == Scored(40, before, ()), "nothing was given up"
    ids = pq.read_table(out)["request_id"].to_pylist()
    assert ids[0] != first[0] if removed else ids[: len(first)] == first, "a removed file is asked for anew"
    assert list(tmp_path.glob(".*")) == []


def test_an_unfinished_run_of_an_older_version_goes_on_under_its_names(
    served, task, inputs, tmp_path, small, monkeypatch
):
    np.save(tmp_path / "rows.npy", inputs)
    out, folder = tmp_path / "out.parquet", tmp_path / ".out.parquet.pieces"
    with monkeypatch.context() as patch:
        patch.setattr(bulk_pieces.Pieces, "finish", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left")))
        with pytest.raises(OSError, match="No space left"):
            score(served, task, [str(tmp_path / "rows.npy")], out)
    about = durable.read_json(folder / "inputs.json")
    del about["run"]
    durable.write_json(folder / "inputs.json", about)
    (folder / "000000000032.parquet").unlink()
    assert score(served, task, [str(tmp_path / "rows.npy")], out) == Scored(40, 32, ())
    ids = pq.read_table(out)["request_id"].to_pylist()
    assert ids[32].rpartition("-")[0] == ids[0].rpartition("-")[0].rpartition("-")[0], "an older one had no suffix"


def test_a_folder_without_a_piece_is_no_run_that_was_given_up(tmp_path):
    for digest, piece in (("one", False), ("two", True), ("three", False)):
        pieces = bulk_pieces.Pieces(tmp_path / "out.parquet", digest)
        assert pieces.begin()[1] == (digest == "three")
        if piece:
            pieces.put(0, pa.table({"input": ["x"]}))
            assert pieces.has(0)


def test_other_inputs_begin_anew(served, task, inputs, tmp_path, small, monkeypatch):
    np.save(tmp_path / "rows.npy", inputs)
    out = tmp_path / "out.parquet"
    with monkeypatch.context() as patch:
        patch.setattr(bulk_pieces.Pieces, "finish", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left")))
        with pytest.raises(OSError, match="No space left"):
            score(served, task, [str(tmp_path / "rows.npy")], out)
    np.save(tmp_path / "rows.npy", inputs[:20])
    assert score(served, task, [str(tmp_path / "rows.npy")], out) == Scored(20, 0, (), anew=True)
    np.testing.assert_allclose(answers(out), reference(inputs[:20], 0), atol=1e-4)
    assert list(tmp_path.glob(".*")) == []


def test_a_server_that_is_killed_meanwhile(served, task, inputs, tmp_path, small):
    np.save(tmp_path / "rows.npy", np.concatenate([inputs] * 40))
    state = TritonServer(served.home).start()
    killer = threading.Thread(target=lambda: (time.sleep(0.1), os.kill(state.pid, signal.SIGKILL)))
    killer.start()
    scored = score(served, task, [str(tmp_path / "rows.npy")], tmp_path / "out.parquet")
    killer.join()
    assert scored == Scored(1600, 0, ())
    np.testing.assert_allclose(
        answers(tmp_path / "out.parquet"), reference(np.concatenate([inputs] * 40), 0), atol=1e-4
    )
    anew = TritonServer(served.home).state()
    assert anew and anew.pid != state.pid
    assert missing_ids(served) == []


class Answers:
    """A caller that answers with zeros, or not."""

    def __init__(self, refuse):
        self.refuse = refuse

    def __call__(self, rows, request_id=""):
        self.refuse(rows)
        return np.zeros((len(rows), 2), np.float32)

    def close(self):
        pass


def test_a_row_that_the_router_refuses_is_found_among_the_others(served, task, inputs, tmp_path, monkeypatch):
    marked = inputs.copy()
    marked[[3, 30]] = 7

    def refuse(rows):
        if (rows == 7).all(axis=(1, 2, 3)).any():
            raise InferenceServerException("found 7 everywhere", "StatusCode.INVALID_ARGUMENT")

    monkeypatch.setattr(Caller, "of", classmethod(lambda *_: Answers(refuse)))
    monkeypatch.setattr(bulk, "acknowledge", lambda *_: None)  # no router has these answers in its log
    np.save(tmp_path / "rows.npy", marked)
    scored = score(served, task, [str(tmp_path / "rows.npy")], tmp_path / "out.parquet")
    assert scored.rows == 38
    assert scored.failed == tuple((f"{tmp_path}/rows.npy[{row}]", "found 7 everywhere") for row in (3, 30))


def test_without_answers_it_stops_and_keeps_what_was_scored(served, task, inputs, tmp_path, small, monkeypatch):
    calls = []

    def refuse(rows):
        calls.append(len(rows))
        if len(calls) > 6:
            raise InferenceServerException("no room for the log", "StatusCode.UNAVAILABLE")

    monkeypatch.setattr(repair, "ensure_served", lambda *_: None)
    np.save(tmp_path / "rows.npy", np.concatenate([inputs] * 3))
    with monkeypatch.context() as patch:
        patch.setattr(Caller, "of", classmethod(lambda *_: Answers(refuse)))
        patch.setattr(bulk, "acknowledge", lambda *_: None)
        with pytest.raises(PredictError, match=r"found no answer to bulk-.* 3 tries \(no room for the log\); .*kept"):
            score(served, task, [str(tmp_path / "rows.npy")], tmp_path / "out.parquet")
    scored = score(served, task, [str(tmp_path / "rows.npy")], tmp_path / "out.parquet")
    assert scored.rows == 120


def test_two_runs_into_one_file(served, task, inputs, tmp_path):
    np.save(tmp_path / "rows.npy", inputs)
    out, refused = tmp_path / "out.parquet", pytest.raises(PredictError, match="found another `dlp predict` writing")
    with bulk_pieces.alone(served.home, out), refused:
        score(served, task, [str(tmp_path / "rows.npy")], out)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.npy", b"none", r"found .*a\.npy: .*expected an array of numbers as numpy saves it"),
        ("a.parquet", b"none", r"found .*a\.parquet: .*expected a list of files with the column path"),
        ("a.csv", b"path,x\n,1\n", r"found .*a\.csv: '' in row 1 of the column path, where a text names a file"),
        ("a.jsonl", b'{"path": "x"}\n\n{"path": 7}\n', r"a\.jsonl: the number 7 in line 3 of the column path, where"),
        ("a.jsonl", b'{"path": true}\n', r"found .*a\.jsonl: True in line 1 of the column path, where a text names"),
        ("a.jsonl", b'{"path": null}\n', r"found .*a\.jsonl: None in line 1 of the column path, where a text names"),
        ("a.jsonl", b'"x"\n', r"found .*a\.jsonl: no path in line 1; expected a list of files with the column path"),
        ("a.ndjson", b"{path\n", r"found .*a\.ndjson: no JSON in line 1 \(.*\); expected a list of files with the"),
        ("a.csv", b"path\n", r"found nothing to predict in .*a\.csv; expected files, folders, lists or arrays"),
    ],
)
def test_lists_and_arrays_that_cannot_be_used(task, tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(PredictError, match=message):
        find_inputs(task, [str(tmp_path / name)])


def test_numbers_of_a_parquet_list_name_no_file(task, tmp_path):
    columns = ("the number 3 in row 1", [3, 4]), ("the number 1.5 in row 1", [1.5]), ("None in row 2", ["a", None])
    for told, column in columns:
        pq.write_table(pa.table({"path": column}), tmp_path / "a.parquet")
        told = rf"a\.parquet: {told} of the column path, where a text names a file"
        with pytest.raises(PredictError, match=told):
            find_inputs(task, [str(tmp_path / "a.parquet")])
    pq.write_table(pa.table({"path": [3]}), tmp_path / "a.parquet")
    with pytest.raises(PredictError, match=r'number of a row\? .*; a file that is called 3 is the text "3"\)'):
        find_inputs(task, [str(tmp_path / "a.parquet")])


def test_lists_name_files_beside_them(task, tmp_path):
    (tmp_path / "a.jsonl").write_text('{"path": "3", "x": 1}\n\n{"path": "sub/4.png"}\n')
    table = pa.table({"path": pa.array(["3", "sub/4.png"]).dictionary_encode()})
    pq.write_table(table, tmp_path / "a.parquet")
    (tmp_path / "a.csv").write_text("path\n3\nsub/4.png\n")
    for name in ("a.jsonl", "a.parquet", "a.csv"):
        found = find_inputs(task, [str(tmp_path / name)])
        assert [found.name(place) for place in range(len(found))] == [f"{tmp_path}/3", f"{tmp_path}/sub/4.png"], name


def test_arrays_of_another_kind(task, tmp_path, served, inputs):
    np.save(tmp_path / "a.npy", inputs.astype(np.float32))
    with pytest.raises(PredictError, match=r"a\.npy: found inputs of float32 \[40, 8, 8, 1\]; expected uint8"):
        find_inputs(task, [str(tmp_path / "a.npy")])
    pq.write_table(pa.table({"file": ["a"]}), tmp_path / "a.parquet")
    with pytest.raises(PredictError, match="no column path"):
        find_inputs(task, [str(tmp_path / "a.parquet")])
    np.save(tmp_path / "b.npy", inputs)
    with pytest.raises(PredictError, match="found no folder for"):
        score(served, task, [str(tmp_path / "b.npy")], tmp_path / "none" / "out.parquet")
