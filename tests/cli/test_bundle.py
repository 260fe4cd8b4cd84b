"""`dlp bundle` as a user types it, on a home that was run: the digits, from the trained network to every target."""

import json

import numpy as np
import pytest

from dl_pipelines.store.artifacts import MANIFEST, Artifact
from dl_pipelines.store.digest import digest_file, digest_json
from tests.small import small, write

DAY = "2026-01-03"


@pytest.mark.parametrize("target", ["edge", "mobile", "embedded", "cloud"])
def test_every_target_of_the_digits(dlp, made, tmp_path, target):
    said = dlp("bundle", "small", "--target", target, "--out", tmp_path / target, "--home", made.home, "--json")
    assert said.code == 0, said.err
    answer = said.json
    assert (answer["bundle"], answer["path"], answer["made"]) == (target, str(tmp_path / target), True)
    assert answer["asked"]["partition"] == f"{DAY}|base"
    assert all(check["passed"] and check["rows"] >= 32 for check in answer["parity"])
    assert json.loads((tmp_path / target / "manifest.json").read_text())["digest"] == answer["digest"]
    assert "bundle: " in said.err
    again = dlp("bundle", "small", "--target", target, "--out", tmp_path / target, "--home", made.home, "--json")
    assert (again.json["made"], again.json["digest"]) == (False, answer["digest"])


def test_it_goes_into_the_home_and_says_where(dlp, copy):
    said = dlp("bundle", "small", "--target", "mobile", "--date", "2026-01-02", "--home", copy)
    assert said.code == 0, said.err
    folder = copy / "bundles" / "small" / "2026-01-02_base" / "mobile"
    assert said.out.strip() == str(folder)
    assert (folder / "README.md").is_file()
    assert "mobile bundle of small 2026-01-02|base" in said.err
    assert "precision: fp32 (the served file)" in said.err


def test_a_model_that_answers_otherwise_is_refused_and_not_written(dlp, copy, tmp_path):
    for outputs in (copy / "artifacts" / "small" / "compressed_model").glob("*/outputs_validation.npy"):
        np.save(outputs, np.load(outputs) + np.float32(0.75))
        resign(outputs.parent)
    said = dlp("bundle", "small", "--target", "edge", "--out", tmp_path / "out", "--home", copy)
    assert said.code == 1
    assert "the edge bundle would answer otherwise than the model that serves" in said.err
    assert "largest difference 7.50e-01" in said.err
    assert not (tmp_path / "out").exists()


def resign(folder):
    """Make a changed artifact whole again, digest and all: as if it had been made so."""
    path = folder / MANIFEST
    manifest = json.loads(path.read_text())
    manifest.pop("digest")
    manifest["files"]["outputs_validation.npy"] = digest_file(folder / "outputs_validation.npy")
    path.write_text(json.dumps({**manifest, "digest": digest_json(manifest)}))
    Artifact.open(folder).verify()


def test_a_damaged_model_is_refused(dlp, copy, tmp_path):
    for path in (copy / "artifacts" / "small" / "compressed_model").glob("*/model/model.onnx"):
        path.write_bytes(b"damaged")
    said = dlp("bundle", "small", "--target", "edge", "--out", tmp_path / "out", "--home", copy)
    assert said.code == 1
    assert "found model/model.onnx of compressed_model" in said.err
    assert not (tmp_path / "out").exists()


def test_bad_input_is_a_sentence(dlp, made, tmp_path):
    place = ("--home", made.home, "--out", tmp_path / "out")
    said = dlp("bundle", "small", "--target", "moon", *place)
    assert (said.code, said.out) == (2, "")
    assert "found the target 'moon'; expected one of edge, mobile, embedded, cloud" in said.err
    said = dlp("bundle", "small", "--target", "edge", "--date", "2025-01-01", *place)
    assert said.code == 2
    assert "found no compressed model of small for 2025-01-01 and base; expected one of 2026-01-01|base" in said.err
    said = dlp("bundle", "small", "--target", "edge", "--experiment", "none", *place)
    assert said.code == 2
    assert "found no experiment 'none' of small" in said.err
    said = dlp("bundle", "small", "--target", "cloud", "--triton-image", "tritonserver", *place)
    assert said.code == 2
    assert "found --triton-image 'tritonserver'; expected an image with a tag" in said.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (("--image", "a:1"), "found --image with --target edge; expected it with --target cloud"),
        (("--memory", "4Gi"), "found --memory with --target edge; expected it with --target cloud"),
        (("--triton-image", "b:2", "--image", "a:1"), "found --triton-image, --image with --target edge; expected"),
    ],
)
def test_what_only_the_cloud_takes_is_not_ignored(dlp, tmp_path, given, told):
    write(tmp_path / "home" / "briefs", small())
    said = dlp("bundle", "small", "--target", "edge", *given, "--home", tmp_path / "home")
    assert said.code == 2
    assert told in said.err


def test_a_folder_of_the_users_stays(dlp, made, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    said = dlp("bundle", "small", "--target", "mobile", "--out", tmp_path / "out", "--force", "--home", made.home)
    assert said.code == 2
    assert "which is no bundle; expected a folder of its own" in said.err
    assert (tmp_path / "out" / "thesis.txt").read_text() == "mine"
