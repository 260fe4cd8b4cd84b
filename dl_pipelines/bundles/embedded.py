"""The bundle for a controller: int8 with every shape fixed, a memory plan, an operator list, C that ran here.

Where int8 or C can't be had the bundle says so, with the reason, and carries what there is.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dl_pipelines.bundles import c_code, memory_plan, static_graph
from dl_pipelines.bundles.base import Built, BundleError, Check, Source
from dl_pipelines.bundles.edge import write_rows
from dl_pipelines.compression.base import TechniqueError
from dl_pipelines.compression.static_int8 import quantize
from dl_pipelines.store import durable

if TYPE_CHECKING:
    import numpy as np

MODEL, INTEGER, PLAN, OPERATORS = "model.onnx", "model_integer.onnx", "memory.json", "operators.json"
CALIBRATION_ROWS = 256


@dataclass(frozen=True)
class _Graph:
    """What the bundle carries: the portable file, the one that is planned and generated from, why, its parity."""

    model: Path
    planned: Path
    precision: str
    why: str
    check: Check
    tolerance: float
    """How far another executor may be from ONNX Runtime on the planned graph, in the task's units."""


def build(source: Source, folder: Path, work: Path) -> Built:
    """See base.Build."""
    import onnx

    graph = _graph(source, work)
    shutil.copyfile(graph.model, folder / MODEL)
    if graph.planned != graph.model:
        shutil.copyfile(graph.planned, folder / INTEGER)
    source.tell("laying out memory")
    model = onnx.load(str(graph.planned))
    tensors = static_graph.tensors(graph.planned, source.inputs[0])
    plan = memory_plan.plan(model, tensors)
    durable.put_json(folder / PLAN, plan)
    durable.put_json(folder / OPERATORS, {
        MODEL: memory_plan.operators(onnx.load(str(graph.model))),
        **({INTEGER: memory_plan.operators(model)} if graph.planned != graph.model else {}),
    })  # fmt: skip
    write_rows(source, folder)
    reference = static_graph.run_rows(graph.planned, source.inputs)
    checks = [source.served_check(), graph.check]
    if graph.planned != graph.model:
        portable = static_graph.run_rows(graph.model, source.inputs)
        checks.append(source.check(f"{INTEGER} with {MODEL}", portable, reference, tolerance=graph.tolerance))
    code = _code(source, graph, folder, work, model, tensors, reference)
    if isinstance(code, tuple):
        checks.append(code[0])
    facts = {
        "precision": graph.precision, "why": graph.why, "batch": 1,
        "memory": {name: plan[name] for name in ("weights_bytes", "peak_bytes", "arena_bytes")},
        "c": code[1] if isinstance(code, tuple) else f"not written: {code}",
    }  # fmt: skip
    return Built(tuple(checks), facts, _readme(graph, plan, code if isinstance(code, str) else None))


def _graph(source: Source, work: Path) -> _Graph:
    """int8 where it can be had and decides as what serves does, else float32."""
    shape = (1, *source.inputs.shape[1:])
    source.tell("fixing every shape")
    float32 = static_graph.fix(source.network, work / "float32.onnx", shape)
    failed = ""
    try:
        source.tell("int8")
        path, why = _int8(source, work)
        model = static_graph.fix(path, work / "int8.onnx", shape)
        integer = static_graph.fix(path, work / "integer.onnx", shape, "extended")
        check = _with_recorded(source, model, "int8")
        if check.parity.passed:
            before, after = (static_graph.run_rows(file, source.inputs) for file in (float32, model))
            tolerance = source.tolerance_of(before, after)
            return _Graph(model, integer, "int8", why, check, tolerance)
        failed = check.parity.summary
    except (TechniqueError, BundleError) as error:
        failed = str(error)
    check = _with_recorded(source, float32, "float32")
    return _Graph(float32, float32, "fp32", f"no int8: {failed}", check, source.serving.parity_tolerance)


def _int8(source: Source, work: Path) -> tuple[Path, str]:
    """An int8 ONNX file with a free batch, and where it is from. Raises TechniqueError."""
    choice = source.choice
    if choice["runtime"] == "onnxruntime" and choice["precision"] == "int8":
        return source.model, "the served file"
    path = work / "quantized.onnx"
    quantize(source.network, path, source.calibrate(CALIBRATION_ROWS), reduce_range=False, per_channel=True)
    why = (
        f"quantized for this bundle from the network that serves, with {CALIBRATION_ROWS} train rows: what serves is "
        f"{choice['variant']} ({choice['precision']}) for {choice['runtime']}"
    )
    return path, why


def _with_recorded(source: Source, path: Path, precision: str) -> Check:
    outputs = static_graph.run_rows(path, source.many_inputs)
    name = f"{MODEL} ({precision}) with the recorded answers of the served model"
    return source.check(name, source.many_outputs, outputs, exact=False)


def _code(
    source: Source, graph: _Graph, folder: Path, work: Path, model: Any, tensors: dict[str, np.ndarray],
    reference: np.ndarray,
) -> tuple[Check, dict[str, Any]] | str:  # fmt: skip
    """The C in `folder/c`, its parity and what the compiler measured; or why there is none."""
    fresh, final = work / "c", folder / "c"
    source.tell("writing C, compiling it and running it")
    try:
        c_code.write(model, tensors, fresh)
        compiled = c_code.compile_here(fresh, work / "compiled")
        answers = c_code.run_here(compiled.program, source.inputs, reference, work / "compiled")
    except c_code.NoCode as error:
        return str(error)
    name = f"the C on this machine with {INTEGER if graph.planned != graph.model else MODEL} on ONNX Runtime"
    check = source.check(name, reference, answers, tolerance=graph.tolerance)
    if not check.parity.passed:
        return f"the generated C answers otherwise: {check.parity.summary}"
    shutil.copytree(fresh, final)
    (final / "inputs.bin").write_bytes(source.inputs.tobytes())
    (final / "outputs.bin").write_bytes(reference.tobytes())
    measured = {
        "compiler": compiled.compiler, "flags": list(c_code.FLAGS), "flash_bytes": compiled.flash_bytes,
        "ram_bytes": compiled.ram_bytes, "stack_bytes": compiled.stack_bytes,
    }  # fmt: skip
    return check, measured


def _readme(graph: _Graph, plan: dict[str, Any], no_code: str | None) -> str:
    integer = (
        f"| `{INTEGER}` | the same with operators on integers, some of them ONNX Runtime's own (com.microsoft) |\n"
        if graph.planned != graph.model
        else ""
    )
    code = (
        f"There is no C: {no_code}. Give `{MODEL}` to the tool chain of your controller instead."
        if no_code is not None
        else """`c/` holds C11 without heap, threads or files: `model.c` with the weights, `model.h` with the one
function. Try it here, then build `model.c` for your controller:

```bash
cd c && cc -std=c11 -O2 parity.c model.c -lm -o parity && ./parity inputs.bin outputs.bin
```

The function keeps its tensors on the stack, each in a place of its own (`c.stack_bytes` in `manifest.json`, as this
machine's compiler counts it); `memory.json` shows what an arena would need instead."""
    )
    return f"""
One row at a time, every shape fixed. Weights: {graph.precision} ({graph.why}).

| file | what it is |
|---|---|
| `{MODEL}` | standard ONNX operators (QuantizeLinear and DequantizeLinear where it is int8) |
{integer}| `{PLAN}` | weights {plan["weights_bytes"]} bytes, {plan["peak_bytes"]} bytes live at the fullest step, \
an offset for every tensor in {plan["arena_bytes"]} bytes |
| `{OPERATORS}` | the operators that a runtime must have |

{code}
"""
