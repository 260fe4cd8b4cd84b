"""Published models that must not be served, each of a kind; what refuses it, and in which words.

They have passed the gates of their stage, as after a fault between there and the live server.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from dl_pipelines.brief.live import Router
from dl_pipelines.serving import repository
from dl_pipelines.serving.champion import STAGE
from dl_pipelines.serving.traffic import give_traffic
from dl_pipelines.serving.trial import put_challenger
from dl_pipelines.store.artifacts import Artifact, Draft, Gate
from dl_pipelines.store.workspace import Partition, Workspace

MODEL = "model/1/model.onnx"


@dataclass
class Bad:
    """One to be made from a good one: its files and what `model.json` says, both to be changed in place."""

    files: dict[str, bytes]
    about: dict[str, Any]
    rng: np.random.Generator
    gates: bool = True


def _truncated(bad: Bad) -> None:
    """Written by a process that died: listed as it is."""
    bad.files[MODEL] = bad.files[MODEL][: int(bad.rng.integers(1, len(bad.files[MODEL]) // 2))]


def _edited(change: Callable[[Any, np.random.Generator], None]) -> Callable[[Bad], None]:
    def edit(bad: Bad) -> None:
        import onnx

        model = onnx.load_from_string(bad.files[MODEL])
        change(model.graph, bad.rng)
        bad.files[MODEL] = model.SerializeToString()

    return edit


def _replace(graph: Any, name: str, value: np.ndarray) -> None:
    from onnx import numpy_helper

    for place, found in enumerate(graph.initializer):
        if found.name == name:
            graph.initializer[place].CopyFrom(numpy_helper.from_array(value, name))


def _weights(graph: Any) -> np.ndarray:
    from onnx import numpy_helper

    return next(numpy_helper.to_array(found).copy() for found in graph.initializer if found.name == "weights")


@_edited
def _nan(graph: Any, rng: np.random.Generator) -> None:
    weights = _weights(graph)
    weights[rng.integers(0, 64), rng.integers(0, 2)] = rng.choice([np.nan, np.inf])
    _replace(graph, "weights", weights)


@_edited
def _otherwise(graph: Any, rng: np.random.Generator) -> None:
    _replace(graph, "weights", _weights(graph) + rng.normal(0, 0.05, (64, 2)).astype(np.float32))


@_edited
def _classes(graph: Any, rng: np.random.Generator) -> None:
    classes = int(rng.integers(3, 9))
    _replace(graph, "weights", np.ones((64, classes), np.float32))
    graph.output[0].type.tensor_type.shape.dim[1].dim_value = classes


@_edited
def _fails_when_asked(graph: Any, rng: np.random.Generator) -> None:
    _replace(graph, "weights", np.ones((int(rng.integers(2, 60)), 2), np.float32))


@_edited
def _operator(graph: Any, rng: np.random.Generator) -> None:
    graph.node[int(rng.integers(0, len(graph.node)))].op_type = "Nonsense"


def _config(old: bytes, new: bytes) -> Callable[[Bad], None]:
    def edit(bad: Bad) -> None:
        assert old in bad.files["model/config.pbtxt"]
        bad.files["model/config.pbtxt"] = bad.files["model/config.pbtxt"].replace(old, new)

    return edit


def _missing(bad: Bad) -> None:
    del bad.files[MODEL]


def _poisoned(bad: Bad) -> None:
    """It calls itself as the good one is called, which may be what serves."""
    _otherwise(bad)
    bad.about["keep_name"] = True


def _forbidden(bad: Bad) -> None:
    bad.gates = False


KINDS: dict[str, tuple[Callable[[Bad], None], str]] = {
    "answers otherwise than its artifact": (_otherwise, r"found a largest difference of "),
    "weights that are not finite": (_nan, r"found values that are not finite in the outputs of the live "),
    "truncated": (_truncated, r"could not load "),
    "other shapes than its config says": (_classes, r"does not answer|found \[\d+, \d\] in the outputs|could not load"),
    "config with another input": (_config(b"dims: 8", b"dims: 9"), r"could not load|does not answer|found the inputs"),
    "called like the model that serves": (_poisoned, r"found the name tiny__\w+ in triton_repository .* expected tiny"),
    "fails at load": (_operator, r"could not load "),
    "config that is none": (_config(b"max_batch_size", b"max_batch_sise"), r"could not load|can't be read"),
    "no model file": (_missing, r"could not load "),
    "a backend that is not there": (_config(b"onnxruntime", b"nonsense"), r"could not load "),
    "fails when asked": (_fails_when_asked, r"could not load|does not answer"),
    "a gate that failed": (_forbidden, r"may not be used: found live_parity: made by a test"),
    "damaged after it was listed": (lambda bad: None, r"damaged in "),
}
"""How each is made, and what its error says."""


def make_bad(workspace: Workspace, good: Artifact, kind: str, seed: int) -> Artifact:
    """A published model of that kind, from a good one; each seed another one, of a day of its own."""
    bad = Bad(
        {name: good.file(name).read_bytes() for name in good.files if name != "model.json"},
        dict(good.read_json("model.json")), np.random.default_rng(seed),
    )  # fmt: skip
    KINDS[kind][0](bad)

    def build(draft: Draft) -> None:
        for name, data in bad.files.items():
            draft.file(name).write_bytes(data)
        if not bad.about.pop("keep_name", False):
            bad.about["model"] = repository.model_name(workspace.project, draft.path / "model")
        draft.write_json("model.json", bad.about)
        draft.gate(Gate("live_parity", bad.gates, "made by a test", blocking=True))

    partition = Partition(date(2030, 1, 1) + timedelta(days=seed), "base")
    made = workspace.make(STAGE, partition, build, settings={"kind": kind, "seed": seed}, parents={})
    if kind.startswith("damaged"):
        path = made.file(MODEL)
        path.write_bytes(path.read_bytes()[:-1])
    return made


def publish_bad(
    workspace: Workspace, good: Artifact, count: int, kinds: Sequence[str] = tuple(KINDS), first: int = 0,
    tell: Callable[[str, str], None] = lambda kind, said: None,
) -> list[tuple[str, str, str]]:  # fmt: skip
    """Try to give `count` bad models the traffic, in turn as champion and as challenger; kind, pattern, error of each.

    One that was taken has the error "". The artifacts are removed again.
    """
    told: list[tuple[str, str, str]] = []
    for number in range(first, first + count):
        kind = kinds[number % len(kinds)]
        made, said = make_bad(workspace, good, kind, number), ""
        try:
            if number // len(kinds) % 2 == 0:
                give_traffic(workspace, made, Partition(date(2030, 1, 1), "base"), kind)
            else:
                put_challenger(workspace, made, share=0.5, salt="s", revision=10_000 + number, router=Router())
        except ValueError as error:
            said = str(error)
        told.append((kind, KINDS[kind][1], said))
        tell(kind, said)
        shutil.rmtree(made.path)
        Path(workspace.home.index / workspace.project / STAGE / "partitions").joinpath(
            f"{Partition(date(2030, 1, 1) + timedelta(days=number), 'base').slug}.json"
        ).unlink()
    return told
