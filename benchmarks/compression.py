"""What the chain publishes against float32 on ONNX Runtime, and against OpenVINO's own tool; the digits by all of it.

`resnet`: ResNet-18 on 224 pixels, one image, two threads; half of its channels cut away, the rest in int8. `int8`: by
int8 alone. `digits`: the demo's model, trained here, with every technique, for size.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.contract import Comparison, against_limit, main, paired

THREADS, ROUNDS, AGREEMENT = 2, 41, 0.98
"""Rounds of each timing, all sides in turns; the share of decisions that have to be those of the trained network."""
SETTLE_SECONDS = 0.05
"""Before each turn: the threads of ONNX Runtime's default settings spin on after a call, on the cores of the next."""
INT8 = ("nncf_int8", "static_int8")
LIMITS = {"latency": 6.0, "size": 3.9, "openvino": 1.0, "digits_size": 8.0, "digits_accuracy": 0.5,
          "digits_latency": 1.0}  # fmt: skip
PLAIN = "ONNX Runtime, float32, its default settings"
LEAST_LOSS = 0.05
"""Points: what is told for a smaller loss, so that there is a ratio."""


def resnet() -> Iterator[Comparison]:
    """By pruning and int8: latency and size of what is published."""
    yield from _resnet("", ({"name": "pruning", "params": {"shares": [0.5]}}, *INT8))


def int8() -> Iterator[Comparison]:
    """The same by int8 alone, at most four times float32's arithmetic (VNNI), and beside the tool's own int8.

    That only here: an int8 network with half of the channels would not be the tool's.
    """
    yield from _resnet("int8_", INT8, tool=True)


def _resnet(prefix: str, techniques: Sequence[Any], tool: bool = False) -> Iterator[Comparison]:
    from benchmarks.compression_networks import CALIBRATION, EPOCHS, ROWS, SIDE
    from benchmarks.compression_networks import resnet as compressed
    from dl_pipelines.compression.candidates import served_files
    from dl_pipelines.inference.runtimes import open_runtime

    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as scratch:
        found = compressed(Path(scratch), THREADS, techniques)
        served, one = found.candidate, found.rows.inputs[:1].copy()
        published = open_runtime(served.runtime, served.variant.path, THREADS, served.variant.precision)
        sides = {
            "ours": published.run,
            "onnxruntime": plain_session(found.onnx, THREADS),
            **({"openvino": nncf_default(found.onnx, found.calibration, THREADS)} if tool else {}),
        }
        told = {name: agreement(run, found.rows.inputs, found.reference) for name, run in sides.items()}
        require(told["ours"], len(found.rows))
        steps = [row["variant"] for row in found.ledger if row["taken"]]
        about = {"network": "resnet18", "weights": "random, the last layer fitted", "images": "synthetic gratings",
                 "side": SIDE, "batch": 1, "threads": THREADS, "tolerance": AGREEMENT, "published": served.key,
                 "steps": steps, "calibration_rows": CALIBRATION, "rows": ROWS, "agreement_rows": len(found.rows),
                 "fine_tuning_epochs": EPOCHS if any("pruned" in step for step in steps) else 0}  # fmt: skip
        samples = timed(sides, one)
        yield paired(f"compression.{prefix}latency", samples["ours"], samples["onnxruntime"], "ms",
                     limit=LIMITS["latency"], peer_is=PLAIN, agreement=told["ours"], **about)  # fmt: skip
        size = sum(path.stat().st_size for path in served_files(served.variant.path)) / 1e6
        before = found.onnx.stat().st_size / 1e6
        yield ratio_of_sizes(f"compression.{prefix}size", size, before, LIMITS["size"], **about)
        if tool:
            yield paired("compression.openvino", samples["ours"], samples["openvino"], "ms",
                         limit=LIMITS["openvino"], peer_is="int8 by NNCF's defaults on OpenVINO's, for latency",
                         agreement=told["ours"], peer_agreement=told["openvino"], **about)  # fmt: skip


def digits() -> Iterator[Comparison]:
    """Size, accuracy on test rows and latency, against the model before."""
    from benchmarks.compression_networks import digits as line
    from dl_pipelines.data.batches import window_rows
    from dl_pipelines.inference.answers import compressed_answers
    from dl_pipelines.inference.export import export_onnx
    from dl_pipelines.inference.parity import torch_outputs
    from dl_pipelines.inference.runtimes import open_runtime
    from dl_pipelines.models.restore import load_served

    overrides = {"compression.techniques": "all", "compression.objective": "size"}
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as scratch:
        brief, workspace, at, task = line(Path(scratch) / "home", overrides)
        trained, made = (workspace.get(stage, at) for stage in ("trained_model", "compressed_model"))
        window, choice = workspace.get("training_window", at.daily), made.read_json("choice.json")
        module = load_served(trained, task)
        onnx = export_onnx(module, task, Path(scratch) / "model.onnx")
        about = {"published": f"{choice['variant']} on {choice['runtime']}", "threads": brief.serving.threads,
                 "max_loss": brief.compression.max_loss}  # fmt: skip
        yield ratio_of_sizes("compression.digits_size", choice["size_bytes"] / 1e6, onnx.stat().st_size / 1e6,
                             LIMITS["digits_size"], **about)  # fmt: skip
        lost: dict[str, float] = {}
        for split in ("validation", "test"):
            rows = window_rows(workspace, window, split, brief.data, task)
            values = [task.measure(outputs, rows.targets)[task.primary] for outputs in
                      (torch_outputs(module, rows.inputs), compressed_answers(made, rows.inputs))]  # fmt: skip
            lost[split] = round(100 * (values[0] - values[1]), 4)
            about |= {f"{split}_rows": len(rows), f"{split}_accuracy": round(values[1], 4)}
        points = {f"{split}_points_lost": value for split, value in lost.items()}
        yield against_limit("compression.digits_accuracy", max(LEAST_LOSS, lost["test"]), LIMITS["digits_accuracy"],
                            "points lost on test rows", least=LEAST_LOSS, **points, **about)  # fmt: skip
        served = open_runtime(choice["runtime"], made.file(choice["file"]), brief.serving.threads, choice["precision"])
        rows = window_rows(workspace, window, "validation", brief.data, task)
        sides = {"ours": served.run, "onnxruntime": plain_session(onnx, brief.serving.threads)}
        unseen = window_rows(workspace, window, "test", brief.data, task)
        told = agreement(sides["ours"], unseen.inputs, torch_outputs(module, unseen.inputs))
        require(told, len(unseen))
        alike = {"agreement": told, "agreement_rows": len(unseen), "tolerance": AGREEMENT}
        for batch in (1, 8):
            samples = timed(sides, rows.inputs[:batch].copy())
            name = "compression.digits_latency" + ("" if batch == 1 else f"_{batch}")
            yield paired(name, samples["ours"], samples["onnxruntime"], "ms", limit=LIMITS["digits_latency"],
                         batch=batch, peer_is=PLAIN, **alike, **about)  # fmt: skip


Run = Callable[[np.ndarray], np.ndarray]


def plain_session(path: Path, threads: int) -> Run:
    """ONNX Runtime as its documentation opens a model, with so many threads."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda inputs: np.asarray(session.run(None, {name: inputs})[0])


def nncf_default(path: Path, rows: np.ndarray, threads: int) -> Run:
    """NNCF's post-training quantization and OpenVINO's CPU plugin, both as they come, for latency."""
    import contextlib
    import io
    import logging

    from dl_pipelines.inference.runtimes import openvino

    package: Any = openvino()
    import nncf

    nncf.set_log_level(logging.ERROR)
    with contextlib.redirect_stdout(io.StringIO()):
        data = nncf.Dataset([rows[at : at + 1] for at in range(len(rows))])
        model = nncf.quantize(package.Core().read_model(str(path)), data, subset_size=len(rows))
    settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads}
    request = package.Core().compile_model(model, "CPU", settings).create_infer_request()

    def run(inputs: np.ndarray) -> np.ndarray:
        request.set_input_tensor(package.Tensor(inputs, shared_memory=True))
        request.infer(share_outputs=True)
        return request.get_output_tensor(0).data.copy()

    return run


def agreement(run: Run, inputs: np.ndarray, reference: np.ndarray) -> float:
    """The share of rows whose decision is that of the trained network; give rows that nothing was chosen by."""
    outputs = np.concatenate([run(inputs[at : at + 1].copy()) for at in range(len(inputs))])
    return round(float((outputs.argmax(1) == reference.argmax(1)).mean()), 4)


def require(alike: float, rows: int) -> None:
    """What we publish has to agree, before its time is told; of a peer it is only told. Raises SystemExit."""
    if alike < AGREEMENT:
        raise SystemExit(f"found {alike:.2%} of {rows} decisions alike; expected {AGREEMENT:.0%}")


def timed(sides: Mapping[str, Run], inputs: np.ndarray) -> dict[str, list[float]]:
    """Milliseconds of each side in every round, all in turns."""
    from dl_pipelines.inference.timing import time_interleaved

    calls = {name: (lambda run=run: run(inputs)) for name, run in sides.items()}
    return {name: found["samples"] for name, found in time_interleaved(calls, ROUNDS, settle=SETTLE_SECONDS).items()}


def ratio_of_sizes(name: str, ours: float, peer: float, limit: float, **conditions: Any) -> Comparison:
    """How many times smaller a file is; sizes repeat to the byte."""
    return Comparison(name, round(ours, 4), round(peer, 4), "MB", round(peer / ours, 3), None, 1,
                      {"limit": limit, "peer_is": "the float32 ONNX file", **conditions})  # fmt: skip


if __name__ == "__main__":
    main({"resnet": resnet, "int8": int8, "digits": digits}, __doc__ or "")
