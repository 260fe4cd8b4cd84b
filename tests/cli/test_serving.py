"""`dlp serve`, `predict`, `stop`: a server that outlives its command, one that is killed, files that are no images."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest
from PIL import Image

from dl_pipelines.cli import report as lines
from dl_pipelines.serving.server import TritonServer
from dl_pipelines.store.home import Home

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> list[str]:
    """Digits as files: PNG, JPEG, and one of another size and colours."""
    from sklearn.datasets import load_digits

    folder, found = tmp_path_factory.mktemp("pictures"), load_digits()
    grey = (found.images[:30] * (255 / 16)).round().astype(np.uint8)
    paths = [folder / f"{number}.png" for number in range(28)] + [folder / "a.jpg", folder / "large.png"]
    for path, pixels in zip(paths, grey, strict=True):
        image = Image.fromarray(pixels)
        (image.convert("RGB").resize((32, 32)) if path.name == "large.png" else image).save(path)
    return [str(path) for path in paths]


def test_serve_predict_a_killed_server_and_stop(copy, dlp, real, pictures):
    said = real("serve", "small", "--home", copy)
    assert said.code == 0, said.err
    state = TritonServer(Home(copy)).state()
    assert state is not None and psutil.pid_exists(state.pid), "it outlives the command"
    champion = lines.status_of(Home(copy))["projects"][0]["champion"]["model"]
    assert said.out == (
        f"small serves {champion}: http://127.0.0.1:{state.http}/v2/models/small/infer, gRPC 127.0.0.1:{state.grpc} "
        "(model small)\n"
    )
    connections = psutil.Process(state.pid).net_connections("tcp")
    listening = {entry.laddr.ip.removeprefix("::ffff:") for entry in connections if entry.status == "LISTEN"}
    assert listening == {"127.0.0.1"}

    answered = dlp("predict", "small", *pictures, "--home", copy, "--json")
    assert answered.code == 0
    predictions = answered.json["predictions"]
    assert [item["file"] for item in predictions] == pictures
    assert len({item["request_id"] for item in predictions}) == len(pictures)
    right = sum(str(item["label"]) == str(number % 10) for number, item in enumerate(predictions[:20]))
    assert right >= 10, "scikit-learn's first digits are 0 to 9, twice"
    told = dlp("predict", "small", pictures[0], "--home", copy)
    assert told.out.startswith(f"{pictures[0]}: request_id predict-")
    bulk(dlp, copy, pictures, [item["label"] for item in predictions])
    assert TritonServer(Home(copy)).state() == state, "predict leaves the kept server"

    killer = threading.Thread(target=lambda: (time.sleep(0.4), os.kill(state.pid, signal.SIGKILL)))
    killer.start()
    asked = 0
    while killer.is_alive() or asked < 3:
        during = dlp("predict", "small", *pictures, "--home", copy, "--json")
        assert during.code == 0, during.err
        assert [item["label"] for item in during.json["predictions"]] == [item["label"] for item in predictions]
        asked += 1
    killer.join()
    anew = TritonServer(Home(copy)).state()
    assert anew is not None and anew.pid != state.pid and anew.kept
    assert dlp("stop", "--home", copy).out == "the server has ended\n"
    assert not psutil.pid_exists(anew.pid) or psutil.Process(anew.pid).status() == psutil.STATUS_ZOMBIE
    assert dlp("status", "--home", copy, "--json").json["server"] is None


def bulk(dlp, copy, pictures, labels):
    """The same pictures into a file: by a list of them, one of which is no picture."""
    folder = Path(pictures[0]).parent
    broken = folder / "broken.txt"
    broken.write_text("no image")
    listed, out = copy / "list.csv", copy / "out.parquet"
    listed.write_text("path\n" + "\n".join([*pictures, str(broken)]) + "\n")
    said = dlp("predict", "small", listed, "--out", out, "--home", copy, "--json")
    assert said.code == 1, said.err
    assert said.json | {"failed": None} == {"out": str(out), "rows": len(pictures), "before": 0, "failed": None}
    assert list(said.json["failed"]) == [str(broken)]
    assert f"{broken}: found {broken}: not a readable PNG" in said.err
    assert f"{out}: {len(pictures)} answers; 1 inputs without one" in said.err
    rows = pq.read_table(out).to_pylist()
    assert [row["input"] for row in rows] == [*pictures, str(broken)]
    assert [json.loads(row["answer_json"])["label"] for row in rows[:-1]] == labels
    once_more = dlp("predict", "small", listed, "--out", out, "--home", copy, "--json")
    assert (once_more.code, once_more.json) == (1, said.json | {"before": len(pictures)}), "and says so again"
    again = dlp("predict", "small", *pictures, "--out", out, "--home", copy)
    assert (again.code, again.out) == (0, "")


def test_a_port_in_use(copy, dlp):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        for option in ("--http", "--grpc"):
            said = dlp("serve", "small", option, port, "--home", copy)
            assert (said.code, said.out) == (1, "")
            assert said.err.startswith(f"error: found port {port} of 127.0.0.1 in use (Address already in use); ")
            assert "give another port with --http or --grpc" in said.err
        ui = dlp("ui", "--port", port, "--home", copy)
        assert (ui.code, ui.out) == (2, "")
        assert ui.err == (
            f"error: found port {port} of 127.0.0.1 in use (Address already in use); expected a free one; give --port\n"
        )
    assert TritonServer(Home(copy)).state() is None


def test_the_ui_says_where_it_will_be(tmp_path, dlp, monkeypatch):
    monkeypatch.setattr("dl_pipelines.cli.ui.die_with_parent", lambda: ["true"])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    said = dlp("ui", "--port", port, "--home", tmp_path)
    assert said.code == 0
    assert f"Dagster's UI will be at http://127.0.0.1:{port} (half a minute); Ctrl-C ends it\n" in said.err


def test_what_is_for_many_is_said_to_need_a_file(tmp_path, dlp):
    for path in (tmp_path, tmp_path / "rows.npy"):
        said = dlp("predict", "small", path, "--home", tmp_path)
        assert (said.code, said.out) == (2, "")
        assert said.err == (f"error: found {path}; expected single files: folders and arrays need --out FILE.parquet\n")


def test_a_file_that_is_no_image(copy, dlp, tmp_path, pictures):
    text = tmp_path / "text.png"
    text.write_text("no image")
    for path, reason in (
        (text, "not a readable PNG or JPEG: cannot identify image file it"),
        (
            tmp_path / "gone.png",
            f"not a readable PNG or JPEG: [Errno 2] No such file or directory: '{tmp_path}/gone.png'",
        ),
    ):
        said = dlp("predict", "small", pictures[0], path, "--home", copy, "--json")
        assert (said.code, said.out) == (2, "")
        assert said.err == f"error: found {path}: {reason}; expected an image file; give another\n"
    assert TritonServer(Home(copy)).state() is None, "nothing was started for it"
