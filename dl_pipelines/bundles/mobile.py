"""The bundle for a phone: ONNX Runtime's own format (`.ort`), what a minimal build of it must have, ExecuTorch if here.

Source: onnxruntime.ai, "ORT model format" and "Reduced operator config file".
"""

from __future__ import annotations

import contextlib
import io
import logging
import shutil
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from dl_pipelines.bundles import executorch
from dl_pipelines.bundles.base import Built, BundleError, Check, Source
from dl_pipelines.bundles.edge import INPUTS, OUTPUTS, write_rows
from dl_pipelines.inference.parity import session_outputs
from dl_pipelines.inference.runtimes import open_runtime
from dl_pipelines.serving.config import write_labels
from dl_pipelines.store import durable

if TYPE_CHECKING:
    import numpy as np

MODEL, OPERATORS = "model.ort", "required_operators_and_types.config"


def build(source: Source, folder: Path, work: Path) -> Built:
    """See base.Build."""
    path, precision, why = _carried(source)
    source.tell("converting to ONNX Runtime's format")
    _convert(path, folder, work)
    source.tell("answering the parity rows with it")
    reference = _answers(path, source.inputs)
    within = source.tolerance_of(_answers(source.network, source.inputs), reference) if precision == "int8" else None
    answers = _answers(folder / MODEL, source.inputs)
    checks = [
        source.served_check(),
        source.check(f"{MODEL} with the ONNX file that it was made of", reference, answers, tolerance=within),
        # Of few rows one decision that int8 takes otherwise is more than it may.
        source.check(
            f"{MODEL} with the recorded answers of the served model",
            source.many_outputs,
            _answers(folder / MODEL, source.many_inputs),
            exact=False,
        ),
    ]
    facts = {"precision": precision, "why": why, "executorch": "model.pte"}
    made = _executorch(source, folder)
    if isinstance(made, Check):
        checks.append(made)
    else:
        facts["executorch"] = f"not made: {made}"
    write_labels(source.signature, folder)
    write_rows(source, folder)
    return Built(tuple(checks), facts, _readme(precision, why, made if isinstance(made, str) else None))


def _carried(source: Source) -> tuple[Path, str, str]:
    """The ONNX file that goes into the bundle, its precision, and why it is that one."""
    choice = source.choice
    if choice["runtime"] == "onnxruntime":
        return source.model, choice["precision"], "the served file"
    why = (
        f"the float32 export of the network that serves: what serves ({choice['variant']}, {choice['precision']}) is "
        f"in the format of {choice['runtime']}"
    )
    return source.network, "fp32", why


def _convert(path: Path, folder: Path, work: Path) -> None:
    """The two files of ONNX Runtime's converter, for ARM. Raises BundleError.

    The bytes of the .ort differ from run to run: ONNX Runtime writes some of its tables in the order of a hash.
    """
    from onnxruntime.tools.convert_onnx_models_to_ort import OptimizationStyle, convert_onnx_models_to_ort

    given = work / "model.onnx"
    shutil.copyfile(path, given)
    log = logging.getLogger("ort_format_model.utils")
    before, log.disabled = log.disabled, True
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)  # it leaves closing a file to Python
            convert_onnx_models_to_ort(
                given, work, [OptimizationStyle.Fixed], target_platform="arm", enable_type_reduction=True
            )
    except Exception as error:  # sessions of ONNX Runtime raise types of their own, none of them public
        told = str(error).strip().splitlines()
        raise BundleError(
            f"found a graph that ONNX Runtime can't write in its format ({told[0][:200] if told else type(error)}); "
            "expected operators that it has; make an edge bundle instead"
        ) from error
    finally:
        log.disabled = before
    shutil.copyfile(work / MODEL, folder / MODEL)
    text = (work / f"model.{OPERATORS}").read_text(encoding="utf-8")
    kept = [
        line for line in text.splitlines() if not line.startswith("#")
    ]  # the comment names a folder of this machine
    durable.put_text(folder / OPERATORS, "\n".join([f"# Generated from {MODEL}", *kept]).rstrip() + "\n")


def _answers(path: Path, inputs: np.ndarray) -> np.ndarray:
    return session_outputs(open_runtime("onnxruntime", path), inputs)


def _executorch(source: Source, folder: Path) -> Check | str:
    """`model.pte` and its parity, or why there is none."""
    reason = executorch.missing()
    if reason is not None:
        return reason
    source.tell("exporting with ExecuTorch")
    try:
        answers = executorch.write(source, folder / executorch.MODEL)
    except executorch.ExecutorchFailed as error:
        return str(error)
    float32 = _answers(source.network, source.inputs)
    check = source.check(f"{executorch.MODEL} with the float32 ONNX of the network", float32, answers)
    if not check.parity.passed:
        (folder / executorch.MODEL).unlink()
        return f"what ExecuTorch wrote answers otherwise: {check.parity.summary}"
    return check


def _readme(precision: str, why: str, missing: str | None) -> str:
    pte = (
        f"`{executorch.MODEL}`: there is none ({missing})."
        if missing is not None
        else f"`{executorch.MODEL}`: the float32 network for ExecuTorch with XNNPACK, one row at a time."
    )
    return f"""
`{MODEL}` is for ONNX Runtime on phones (Android: `com.microsoft.onnxruntime:onnxruntime-android`, iOS:
`onnxruntime-c`). It carries {precision} weights: {why}.

1. Put `{MODEL}` into the app's assets and open it with an `OrtSession` (Kotlin, Java) or `ORTSession` (Swift,
   Objective-C), as any ONNX file.
2. A smaller library: build ONNX Runtime with `--minimal_build --include_ops_by_config {OPERATORS}
   --enable_reduced_operator_type_support`; it then has what this model needs and no more.
3. Feed `{INPUTS}` and compare with `{OUTPUTS}` on the device.

{pte}

The files were compared on this machine's processor, not on a phone.
"""
