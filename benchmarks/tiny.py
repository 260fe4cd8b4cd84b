"""Tiny models of two classes in a home, as compression leaves them: what needs a served model needs no training.

For the soaks and for tests (tests/tiny.py has the fixtures).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa

from dl_pipelines.store.artifacts import Artifact, Draft, Gate
from dl_pipelines.store.records import write_records
from dl_pipelines.store.workspace import Partition, Workspace
from dl_pipelines.tasks.image_classification import ImageClassification

FIRST, SECOND, THIRD = (Partition(date(2026, 1, day), "base") for day in (1, 2, 3))

MIDDLE = 128.0
"""What is subtracted from a pixel, so that dark images lie below zero and bright ones above: nothing is mistaken."""


def weights(seed: int) -> np.ndarray:
    """[64, 2] float32: the first class is dark, the second bright; each seed a little otherwise."""
    column = np.full(64, 1 / 64) + np.random.default_rng(seed).normal(0, 1e-3, 64)
    return np.stack([-column, column], axis=1).astype(np.float32)


def reference(images: np.ndarray, seed: int, middle: float = MIDDLE) -> np.ndarray:
    """What model `seed` answers to uint8 [N, 8, 8, 1]."""
    return (images.reshape(-1, 64).astype(np.float32) - np.float32(middle)) @ weights(seed)


def tiny_onnx(path: Path, seed: int, middle: float = MIDDLE) -> Path:
    """The same as a graph."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    nodes = [
        helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("Reshape", ["pixels", "shape"], ["flat"]),
        helper.make_node("Sub", ["flat", "middle"], ["centred"]),
        helper.make_node("MatMul", ["centred", "weights"], ["logits"]),
    ]
    constants = {"shape": np.array([-1, 64], np.int64), "middle": np.float32(middle), "weights": weights(seed)}
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", 8, 8, 1])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 2])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, str(path))
    return path


def records(task: ImageClassification, count: int = 300) -> pa.Table:
    """Dark and bright images in turn."""
    images = np.random.default_rng(0).integers(0, 120, (count, 64)).astype(np.uint8)
    labels = np.arange(count) % 2
    images = (images + 130 * labels[:, None]).astype(np.uint8)
    plain = {
        "id": [f"r{place:04d}" for place in range(count)],
        "date": [date(2026, 1, 1)] * count,
        "event_time": [datetime(2026, 1, 1, tzinfo=UTC)] * count,
        "group": [f"r{place:04d}" for place in range(count)],
        "image": images.tolist(),
        "label": labels.tolist(),
        "mode": ["L"] * count,
        "source_height": [8] * count,
        "source_width": [8] * count,
        "sha256": [f"{place:064d}" for place in range(count)],
        "uri": [f"made:{place}" for place in range(count)],
    }
    table = pa.table(plain, schema=task.arrow_schema())
    table = table.append_column("parent", table["id"])
    return table.append_column("copy", pa.array([0] * count, pa.int32()))


def make_window(
    workspace: Workspace, task: ImageClassification, partitions: Sequence[Partition] = (FIRST, SECOND, THIRD)
) -> None:
    """The dataset of the first day, and windows on it for each of these days."""

    def dataset(draft: Draft) -> None:
        write_records(draft, records(task))
        draft.gate(Gate("only_train_grows", True, "made by a test", blocking=True))

    made = workspace.make("augmented_dataset", FIRST.daily, dataset, settings={}, parents={})

    def window(draft: Draft) -> None:
        days = [{"day": "2026-01-01", "digest": made.digest, "records": 300}]
        draft.write_json("window.json", {"days": days, "as_of": "2026-01-01"})
        draft.gate(Gate("no_leak", True, "made by a test", blocking=True))

    for partition in partitions:
        workspace.make("training_window", partition.daily, window, settings={}, parents={"augmented_dataset": made})


def make_compressed(
    workspace: Workspace, partition: Partition, task: ImageClassification, seed: int, runtime: str,
    middle: float = MIDDLE,
) -> Artifact:  # fmt: skip
    """A compressed model as compression leaves it; with another `middle` it is often mistaken."""
    from dl_pipelines.brief.sections import Split
    from dl_pipelines.inference.runtimes import MODEL_FILES, save_openvino

    def build(draft: Draft) -> None:
        table = records(task)
        held = task.split(table, date(2026, 1, 1), Split()) == "validation"
        rows = task.rows(table.filter(pa.array(held)))
        source = tiny_onnx(draft.work / "model.onnx", seed, middle)
        if runtime == "openvino":
            save_openvino(source, draft.file("model/model.xml"))
        else:
            draft.file("model/model.onnx").write_bytes(source.read_bytes())
        main = f"model/{MODEL_FILES[runtime][0]}"
        draft.write_json("choice.json", {"runtime": runtime, "variant": "fp32", "precision": "fp32", "file": main})
        np.save(draft.file("outputs_validation.npy"), reference(rows.inputs, seed, middle), allow_pickle=False)
        draft.gate(Gate("parity", True, "made by a test", blocking=True))

    return workspace.make("compressed_model", partition, build, settings={"seed": seed, "middle": middle}, parents={})
