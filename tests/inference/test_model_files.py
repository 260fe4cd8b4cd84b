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


def outside(name: str) -> onnx.TensorProto:
    """Three numbers that are said to be in another file."""
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[3], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="weights.bin")
    return tensor


def two_values(model: onnx.ModelProto) -> None:
    """A constant whose first value is elsewhere and whose second is sound."""
    node = helper.make_node("Constant", [], ["both"], value=outside("first"))
    node.attribute.append(helper.make_attribute("value", numpy_helper.from_array(np.zeros(3, np.float32), "second")))
    model.graph.node.append(node)


def two_weights(model: onnx.ModelProto) -> None:
    """Two weights of one name, the first elsewhere."""
    model.graph.initializer.extend([outside("both"), numpy_helper.from_array(np.zeros(3, np.float32), "both")])


def behind_a_constant(model: onnx.ModelProto) -> None:
    """A weight elsewhere, and a constant that makes its name."""
    model.graph.initializer.append(outside("both"))
    value = numpy_helper.from_array(np.zeros(3, np.float32))
    model.graph.node.append(helper.make_node("Constant", [], ["both"], value=value))


def made(operator: str, *inputs: str, **attributes: object) -> onnx.NodeProto:
    return helper.make_node(operator, [*inputs], [f"of {operator}"], **attributes)


def added(*parts: onnx.NodeProto | onnx.TensorProto | tuple[str, np.ndarray]) -> Spoil:
    """More operators and weights in the graph, which nothing of it uses."""

    def change(model: onnx.ModelProto) -> None:
        for part in parts:
            if isinstance(part, tuple):
                model.graph.initializer.append(numpy_helper.from_array(part[1], part[0]))
            else:
                (model.graph.initializer if isinstance(part, TensorProto) else model.graph.node).append(part)

    return on_model(change)


def branch(*nodes: onnx.NodeProto) -> onnx.NodeProto:
    """A condition with these operators in both branches."""
    inner = helper.make_graph(nodes, "branch", [], [helper.make_tensor_value_info(nodes[-1].output[0], 1, None)])
    return made("If", "yes", then_branch=inner, else_branch=inner)


def numbers(*values: float, of: type = np.int64) -> np.ndarray:
    return np.array(values, of)


def layer(kind: str, *given: np.ndarray, through: str = "") -> Spoil:
    """One more layer in the XML that takes these constants, and says that it gives one number."""

    def spoil(folder: Path) -> None:
        held = (folder / "model.bin").read_bytes()
        port, text, edges = '<port id="{}" precision="I64"><dim>1</dim></port>', "", ""
        for place, values in enumerate(given):
            where = f'offset="{len(held)}" size="{values.nbytes}" shape="{",".join(map(str, values.shape))}"'
            text += (
                f'<layer id="c{place}" name="c{place}" type="Const" version="opset1"><data element_type="i64" {where}/>'
            )
            text += f"<output>{port.format(0)}</output></layer>"
            maker = f"c{place}"
            if through:
                text += f'<layer id="t{place}" name="t" type="{through}" version="opset1">'
                text += f"<input>{port.format(0)}</input><output>{port.format(0)}</output></layer>"
                edges += f'<edge from-layer="{maker}" from-port="0" to-layer="t{place}" to-port="0"/>'
                maker = f"t{place}"
            edges += f'<edge from-layer="{maker}" from-port="0" to-layer="big" to-port="{place}"/>'
            held += values.tobytes()
        taken = "".join(port.format(place) for place in range(len(given)))
        text += f'<layer id="big" name="big" type="{kind}" version="opset1"><input>{taken}</input>'
        text += f"<output>{port.format(9)}</output></layer>"
        whole = (folder / "model.xml").read_text()
        whole = whole.replace("</layers>", text + "</layers>").replace("</edges>", edges + "</edges>")
        (folder / "model.xml").write_text(whole)
        (folder / "model.bin").write_bytes(held)

    return spoil


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
    "external data before a sound value": ("onnx", on_model(two_values), "found external data of 'both'"),
    "external data before a sound weight": ("onnx", on_model(two_weights), "found external data of 'both'"),
    "external data behind a constant": ("onnx", on_model(behind_a_constant), "found external data of 'both'"),
    "external data in a branch": ("onnx", on_model(external_constant), "found external data of 'hidden'"),
    # Bytes that are not what they say.
    "half a file": ("onnx", replaced("model.onnx", lambda data: data[: len(data) // 2]), "no ONNX"),
    "a pickle": ("onnx", replaced("model.onnx", lambda _: b"cos\nsystem\n(S'id'\ntR."), "no ONNX"),
    "a claimed size": ("onnx", on_model(claimed), "of the 4000000 bytes or values that"),
    "a bomb of zeros": ("onnx", on_model(large), "found ConstantOfShape to the size [2097152, 1048576]"),
    "one name for two weights": ("onnx", added(("both", numbers(1)), ("both", numbers(2))),
                                 "found the name 'both' for two tensors in model.onnx; expected one for each"),
    "an operator over a weight": ("onnx", added(("of Constant", numbers(1)), made("Constant", value_int=2)),
                                  "found the name 'of Constant' for two tensors"),
    "a constant of two kinds": ("onnx", added(made("Constant", value_int=2, value_float=2.0)),
                                "found the attributes value_float, value_int of Constant"),
    "a type that is none": ("onnx", on_model(lambda model: setattr(
                                model.graph.input[0].type.tensor_type, "elem_type", 99)),
                            "found what can't be read (KeyError: 99) in model.onnx; expected a whole model"),
    "a weight of no type": ("onnx", on_model(lambda model: setattr(model.graph.initializer[0], "data_type", 60)),
                            "found what can't be read (ValueError: "),
    # What becomes large when it is loaded.
    "a bomb by a list": ("onnx", added(made("Constant", value_ints=[10**12]), made("ConstantOfShape", "of Constant")),
                         "found ConstantOfShape to the size [1000000000000]"),
    "a bomb by a number": ("onnx", added(("first", numbers(0)), made("Constant", value_int=10**12),
                                         made("Unsqueeze", "of Constant", "first"),
                                         made("ConstantOfShape", "of Unsqueeze")),
                           "found ConstantOfShape to the size [1000000000000]"),
    "a bomb in a branch": ("onnx", added(("sizes", numbers(10**6, 10**6)), branch(made("ConstantOfShape", "sizes"))),
                           "found ConstantOfShape to the size [1000000, 1000000]"),
    "a circle of branches": ("onnx", added(("a", numbers(1)), helper.make_node("Identity", ["a"], ["b"]),
                                           branch(helper.make_node("Identity", ["b"], ["a"]),
                                                  made("ConstantOfShape", "a"))),
                             "found sizes that Identity computes from constants"),
    "a bomb of an outer operator": ("onnx", added(("sizes", numbers(10**12)), made("Identity", "sizes"),
                                                  branch(made("ConstantOfShape", "of Identity"))),
                                    "found ConstantOfShape to the size [1000000000000]"),
    "a range": ("onnx", added(("from", np.float32(0)), ("to", np.float32(1e12)), ("by", np.float32(1)),
                              made("Range", "from", "to", "by")),
                "found Range to the size [0.0, 999999995904.0, 1.0]"),
    "a range without an end": ("onnx", added(("from", np.int64(0)), ("to", np.int64(9)),
                                             made("Range", "from", "to", "from")),
                               "found Range to the size [0, 9, 0]"),
    "an edge": ("onnx", added(("x", np.zeros((1, 1), np.float32)), ("pads", numbers(0, 10**6, 10**6, 0)),
                              made("Pad", "x", "pads")), "found Pad to the size [0, 1000000, 1000000, 0]"),
    "an edge of a convolution": ("onnx", added(made("Conv", "image", "image", pads=[10**6, 0, 0, 10**6])),
                                 "found Conv to the size [1000000, 0, 0, 1000000]"),
    "a magnified picture": ("onnx", added(("x", np.zeros((1, 1, 1, 1), np.float32)),
                                          ("sizes", numbers(1, 1, 10**6, 10**6)),
                                          made("Resize", "x", "", "", "sizes")),
                            "found Resize to the size [1, 1, 1000000,"),
    "a picture by scales": ("onnx", added(("x", np.zeros((1, 1, 1, 1), np.float32)),
                                          ("scales", numbers(1, 1, 1e6, 1e6, of=np.float32)),
                                          made("Resize", "x", "", "scales")),
                            "found Resize to the size [1.0, 1.0, 1000000.0, 1000000.0]"),
    "repeats": ("onnx", added(("x", np.zeros((1, 1))), ("times", numbers(10**6, 10**6)), made("Tile", "x", "times")),
                "found Tile to the size [1000000, 1000000]"),
    "an expansion": ("onnx", added(("x", np.zeros((1, 1))), ("sizes", numbers(10**6, 10**6)),
                                   made("Expand", "x", "sizes")),
                     "found Expand to the size [1000000, 1000000]"),
    "a depth": ("onnx", added(("x", numbers(1)), ("depth", np.int64(10**12)), ("pair", numbers(0, 1)),
                              made("OneHot", "x", "depth", "pair")), "found OneHot to the size [1000000000000]"),
    "random numbers": ("onnx", added(made("RandomNormal", shape=[10**6, 10**6])), "found RandomNormal to the size"),
    "sizes without end": ("onnx", added(("sizes", numbers(np.inf, of=np.float32)), made("ConstantOfShape", "sizes")),
                          "found ConstantOfShape to the size [inf]"),
    "sizes that are none": ("onnx", added(("from", np.float32(0)), ("to", np.float32(np.nan)), ("by", np.float32(1)),
                                          made("Range", "from", "to", "by")),
                            "found Range to the size [0.0, nan, 1.0]"),
    "sizes of two numbers": ("onnx", added(("sizes", numbers(1j, of=np.complex64)), made("ConstantOfShape", "sizes")),
                             "found sizes of the type complex64"),
    "many sizes": ("onnx", added(("sizes", np.ones(65, np.int64)), made("ConstantOfShape", "sizes")),
                   "found sizes of [65] numbers"),
    "a product of sizes": ("onnx", added(("sizes", numbers(10**6)), made("Mul", "sizes", "sizes"),
                                         made("ConstantOfShape", "of Mul")),
                           "found sizes that Mul computes from constants"),
    "sizes in any order": ("onnx", added(made("ConstantOfShape", "of Mul"), made("Mul", "of Constant", "of Constant"),
                                         made("Constant", value_ints=[10**6])),
                           "found sizes that Mul computes from constants"),
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
    "no such letters": ("ir", on_xml('version="1.0"', 'version="1.0" encoding="rot13"'),
                        "found what can't be read (LookupError"),
    "texts": ("ir", on_xml('element_type="f32" shape="8,', 'element_type="string" shape="8,'), "of the type 'string'"),
    "a number that readers take differently": ("ir", on_xml('offset="0"', 'offset="0_0"'),
                                               "found no place of the weights"),
    "an answer of another name": ("ir", on_xml(' names="logits"', ' names="other"'),
                                  "expected 'logits' of float32 [-1, 3]"),
    "an answer of another type": ("ir", on_xml('(type="Result".*?)FP32', r"\1FP16"), "found 'logits' of f16 [-1, 3]"),
    "an answer of another size": ("ir", on_xml('(type="Result".*?)<dim>3<', r"\1<dim>4<"),
                                  "found 'logits' of f32 [-1, 4]"),
    "an answer from nowhere": ("ir", on_xml("<edges>.*</edges>", "<edges></edges>"),
                               "found what can't be read (KeyError"),
    "a large layer": ("ir", on_xml("<dim>8</dim>", "<dim>800000000</dim>"), "of the size [800000000, "),
    "a broadcast": ("ir", layer("Broadcast", numbers(1), numbers(10**6, 10**6)),
                    "found Broadcast to the size [1000000, 1"),
    "a broadcast through another": ("ir", layer("Broadcast", numbers(1), numbers(10**12), through="Convert"),
                                    "found Broadcast to the size [1000000000000]"),
    "tiles": ("ir", layer("Tile", numbers(1), numbers(10**12)), "found Tile to the size [1000000000000]"),
    "a range in XML": ("ir", layer("Range", numbers(0), numbers(10**12), numbers(1)), "found Range to the size [0, 10"),
    "an edge in XML": ("ir", layer("Pad", numbers(1), numbers(10**12), numbers(0)), "found Pad to the size [100000000"),
    "many sizes in XML": ("ir", layer("Broadcast", numbers(1), np.ones(65, np.int64)),
                          "found 65 sizes of the type i64"),
    "two graphs in one": ("ir", on_xml("</layers>", "</layers><layers></layers>"), "found layers in net"),
    "two layers of a number": ("ir", on_xml('layer id="1"', 'layer id="0"'), "two layers of the number 0"),
    "two edges to a port": ("ir", on_xml("(<edge [^>]*>)", r"\1\1"), "two edges to the port"),
    "a layer elsewhere": ("ir", on_xml("<layers>", '<layer id="x" type="Relu" version="opset1"/><layers>'),
                          "layer in net"),
    "two data of a layer": ("ir", on_xml("(<data [^>]*>)", r"\1\1"), "found two data of"),
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
