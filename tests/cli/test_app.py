"""The commands as a user types them: what `--help` lists, and that wrong input is a sentence and exit code 2."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dl_pipelines.cli.run import STAGES
from tests.small import small, write

COMMANDS = (
    "doctor",
    "run",
    "backfill",
    "status",
    "report",
    "verify",
    "serve",
    "predict",
    "labels",
    "stop",
    "gc",
    "mpijob",
    "ui",
    "brief",
)
AB = {"name": "image_classification", "params": {"classes": ["a", "b"], "height": 8, "width": 8, "channels": 1}}


def images(folder: Path, count: int, *classes: str) -> Path:
    """Folders of `count` small images that differ."""
    draw = np.random.default_rng(0)
    for name in classes:
        (folder / name).mkdir(parents=True)
        for number in range(count):
            Image.fromarray(draw.integers(0, 256, (8, 8), np.uint8)).save(folder / name / f"{number:03}.png")
    return folder


def of_folder(place: Path, folder: Path) -> Path:
    """A brief of the classes a and b in a folder of images."""
    source = {"name": "image_folder", "params": {"path": str(folder)}}
    brief = small(problem={"task": AB}, data={"source": source}, monitoring={"traffic": "clients"})
    return write(place / "briefs", brief)


def squeezed(text: str) -> str:
    """Without spaces, line ends and frames: a long path is broken wherever the frame is full."""
    return re.sub(r"[\s│]", "", text)


def plain(text: str) -> str:
    """What was said, without the frame around it."""
    return " ".join(text.replace("│", " ").split())


def test_help_lists_every_command(real):
    said = real("--help")
    assert said.code == 0
    listed = said.out.partition("Commands:")[2]
    assert [name for name in COMMANDS if f"\n  {name} " in listed] == list(COMMANDS)
    assert "0 targets met (or done), 3 a target missed, 2 the user's input is wrong, 1 anything else" in plain(said.out)


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_explains_itself(dlp, command):
    said = dlp(command, "--help")
    assert said.code == 0
    assert said.out.startswith(f"Usage: dlp {command}")


def test_a_brief_is_checked(dlp, brief):
    said = dlp("brief", "check", brief)
    assert (said.code, said.err) == (0, "")
    assert said.out == f"{brief}: small is valid: image_classification, source digits, 1 targets\n"


def test_every_problem_of_a_wrong_brief_is_told_at_once(dlp, tmp_path):
    path = write(tmp_path, small(training={"epochs": 0}, distributed={"worker": 2}))
    said = dlp("brief", "check", path)
    assert (said.code, said.out) == (2, "")
    lines = said.err.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith(f"error: {path}:") and "training.epochs: found 0; expected" in lines[0]
    assert "distributed.worker: found 'worker'" in lines[1] and lines[1].endswith("(did you mean 'workers'?)")


def test_the_schema_is_json(dlp):
    said = dlp("brief", "schema")
    assert said.code == 0
    assert json.loads(said.out)["title"] == "A brief of dl-pipelines"


def test_a_new_brief_is_written_once(dlp, tmp_path):
    said = dlp("brief", "new", "mine", "--folder", tmp_path)
    assert said.code == 0
    path = tmp_path / "mine.yaml"
    assert said.out == f"wrote {path}; change it, then: dlp brief check {path}\n"
    assert dlp("brief", "check", path).code == 0
    again = dlp("brief", "new", "mine", "--folder", tmp_path)
    assert again.code == 2
    assert again.err == f"error: found {path} already; expected a new name; nothing was overwritten\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--until", "trained"), f"found --until 'trained'; expected one of {', '.join(STAGES)}"),
        (("--date", "yesterday"), "found --date 'yesterday'; expected YYYY-MM-DD"),
        (("--date", ""), "found --date ''; expected YYYY-MM-DD"),
        (
            ("--date", "2025-12-31"),
            "found no records of small on 2025-12-31; expected a day with records (from 2026-01-01 to 2026-01-04)",
        ),
        (
            ("--experiment", "wide"),
            "found no experiment 'wide' of small; expected one of base; make it with --set path=value",
        ),
        (
            ("--set", "training.epoch=3"),
            "--set: training.epoch: found 'epoch'; expected one of accumulate, batch_size, checkpoint_steps, "
            "class_weights, clip, compile, device, ema, epochs, label_smoothing, learning_rate, loss, optimizer, "
            "patience, precision, schedule, search, seed, warm_epochs, warmup_epochs, weight_decay (did you "
            "mean 'epochs'?)",
        ),
        (("--set", "training.epochs=none"), "--set: training.epochs: found 'none'; expected "),
        (("--set", "epochs"), "--set: brief: found 'epochs'; expected path=value, such as training.epochs=20"),
        (("--set", "data.window_days=3"), "--set: data.window_days: expected a field outside "),
        (
            ("--experiment", "base", "--set", "training.epochs=3"),
            "found overrides for 'base'; expected none; give another --experiment",
        ),
    ],
)  # fmt: skip
def test_a_wrong_argument_of_a_run(dlp, brief, tmp_path, arguments, said):
    found = dlp("run", brief, *arguments, "--home", tmp_path / "home", "--json")
    assert (found.code, found.out) == (2, "")
    assert found.err.startswith(f"error: {said}")
    assert len(found.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("first", "last", "said"),
    [
        ("2026-01-03", "2026-01-02", "found no records of small from 2026-01-03 to 2026-01-02; expected days with "
         "records (from 2026-01-01 to 2026-01-04), --from before --to"),
        ("2026-02-01", "2026-02-03", "found no records of small from 2026-02-01 to 2026-02-03; expected days with "
         "records (from 2026-01-01 to 2026-01-04), --from before --to"),
        ("", "2026-02-03", "found --from ''; expected YYYY-MM-DD"),
    ],
)  # fmt: skip
def test_wrong_days_of_a_backfill(dlp, brief, tmp_path, first, last, said):
    found = dlp("backfill", brief, "--from", first, "--to", last, "--home", tmp_path / "home")
    assert (found.code, found.out, found.err) == (2, "", f"error: {said}\n")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (
            {"problem": {"task": "translation"}},
            "problem.task.name: found 'translation'; expected one of forecasting, image_classification",
        ),
        (
            {"architecture": {"family": "resnet"}},
            "architecture.family.name: found 'resnet'; expected one of autoencoder, cnn, cnn_lstm, conv_attention, "
            "gan, gru, lstm_attention, nhits, patch_transformer, rnn_rows, tcn, vit",
        ),
        (
            {"data": {"source": "digit"}},
            "expected one of demand, digits, image_folder, series_files, sql, statsmodels_series (did you "
            "mean 'digits'?)",
        ),
    ],
)
def test_what_does_not_exist_is_answered_with_what_does(dlp, tmp_path, changed: dict[str, Any], said):
    found = dlp("run", write(tmp_path, small(**changed)), "--home", tmp_path / "home")
    assert (found.code, found.out) == (2, "")
    assert said in found.err
    assert not (tmp_path / "home").exists()


def test_a_file_that_is_no_brief(dlp, tmp_path):
    gone, binary = tmp_path / "gone.yaml", tmp_path / "binary.yaml"
    binary.write_bytes(b"\xff\xfe\x00")
    said = dlp("run", gone, "--home", tmp_path / "home")
    assert (said.code, said.out) == (2, "")
    assert said.err == f"error: {gone}: brief: found No such file or directory; expected a readable YAML file\n"
    assert dlp("run", binary, "--home", tmp_path / "home").code == 2


def test_a_home_that_cannot_be_written(dlp, brief, tmp_path):
    file = tmp_path / "file"
    file.write_text("in the way")
    said = dlp("run", brief, "--home", file)
    assert (said.code, said.out) == (2, "")
    assert said.err == (
        f"error: found Not a directory at {file}; expected a folder that can be written; give another with --home or "
        "DLP_HOME\n"
    )


def test_a_source_without_images(dlp, tmp_path):
    nowhere, empty, file = (tmp_path / name for name in ("nowhere", "empty", "file"))
    empty.mkdir()
    file.write_text("no folder")
    expected = {
        nowhere: f"found nothing at {nowhere}; expected a folder with one folder a class",
        empty: f"found no PNG or JPEG below {empty}; expected {empty}/CLASS/FILE.png",
        file: f"found a file at {file}; expected a folder with one folder a class",
    }
    for folder, said in expected.items():
        found = dlp("run", of_folder(tmp_path, folder), "--home", tmp_path / "home", "--json")
        assert (found.code, found.out) == (2, "")
        assert found.err.startswith(f"error: {said}")


@pytest.mark.parametrize(
    ("count", "classes", "stage", "said"),
    [
        (40, ("a",), "training_window", "1 of 1 days; found 1 class (a) in the train split; expected at least two"),
        (1, ("a",), "training_window", "1 of 1 days; no records in validation, test: more records, or other shares in "
         "data.split; found 1 class (a) in the train split"),
        (3, ("cat", "dog"), "raw_data", "found the classes cat, dog in {folder}; expected some of a, b; rename the "
         "folders, or list the classes in problem.task.params.classes"),
        (9, ("a", "b", "dog"), "validated_data", "33.3% of the records are quarantined, at most 5.0%; the first: "
         "dog/000.png: the class 'dog' is none of a, b"),
    ],
    ids=["one class", "one record", "no class of the brief", "a class too many"],
)  # fmt: skip
def test_records_that_nothing_can_be_trained_on(dlp, tmp_path, count, classes, stage, said):
    folder, home = images(tmp_path / "images", count, *classes), tmp_path / "home"
    found = dlp("run", of_folder(tmp_path, folder), "--home", home, "--json")
    assert found.code == 2
    (failure,) = found.json["failures"]
    assert failure["asset"] == stage
    assert said.format(folder=folder) in failure["message"]
    assert squeezed(failure["message"]) in squeezed(found.err), "the frame cut it"
    assert found.json["verdict"] == "blocked" and found.json["report"] is None
    assert "trained_model" not in [item["asset"] for item in found.json["stages"]]
    assert not (home / "artifacts" / "small" / "trained_model").exists()


def test_files_that_are_no_images(dlp, tmp_path):
    folder = images(tmp_path / "images", 2, "a", "b")
    for path in folder.rglob("*.png"):
        path.write_bytes(b"no image")
    found = dlp("run", of_folder(tmp_path, folder), "--home", tmp_path / "home")
    assert found.code == 2
    assert (
        "0 records read, 4 unreadable; the first: a/000.png: not a readable PNG or JPEG: cannot identify image file it"
        in plain(found.err)
    )


def test_labels_out_of_range(dlp, tmp_path):
    task = {"name": "image_classification", "params": {"classes": [0, 1, 2], "height": 8, "width": 8, "channels": 1}}
    path = write(tmp_path, small(problem={"task": task}))
    found = dlp("run", path, "--date", "2026-01-01", "--home", tmp_path / "home", "--json")
    assert found.code == 2
    (failure,) = found.json["failures"]
    assert failure["asset"] == "validated_data"
    assert "label_range (2026-01-01): label from 0 to 2: found 426 of 600 otherwise " in failure["message"]


def test_a_project_that_is_not_there(dlp, tmp_path):
    home = tmp_path / "home"
    for command in (("serve", "nothing"), ("predict", "nothing", "a.png")):
        said = dlp(*command, "--home", home)
        assert (said.code, said.out) == (2, "")
        assert said.err == (
            f"error: found no project 'nothing' in {home}; expected one of demand, digits; run `dlp run` for its brief "
            "first\n"
        )
    said = dlp("report", "nothing", "--home", home)
    assert said.code == 2
    assert said.err == (
        "error: found no report of nothing for any day and base; expected a project with reports (none yet); run `dlp "
        "run` for its brief\n"
    )


def test_a_new_home_has_nothing(dlp, tmp_path):
    home = tmp_path / "home"
    assert dlp("status", "--home", home).out == (
        f"home {home}; server not running\nno project yet: dlp run briefs/digits.yaml\n"
    )
    found = dlp("status", "--home", home, "--json").json
    assert found == {"home": str(home), "server": None, "server_gone": "", "projects": []}
    assert dlp("stop", "--home", home).out == "no server was running\n"
    assert dlp("gc", "--home", home).out == "0 removed\n"
    said = dlp("serve", "digits", "--home", home)
    assert (said.code, said.out) == (1, "")
    assert said.err == "error: found nothing published for digits; expected a champion; run `dlp run` for its brief\n"


def test_a_day_before_the_start_has_no_records(dlp, tmp_path):
    path = write(tmp_path, small(data={"start": "2026-01-02"}))
    said = dlp("run", path, "--date", "2026-01-01", "--home", tmp_path / "home")
    assert said.code == 2
    assert "expected a day with records (from 2026-01-02 to 2026-01-04)" in said.err


def test_long_lists_of_an_answer_are_shortened():
    from dl_pipelines.cli.predict import shortened

    assert shortened([1, 2, 3, 4, 5]) == [1, 2, 3, 4, 5]
    assert shortened([1.5, 2, 3, 4, 5, 6]) == "[1.5, 2, 3, ..., 6] (6 values)"
    assert shortened("a class") == "a class"
