"""The rules of writing: parity first, manifest last, nothing half, nothing of the user's replaced."""

import json

import numpy as np
import pytest

from dl_pipelines.bundles import make
from dl_pipelines.bundles.base import Built, BundleError, BundleParityError
from dl_pipelines.bundles.make import differing, make_bundle
from dl_pipelines.store import durable
from dl_pipelines.store.artifacts import ArtifactError
from dl_pipelines.store.digest import digest_file, digest_json
from tests.bundles.conftest import FP32, INT8, make_compressed


@pytest.fixture
def quick(monkeypatch):
    """A target that writes one file and compares the recorded answers with themselves, moved by `quick.apart`."""

    class Quick:
        apart = 0.0
        built = 0

        def __call__(self, source, folder, work):
            self.built += 1
            (folder / "inside").mkdir()
            (folder / "inside" / "model.bin").write_bytes(b"model")
            check = source.check("itself", source.outputs, source.outputs + np.float32(self.apart))
            return Built((check,), {"answer": 42}, "Copy it.")

    quick = Quick()
    monkeypatch.setattr(make, "builder", lambda target: quick)
    return quick


def test_the_manifest_lists_every_file(quick, source_of, tmp_path):
    made = make_bundle(source_of(FP32), "edge", tmp_path / "out", tmp_path)
    assert made.made
    assert made.path == tmp_path / "out"
    manifest = json.loads((made.path / "manifest.json").read_text())
    assert manifest == made.manifest
    assert manifest["files"] == {
        name: digest_file(made.path / name) for name in ("README.md", "inside/model.bin")
    }  # fmt: skip
    assert manifest["source"]["digest"] == source_of(FP32).compressed.digest
    assert manifest["facts"] == {"answer": 42}
    assert manifest["digest"] == digest_json({key: value for key, value in manifest.items() if key != "digest"})
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["out"]


def test_the_readme_says_where_it_is_from(quick, source_of, tmp_path):
    source = source_of(FP32)
    text = (make_bundle(source, "edge", tmp_path / "out", tmp_path).path / "README.md").read_text()
    assert f"Made by `dlp bundle tiny --target edge` from the compressed model `{source.compressed.short}`" in text
    assert "| input | `image` | uint8 | [N, 8, 8, 1] |" in text
    assert "| itself | 32 rows: largest difference 0.00e+00" in text
    assert "Labels along the output: `dark`, `bright`." in text


def test_one_that_answers_otherwise_is_not_written(quick, source_of, tmp_path):
    quick.apart = 0.5
    told = (
        r"the edge bundle would answer otherwise .* itself: 32 rows: largest difference 5.00e-01.*nothing was written"
    )
    with pytest.raises(BundleParityError, match=told):
        make_bundle(source_of(FP32), "edge", tmp_path / "out", tmp_path)
    assert [path for path in tmp_path.iterdir() if path.is_dir()] == []


def test_the_same_is_found_again(quick, source_of, tmp_path):
    first = make_bundle(source_of(FP32), "edge", tmp_path / "out", tmp_path)
    again = make_bundle(source_of(FP32), "edge", tmp_path / "out", tmp_path)
    assert (again.made, again.manifest) == (False, first.manifest)
    assert quick.built == 1


def test_another_one_is_replaced_only_by_force(quick, source_of, tmp_path):
    make_bundle(source_of(FP32), "edge", tmp_path / "out", tmp_path)
    with pytest.raises(ValueError, match=r"found another bundle in .*out \(its partition, compressed_model differ\)"):
        make_bundle(source_of(INT8), "edge", tmp_path / "out", tmp_path)
    made = make_bundle(source_of(INT8), "edge", tmp_path / "out", tmp_path, force=True)
    assert made.manifest["source"]["variant"] == "int8"


def test_a_changed_one_is_told(quick, source_of, tmp_path):
    made = make_bundle(source_of(FP32), "edge", tmp_path / "out", tmp_path)
    (made.path / "inside" / "model.bin").write_bytes(b"other")
    (made.path / "notes.txt").write_text("mine")
    assert differing(made.path, made.manifest) == ["inside/model.bin", "notes.txt"]
    with pytest.raises(ValueError, match=r"changed since it was written \(inside/model.bin, notes.txt\)"):
        make_bundle(source_of(FP32), "edge", tmp_path / "out", tmp_path)
    assert make_bundle(source_of(FP32), "edge", tmp_path / "out", tmp_path, force=True).made


def test_a_changed_manifest_is_told(quick, source_of, tmp_path):
    made = make_bundle(source_of(FP32), "edge", tmp_path / "out", tmp_path)
    path = made.path / "inside" / "model.bin"
    path.write_bytes(b"other")
    manifest = {**made.manifest, "files": {**made.manifest["files"], "inside/model.bin": digest_file(path)}}
    (made.path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match=r"changed since it was written \(manifest\.json\); expected the files of"):
        make_bundle(source_of(FP32), "edge", tmp_path / "out", tmp_path)
    assert make_bundle(source_of(FP32), "edge", tmp_path / "out", tmp_path, force=True).made
    assert not make_bundle(source_of(FP32), "edge", tmp_path / "out", tmp_path).made


def test_a_folder_of_the_users_is_never_replaced(quick, source_of, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match="which is no bundle; expected a folder of its own"):
        make_bundle(source_of(FP32), "edge", tmp_path / "out", tmp_path, force=True)
    assert (tmp_path / "out" / "thesis.txt").read_text() == "mine"
    (tmp_path / "empty").mkdir()
    assert make_bundle(source_of(FP32), "edge", tmp_path / "empty", tmp_path).made


def test_a_crash_leaves_nothing_that_looks_finished(quick, source_of, tmp_path):
    def crash(operation, path):
        if operation == "rename":
            raise KeyboardInterrupt

    with durable.inject(crash), pytest.raises(KeyboardInterrupt):
        make_bundle(source_of(FP32), "edge", tmp_path / "out", tmp_path)
    assert not (tmp_path / "out").exists()
    (tmp_path / ".out.making").mkdir()  # what a killed process leaves
    (tmp_path / ".out.making" / "half").write_text("")
    made = make_bundle(source_of(FP32), "edge", tmp_path / "out", tmp_path)
    assert "half" not in made.manifest["files"]


@pytest.mark.parametrize("at", [1, 2, 3])
def test_a_crash_while_replacing_leaves_a_whole_bundle(quick, source_of, tmp_path, at):
    """Killed before the old one goes aside, between that and the new one's name, before the old one is removed."""
    out, left = tmp_path / "out", []
    old = make_bundle(source_of(FP32), "edge", out, tmp_path)

    def crash(operation, path):
        left.append((operation, path.name))
        if len(left) >= at:  # nothing more is done, as after a kill
            raise KeyboardInterrupt

    with durable.inject(only(crash)), pytest.raises(KeyboardInterrupt):
        make_bundle(source_of(INT8), "edge", out, tmp_path, force=True)
    assert left[-1][0] in ("rename", "remove")
    kept = FP32 if at < 3 else INT8
    again = make_bundle(source_of(kept), "edge", out, tmp_path)
    assert not again.made
    assert (again.manifest == old.manifest) is (at < 3)
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} <= {"out", ".out.making"}


def only(crash):
    """`crash`, of what replaces a bundle: not of writing files, nor of removing what was never there."""
    return lambda operation, path: crash(operation, path) if operation in ("rename", "remove") else None


def test_an_old_bundle_comes_back_where_the_new_one_can_not_take_its_place(quick, source_of, tmp_path):
    out = tmp_path / "out"
    old = make_bundle(source_of(FP32), "edge", out, tmp_path)
    made = []

    def fail(operation, path):
        if operation == "rename" and path == out and not made:
            made.append(path)
            raise OSError("no space left")

    with durable.inject(fail), pytest.raises(OSError, match="no space left"):
        make_bundle(source_of(INT8), "edge", out, tmp_path, force=True)
    assert make_bundle(source_of(FP32), "edge", out, tmp_path).manifest == old.manifest
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["out"]


def test_a_damaged_model_is_refused(quick, source_of, copied, tmp_path):
    path = copied.get("compressed_model", FP32).file("model/model.onnx")
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    with pytest.raises(ArtifactError, match=r"found model/model.onnx of compressed_model .* damaged"):
        source_of(FP32, within=copied)


def test_a_model_that_answers_otherwise_than_recorded_is_refused(source_of, copied, task, network, tmp_path):
    make_compressed(copied, FP32, task, network, shift=0.25)
    source = source_of(FP32, within=copied)
    for target in ("edge", "mobile"):
        with pytest.raises(BundleParityError, match=r"largest difference 2\.50e-01"):
            make_bundle(source, target, tmp_path / "out", tmp_path)
    assert not (tmp_path / "out").exists()


def test_recorded_answers_must_be_of_the_rows(source_of, workspace, monkeypatch):
    monkeypatch.setattr(np, "load", lambda *_, **__: np.zeros((3, 2), np.float32))
    with pytest.raises(BundleError, match=r"found 3 recorded answers for \d+ validation rows; expected as many"):
        source_of(FP32)


def test_a_target_that_is_not_there_is_told(source_of, tmp_path):
    with pytest.raises(ValueError, match="found the target 'moon'; expected one of edge, mobile, embedded, cloud"):
        make_bundle(source_of(FP32), "moon", tmp_path / "out", tmp_path)
