"""The bundle for a controller: int8 with every shape fixed, a memory plan, an operator list, C that ran here.

Where int8 or C can't be had the bundle says so, with the reason, and carries what there is.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dl_pipelines.bundles import c_code, memory_plan, static_graph
from dl_pipelines.bundles.base import Built, BundleError, Check, Source
from dl_pipelines.bundles.edge import write_rows
from dl_pipelines.compression.base import TechniqueError
from dl_pipelines.compression.static_int8 import quantize
from dl_pipelines.store import durable

MODEL, INTEGER, FLOAT32 = "model.onnx", "model_integer.onnx", "model_float32.onnx"
PLAN, OPERATORS = "memory.json", "operators.json"
CALIBRATION_ROWS = 256


@dataclass(frozen=True)
class _Graph:
    """What the bundle carries: the portable file, the one that is planned and generated from, why, its parity.

    `float32` is what C is generated from where the planned one is more than the generator can take.
    """

    model: Path
    planned: Path
    float32: Path
    precision: str
    why: str
    checks: tuple[Check, ...]
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
    tensors = next(static_graph.every_tensor(graph.planned, source.inputs))
    plan = memory_plan.plan(model, tensors)
    durable.put_json(folder / PLAN, plan)
    durable.put_json(folder / OPERATORS, {
        MODEL: memory_plan.operators(onnx.load(str(graph.model))),
        **({INTEGER: memory_plan.operators(model)} if graph.planned != graph.model else {}),
    })  # fmt: skip
    write_rows(source, folder)
    code = _code(source, graph, folder, work)
    facts = {
        "precision": graph.precision, "why": graph.why, "batch": 1,
        "memory": {name: plan[name] for name in ("weights_bytes", "peak_bytes", "arena_bytes")}, "c": code.facts,
    }  # fmt: skip
    return Built((source.served_check(), *graph.checks, *code.checks), facts, _readme(graph, plan, code))


def _graph(source: Source, work: Path) -> _Graph:
    """int8 where it can be had and decides as what serves does, else float32."""
    source.tell("fixing every shape")
    float32 = static_graph.fix(source.network, work / "float32.onnx", source.inputs)
    failed = ""
    try:
        source.tell("int8")
        path, why = _int8(source, work)
        model = static_graph.fix(path, work / "int8.onnx", source.inputs)
        integer = static_graph.fix(path, work / "integer.onnx", source.inputs, "extended")
        check = _with_recorded(source, model, "int8")
        if check.parity.passed:
            files = float32, model, integer
            before, after, fused = (static_graph.run_rows(file, source.inputs) for file in files)
            tolerance = source.tolerance_of(before, after)
            same = source.check(f"{INTEGER} with {MODEL}", after, fused, tolerance=tolerance)
            decides = _with_recorded(source, integer, "int8", INTEGER)
            if not (same.parity.passed and decides.parity.passed):
                # It is another spelling of the same: the bundle goes without it.
                return _Graph(model, model, float32, "int8", why, (check,), tolerance)
            return _Graph(model, integer, float32, "int8", why, (check, same, decides), tolerance)
        failed = check.parity.summary
    except (TechniqueError, BundleError) as error:
        failed = str(error)
    check = _with_recorded(source, float32, "float32")
    return _Graph(float32, float32, float32, "fp32", f"no int8: {failed}", (check,), source.serving.parity_tolerance)


def _int8(source: Source, work: Path) -> tuple[Path, str]:
    """An int8 ONNX file with a free batch, and where it is from. Raises TechniqueError."""
    choice = source.choice
    if choice["runtime"] == "onnxruntime" and choice["precision"] == "int8":
        return source.model, "the served file"
    path, rows = work / "quantized.onnx", source.calibrate(CALIBRATION_ROWS)
    quantize(source.network, path, rows, reduce_range=False, per_channel=True)
    why = (
        f"quantized for this bundle from the network that serves, with {len(rows)} train rows: what serves is "
        f"{choice['variant']} ({choice['precision']}) for {choice['runtime']}"
    )
    return path, why


def _with_recorded(source: Source, path: Path, precision: str, file: str = MODEL) -> Check:
    outputs = static_graph.run_rows(path, source.many_inputs)
    name = f"{file} ({precision}) with the recorded answers of the served model"
    return source.check(name, source.many_outputs, outputs, exact=False)


@dataclass(frozen=True)
class _Code:
    """The parity of the C and what its compiler measured; or the reason why there is none."""

    checks: tuple[Check, ...]
    facts: dict[str, Any] | str


def _code(source: Source, graph: _Graph, folder: Path, work: Path) -> _Code:
    """The C in `folder/c`: of the planned graph, else of the float32 one."""
    source.tell("writing C, compiling it and running it")
    planned = INTEGER if graph.planned != graph.model else MODEL
    try:
        return _code_of(source, graph.planned, planned, graph.tolerance, folder, work / "c")
    except c_code.NoCode as error:
        failed = str(error)
    if graph.planned == graph.float32:
        return _Code((), f"not written: {failed}")
    try:
        decides = _with_recorded(source, graph.float32, "float32", FLOAT32)
        if not decides.parity.passed:
            raise c_code.NoCode(f"it decides otherwise than what serves: {decides.parity.summary}")
        source.tell("writing C of the float32 graph")
        made = _code_of(source, graph.float32, FLOAT32, source.serving.parity_tolerance, folder, work / "c32")
    except c_code.NoCode as error:
        return _Code((), f"not written: {failed}; of the float32 graph: {error}")
    assert isinstance(made.facts, dict)
    shutil.copyfile(graph.float32, folder / FLOAT32)
    return _Code((decides, *made.checks), {**made.facts, "why": f"float32, as there is no C of {planned}: {failed}"})


def _code_of(source: Source, path: Path, name: str, tolerance: float, folder: Path, work: Path) -> _Code:
    """The C of one graph, held to what ONNX Runtime answers with it: in numbers and in decisions. Raises NoCode.

    The graph itself decides as what serves, counted on more rows than are worth running unoptimised C on.
    """
    import onnx

    c_code.write(onnx.load(str(path)), next(static_graph.every_tensor(path, source.inputs)), work)
    compiled = c_code.compile_here(work, work / "compiled")
    reference = static_graph.run_rows(path, source.inputs)
    answers = c_code.run_here(compiled.program, source.inputs, reference, work / "compiled")
    told = f"the C on this machine with {name} on ONNX Runtime"
    checks = (
        source.check(told, reference, answers, tolerance=tolerance),
        source.check(f"{told}, decisions", reference, answers, exact=False),
    )
    for check in checks:
        if not check.parity.passed:
            raise c_code.NoCode(f"the generated C answers otherwise: {check.parity.summary}")
    final = folder / "c"
    shutil.copytree(work, final, ignore=lambda *_: ["compiled"])
    (final / "inputs.bin").write_bytes(source.inputs.tobytes())
    (final / "outputs.bin").write_bytes(reference.tobytes())
    facts = {
        "graph": name, "tolerance": source.largest_allowed(reference, tolerance),
        "compiler": compiled.compiler, "flags": list(c_code.FLAGS),
        "flash_bytes": compiled.flash_bytes, "ram_bytes": compiled.ram_bytes, "stack_bytes": compiled.stack_bytes,
    }  # fmt: skip
    return _Code(checks, facts)


def _readme(graph: _Graph, plan: dict[str, Any], made: _Code) -> str:
    integer = (
        f"| `{INTEGER}` | the same with operators on integers, some of them ONNX Runtime's own (com.microsoft) |\n"
        if graph.planned != graph.model
        else ""
    )
    code = (
        f"C: {made.facts}. Give `{MODEL}` to the tool chain of your controller instead."
        if isinstance(made.facts, str)
        else f"""`c/` holds C11 without heap, threads or files, made of `{made.facts["graph"]}`\
{f" ({made.facts['why']})" if "why" in made.facts else ""}: `model.c` with the weights, `model.h` with the one function.
Try it here, then build `model.c` for your controller:

```bash
cd c && cc -std=c11 -O2 parity.c model.c -lm -o parity
./parity inputs.bin outputs.bin answers.bin {made.facts["tolerance"]!r}   # exit code 1 above that difference
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
