"""Files that no one should load: each is made here, refused, and the error names what was found."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from dl_pipelines.inference.model_files import ModelFileError, check_model_folder, model_hashes
from dl_pipelines.store.artifacts import Artifact, ArtifactError
from dl_pipelines.store.digest import digest_file

Spoil = Callable[[Path], None]


def listed(folder: Path) -> dict[str, str]:
    """What an artifact would list: the hashes of what lies there, so that only the content can be at fault."""
    return {path.name: digest_file(path) for path in sorted(folder.iterdir(), reverse=True) if path.is_file()}


def on_model(change: Callable[[onnx.ModelProto], object]) -> Spoil:
    """A fault inside the ONNX file."""

    def spoil(folder: Path) -> None:
        model = onnx.load(str(folder / "model.onnx"))
        change(model)
        (folder / "model.onnx").write_bytes(model.SerializeToString())

    return spoil


def on_xml(old: str, new: str) -> Spoil:
    """A fault inside the XML: the first place that matches is replaced."""

    def spoil(folder: Path) -> None:
        text = (folder / "model.xml").read_text()
        changed = re.sub(old, new, text, count=1, flags=re.DOTALL)
        assert changed != text
        (folder / "model.xml").write_text(changed)

    return spoil


def external(place: str) -> Spoil:
    """The largest weight is said to be in another file."""

    def change(model: onnx.ModelProto) -> None:
        tensor = max(model.graph.initializer, key=lambda item: len(item.raw_data))
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=place)
        tensor.ClearField("raw_data")

    return on_model(change)


def external_constant(model: onnx.ModelProto) -> None:
    """The same in the attribute of an operator inside a branch of another one."""
    tensor = numpy_helper.from_array(np.zeros(3, np.float32), "hidden")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="weights.bin")
    inner = helper.make_graph([helper.make_node("Constant", [], ["hidden"], value=tensor)], "branch", [], [])
    model.graph.node.append(helper.make_node("If", ["yes"], ["none"], then_branch=inner, else_branch=inner))


def large(model: onnx.ModelProto) -> None:
    """Sixteen bytes that become eight terabytes when the graph is loaded."""
    model.graph.initializer.append(numpy_helper.from_array(np.array([2**21, 2**20], np.int64), "sizes"))
    model.graph.node.append(helper.make_node("ConstantOfShape", ["sizes"], ["zeros"]))


def claimed(model: onnx.ModelProto) -> None:
    """A weight that says it has more values than the file holds."""
    del model.graph.initializer[0].dims[:]
    model.graph.initializer[0].dims.extend([1000, 1000])


def function(model: onnx.ModelProto) -> None:
    """An operator that the file defines itself."""
    opset = [helper.make_opsetid("", 18)]
    body = [helper.make_node("Relu", ["x"], ["y"])]
    model.functions.append(helper.make_function("", "Mine", ["x"], ["y"], body, opset))


def link(folder: Path) -> None:
    shutil.move(folder / "model.onnx", folder.parent / "elsewhere.onnx")
    (folder / "model.onnx").symlink_to(folder.parent / "elsewhere.onnx")


def pipe(folder: Path) -> None:
    (folder / "model.onnx").unlink()
    os.mkfifo(folder / "model.onnx")


def replaced(name: str, data: Callable[[bytes], bytes]) -> Spoil:
    def spoil(folder: Path) -> None:
        (folder / name).write_bytes(data((folder / name).read_bytes()))

    return spoil


def whole_folder(folder: Path) -> None:
    shutil.move(folder, folder.parent / "other")
    folder.symlink_to(folder.parent / "other", target_is_directory=True)


BOMB = "<!DOCTYPE net [<!ENTITY a 'aaaa'><!ENTITY b '&a;&a;&a;&a;&a;&a;'>]>"
STEALS = "<!DOCTYPE net [<!ENTITY file SYSTEM 'file:///etc/passwd'>]>"

CHANGED: dict[str, tuple[str, Spoil, str]] = {
    "another file's bytes": ("onnx", replaced("model.onnx", lambda data: data + b"\0"), "found sha256 "),
    "a link": ("onnx", link, "found a link in model.onnx; expected a plain file"),
    "a linked folder": ("onnx", whole_folder, "found a link in model; expected a folder"),
    "a pipe": ("onnx", pipe, "found a pipe in model.onnx; expected a plain file"),
    "one file more": ("onnx", lambda folder: (folder / "run.so").write_bytes(b"\x7fELF") and None,
                      "found the file run.so in model; expected only model.onnx"),
    "a folder inside": ("onnx", lambda folder: (folder / "weights").mkdir(), "found a folder in weights"),
    "one file less": ("ir", lambda folder: (folder / "model.bin").unlink(), "found no model.bin in model"),
    "too much of it": ("onnx", lambda folder: os.truncate(folder / "model.onnx", 2_000_000_001),
                       "found 2000000001 bytes in model.onnx; expected 1 to 2000000000"),
    "nothing in it": ("onnx", replaced("model.onnx", lambda _: b""), "found 0 bytes in model.onnx"),
}  # fmt: skip
"""What is there is not what an artifact lists."""

HOSTILE: dict[str, tuple[str, Spoil, str]] = {
    # Weights elsewhere.
    "external data beside it": ("onnx", external("weights.bin"), "in 'weights.bin', another file in model.onnx"),
    "external data above": ("onnx", external("../../secret"), "in '../../secret', outside its folder in model.onnx"),
    "external data anywhere": ("onnx", external("/etc/passwd"), "in '/etc/passwd', an absolute path in model.onnx"),
    "external data on Windows": ("onnx", external("C:\\\\secret"), "an absolute path in model.onnx"),
    "external data far away": ("onnx", external("http://example.org/w"), "in 'http://example.org/w', an address"),
    "external data in a branch": ("onnx", on_model(external_constant), "found external data of 'hidden'"),
    # Bytes that are not what they say.
    "half a file": ("onnx", replaced("model.onnx", lambda data: data[: len(data) // 2]), "no ONNX"),
    "a pickle": ("onnx", replaced("model.onnx", lambda _: b"cos\nsystem\n(S'id'\ntR."), "no ONNX"),
    "a claimed size": ("onnx", on_model(claimed), "of the 4000000 bytes or values that"),
    "a bomb of zeros": ("onnx", on_model(large), "found ConstantOfShape to the size [2097152, 1048576]"),
    # Code of others.
    "an operator of others": ("onnx", on_model(lambda model: setattr(model.graph.node[0], "domain", "ai.onnx.contrib")),
                              "of 'ai.onnx.contrib' in model.onnx"),
    "operators of others": ("onnx", on_model(lambda model: model.opset_import.append(helper.make_opsetid("evil", 1))),
                            "found the operator set of 'evil'"),
    "another program": ("onnx", on_model(lambda model: model.graph.node.append(
                            helper.make_node("EPContext", [], ["y"], domain="com.microsoft"))),
                        "found the operator EPContext, which holds another program"),
    "a function": ("onnx", on_model(function), "found functions of its own (Mine)"),
    "settings of the runtime": ("onnx", on_model(lambda model: model.metadata_props.add(key="ort_config", value="{}")),
                                "found settings for ONNX Runtime"),
    # Other ends.
    "two inputs": ("onnx", on_model(lambda model: model.graph.input.append(
                       helper.make_tensor_value_info("more", TensorProto.FLOAT, [1]))), "found 2 inputs and 1 outputs"),
    "another type": ("onnx", on_model(lambda model: setattr(model.graph.input[0].type.tensor_type, "elem_type", 1)),
                     "found 'image' of float32 [-1, 6, 5, 3] in model.onnx; expected 'image' of uint8 [-1, 6, 5, 3]"),
    "a fixed batch": ("onnx", on_model(lambda model: setattr(
                          model.graph.output[0].type.tensor_type.shape.dim[0], "dim_value", 4)),
                      "found 'logits' of float32 [4, 3]"),
    # OpenVINO's IR.
    "a bomb of entities": ("ir", on_xml("<net", BOMB + "<net"), "found a document type in model.xml"),
    "an external entity": ("ir", on_xml("<net", STEALS + "<net"), "found a document type in model.xml"),
    "half the XML": ("ir", replaced("model.xml", lambda data: data[: len(data) // 2]), "XML that is not whole"),
    "half the weights": ("ir", replaced("model.bin", lambda data: data[: len(data) // 2]), "bytes of model.bin"),
    "weights before the file": ("ir", on_xml('offset="0"', 'offset="-8"'), "at -8 to "),
    "weights of another size": ("ir", on_xml(r'shape="8, ?3, ?3, ?3"', 'shape="8,3,3,300"'), "as many as its shape"),
    "an extension": ("ir", on_xml('version="opset1"', 'version="mine"'), "of 'mine' in model.xml"),
    "another document": ("ir", replaced("model.xml", lambda _: b"<html></html>"), "found <html> of version None"),
    "no output": ("ir", on_xml('type="Result"', 'type="Relu"'), "found 1 inputs and 0 outputs"),
}  # fmt: skip


@pytest.fixture
def folder(tmp_path, onnx_file, xml_file):
    """A function: a folder `model/` with the sound files of a kind."""

    def make(kind: str) -> Path:
        made = tmp_path / "model"
        made.mkdir()
        source = {"onnx": [onnx_file], "ir": [xml_file, xml_file.with_suffix(".bin")]}[kind]
        for path in source:
            shutil.copyfile(path, made / path.name)
        return made

    return make


@pytest.mark.parametrize("what", [*CHANGED, *HOSTILE])
def test_a_hostile_model_is_refused(what, folder, small_task):
    kind, spoil, told = {**CHANGED, **HOSTILE}[what]
    made = folder(kind)
    before = listed(made)
    spoil(made)
    expected = before if what in CHANGED else {name: digest_file(made / name) for name in before}
    with pytest.raises(ModelFileError, match=re.escape(told)) as caught:
        check_model_folder(made, expected, small_task.signature())
    assert isinstance(caught.value, ArtifactError)
    assert "it was not published" in str(caught.value)


def test_the_corpus_has_twenty_and_more():
    assert len(CHANGED) + len(HOSTILE) >= 20 and not set(CHANGED) & set(HOSTILE)


@pytest.mark.parametrize("kind", ["onnx", "ir"])
def test_a_sound_model_is_accepted(kind, folder, small_task):
    made = folder(kind)
    check_model_folder(made, listed(made), small_task.signature())
    check_model_folder(made, listed(made))


@pytest.mark.parametrize("make", ["static", "dynamic"])
def test_int8_is_accepted_in_both_formats(make, tmp_path, onnx_file, images, small_task):
    from dl_pipelines.compression import dynamic_int8, static_int8
    from dl_pipelines.inference.runtimes import save_openvino

    made = tmp_path / "model"
    made.mkdir()
    if make == "static":
        static_int8.quantize(onnx_file, made / "model.onnx", images, reduce_range=True, per_channel=True)
    else:
        dynamic_int8.quantize(onnx_file, made / "model.onnx", False, True, False)
    check_model_folder(made, listed(made), small_task.signature())
    if make == "static":
        save_openvino(made / "model.onnx", tmp_path / "ir" / "model.xml")
        check_model_folder(tmp_path / "ir", listed(tmp_path / "ir"), small_task.signature())


def test_recurrent_layers_and_branches_are_accepted(tmp_path):
    from dl_pipelines.inference.runtimes import save_openvino
    from tests.sequences import make_task, onnx_file

    made = tmp_path / "model"
    onnx_file(made / "model.onnx")
    check_model_folder(made, listed(made), make_task().signature())
    save_openvino(made / "model.onnx", tmp_path / "ir" / "model.xml")
    check_model_folder(tmp_path / "ir", listed(tmp_path / "ir"), make_task().signature())


def test_names_of_no_runtime_are_refused(folder):
    made = folder("onnx")
    with pytest.raises(ModelFileError, match=r"found a list of files model\.ort in model; expected model\.onnx or"):
        check_model_folder(made, {"model.ort": "0" * 64})


def artifact(*names: str) -> Artifact:
    """A compressed model that lists these files, each with its name for a hash."""
    return Artifact(Path("nowhere"), "compressed_model", "d", {}, {name: f"of {name}" for name in names}, {})


def test_the_hashes_are_those_of_the_model_alone():
    made = artifact("choice.json", "model/model.xml", "model/model.bin", "models/other")
    assert model_hashes(made) == {"model.xml": "of model/model.xml", "model.bin": "of model/model.bin"}


@pytest.mark.parametrize("name", ["model/../choice.json", "model/..", "model/", "model/in/model.onnx", "model//etc/a"])
def test_names_that_leave_the_folder_are_refused(name):
    with pytest.raises(ModelFileError, match=re.escape(f"found the file {name!r} in manifest.json; expected names")):
        model_hashes(artifact("model/model.onnx", name))
