"""Plain C of a static graph by emx-onnx-cgen: no heap, no operating system, weights in the source; compiled, run here.

What the generator has no words for is said otherwise where that is exact; where it can't be, the operators are named.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dl_pipelines.bundles.c_spelling import respelled
from dl_pipelines.bundles.memory_plan import weights_bytes
from dl_pipelines.store import durable

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    import onnx

SCRIPT = Path(__file__).parent / "scripts" / "parity.c"
LARGEST_WEIGHTS = 4_000_000
"""Bytes; beyond it the source has tens of megabytes, which is no model for a controller."""
FLAGS = ("-std=c11", "-O2")
SECONDS = 300
C_TYPES = {
    "float32": "float", "float64": "double", "uint8": "uint8_t", "int8": "int8_t", "int16": "int16_t",
    "int32": "int32_t", "int64": "int64_t", "bool": "_Bool",
}  # fmt: skip


class NoCode(ValueError):
    """There can be no C of this graph, or on this machine; says why."""


@dataclass(frozen=True)
class Compiled:
    """A program of the generated C on this machine, and what its compiler measured: bytes of the model's own code.

    `flash_bytes` are code and constants, `ram_bytes` static variables, `stack_bytes` the model function's frame; None
    where the tools don't say.
    """

    program: Path
    compiler: str
    flash_bytes: int | None
    ram_bytes: int | None
    stack_bytes: int | None


def write(model: onnx.ModelProto, tensors: Mapping[str, np.ndarray], folder: Path) -> None:
    """`model.c`, `model.h` and the parity program into `folder`. Raises NoCode naming the operators it has not."""
    from emx_onnx_cgen.compiler import Compiler, CompilerOptions

    size = weights_bytes(model)
    if size > LARGEST_WEIGHTS:
        raise NoCode(
            f"found {size / 1e6:.1f} MB of weights; C is written up to {LARGEST_WEIGHTS / 1e6:g} MB; smaller ones fit"
        )
    lacking = _lacking(model)
    if lacking:
        raise NoCode(f"the generator has not the operators {', '.join(lacking)}")
    given, gives = model.graph.input[0].name, model.graph.output[0].name
    header = _header(tensors[given], tensors[gives])
    options = CompilerOptions(model_name="model", large_weight_threshold=0, large_temp_threshold_bytes=0)
    try:
        source = Compiler(options).compile(respelled(model, tensors))
    except Exception as error:  # its own errors, and what the graph leads it to
        raise NoCode(f"the generator can't take this graph ({_said(error)})") from error
    durable.put_text(folder / "model.c", source)
    durable.put_text(folder / "model.h", header)
    shutil.copyfile(SCRIPT, folder / SCRIPT.name)


def _said(error: Exception) -> str:
    """An error of the generator without the tensors that it lists after it."""
    return f"{type(error).__name__}: {re.sub(r', inputs=.*', ')', str(error), flags=re.DOTALL)[:200]}"


def _lacking(model: onnx.ModelProto) -> list[str]:
    from emx_onnx_cgen.lowering import load_lowering_registry
    from emx_onnx_cgen.lowering.registry import get_lowering_registry

    load_lowering_registry()
    return sorted({node.op_type for node in model.graph.node} - set(get_lowering_registry()))


def _header(given: np.ndarray, gives: np.ndarray) -> str:
    def of(value: np.ndarray, name: str, const: str) -> str:
        kind = C_TYPES.get(str(value.dtype))
        if kind is None:
            raise NoCode(f"found {value.dtype} at an end of the graph; C is written for {', '.join(C_TYPES)}")
        return f"{const}{kind} {name}{''.join(f'[{size}]' for size in value.shape)}"

    return "\n".join(
        [
            "/* One row through the model; no heap, no state: what it needs lies on the stack. */",
            "#ifndef MODEL_H", "#define MODEL_H", "#include <stdint.h>", "",
            f"typedef {of(given, 'model_input', '')};",
            f"typedef {of(gives, 'model_output', '')};",
            f"#define MODEL_OUTPUT_TYPE {C_TYPES[str(gives.dtype)]}",
            f"void model({of(given, 'input', 'const ')}, {of(gives, 'output', '')});", "",
            "#endif", "",
        ]
    )  # fmt: skip


def compiler() -> str | None:
    """A C compiler of this machine: `CC`, cc, gcc or clang; None where there is none."""
    names = [os.environ.get("CC", ""), "cc", "gcc", "clang"]
    return next((found for name in names if name and (found := shutil.which(name))), None)


def compile_here(folder: Path, work: Path) -> Compiled:
    """Compile the C of `folder` for this machine, into `work`. Raises NoCode."""
    command = compiler()
    if command is None:
        raise NoCode("found no C compiler (CC, cc, gcc, clang) to prove it with; install one")
    work.mkdir(parents=True, exist_ok=True)
    part, program = work / "model.o", work / "parity"
    _run([command, *FLAGS, "-fstack-usage", "-c", str(folder / "model.c"), "-o", str(part)], work)
    _run([command, *FLAGS, "-I", str(folder), str(folder / SCRIPT.name), str(part), "-lm", "-o", str(program)], work)
    told = _run([command, "--version"], work).splitlines()
    return Compiled(program, told[0] if told else command, *_sections(part, work), _stack(work / "model.su"))


def _sections(part: Path, work: Path) -> tuple[int | None, int | None]:
    """Bytes that may stay in flash, and those of static variables, as `size` counts them."""
    command = shutil.which("size")
    if command is None:
        return None, None
    try:
        numbers = _run([command, str(part)], work).splitlines()[1].split()
        text, data, rest = (int(number) for number in numbers[:3])
    except (NoCode, IndexError, ValueError):  # a `size` that says it otherwise: the C is no worse for it
        return None, None
    return text + data, data + rest


def _stack(usage: Path) -> int | None:
    """The frame of the function `model`, as GCC and clang write it."""
    if not usage.exists():
        return None
    for line in usage.read_text(encoding="utf-8").splitlines():
        place, size, *_ = line.split("\t")
        if place.rpartition(":")[2] == "model":
            return int(size)
    return None


def run_here(program: Path, rows: np.ndarray, like: np.ndarray, work: Path) -> np.ndarray:
    """Answers [N, ...] of a compiled model to rows [N, ...]; `like` [N, ...] has their dtype and shape."""
    import numpy as np

    given, expected, taken = work / "rows.bin", work / "expected.bin", work / "answers.bin"
    given.write_bytes(rows.tobytes())
    expected.write_bytes(like.tobytes())
    _run([str(program), str(given), str(expected), str(taken)], work)
    answers = np.frombuffer(taken.read_bytes(), like.dtype)
    if answers.size != like.size:
        raise NoCode(f"found {answers.size} values from the compiled model; expected {like.size}")
    return answers.reshape(like.shape)


def _run(command: list[str], folder: Path) -> str:
    try:
        ended: Any = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=SECONDS)
    except subprocess.TimeoutExpired:
        raise NoCode(f"{Path(command[0]).name} took more than {SECONDS} s") from None
    except OSError as error:  # a folder from which nothing may be run, a compiler that is none
        raise NoCode(f"{command[0]} can't be run here ({error.strerror})") from None
    if ended.returncode != 0:
        said = (ended.stderr.strip().splitlines() or [f"exit code {ended.returncode}"])[0]
        raise NoCode(f"{Path(command[0]).name} failed: {said[:200]}")
    return ended.stdout
