"""From a torch module to an ONNX file: dynamic batch, checked, the same bytes for the same weights. Not compression.

Preprocessing is inside the module, so the graph takes raw inputs as the task's signature says.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from dl_pipelines.inference.pooled_views import drop_pooled_views
from dl_pipelines.tasks.base import Task, Tensor

if TYPE_CHECKING:
    import onnx
    import torch

OPSET = 18
"""What `torch.onnx` writes without converting; ONNX Runtime from 1.14 and every OpenVINO of this decade read it."""

LARGEST_BYTES = 2_000_000_000
"""A protobuf message ends at 2 GiB; beyond it ONNX needs a second file, which no stage here handles."""


class ExportError(ValueError):
    """A module can't be written as ONNX; says why."""


def export_onnx(module: torch.nn.Module, task: Task, path: Path) -> Path:
    """Write `module` (in eval mode, on the CPU) as ONNX with the signature's names and a free batch dimension.

    `module` takes the signature's input, [N, *shape], and gives its output, [N, *shape]. The file holds the weights;
    there is no second file. It holds no paths or traces of this machine. Returns `path`. Raises ExportError.
    """
    signature = task.signature()
    if len(signature.inputs) != 1 or len(signature.outputs) != 1 or signature.stateful:
        raise ExportError(
            f"found a signature with {len(signature.inputs)} inputs and {len(signature.outputs)} outputs"
            f"{', with state' if signature.stateful else ''}; expected one of each and no state"
        )
    model = _program(module, signature.inputs[0], signature.outputs[0])
    drop_pooled_views(model)
    _strip(model)
    size = model.ByteSize()
    if size > LARGEST_BYTES:
        raise ExportError(f"found a graph of {size / 1e9:.1f} GB; expected at most {LARGEST_BYTES / 1e9:g} GB")
    _check(model)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(model.SerializeToString(deterministic=True))
    return path


def _program(module: torch.nn.Module, given: Tensor, gives: Tensor) -> onnx.ModelProto:
    import numpy as np
    import torch

    if module.training:
        raise ExportError("found a module in training mode; expected eval mode; call module.eval() first")
    free = {place + 1: torch.export.Dim(f"dim{place + 1}") for place, size in enumerate(given.shape) if size == -1}
    example = torch.from_numpy(np.zeros((2, *(2 if size == -1 else size for size in given.shape)), given.dtype))
    with warnings.catch_warnings():
        # The exporter warns of its own code (a deprecated class, the weights that recurrent layers list again). What it
        # made is checked below, and compared with the module by parity.
        warnings.simplefilter("ignore")
        try:
            program = torch.onnx.export(
                module,
                (example,),
                dynamo=True,
                input_names=[given.name],
                output_names=[gives.name],
                dynamic_shapes=({0: torch.export.Dim("batch"), **free},),
                opset_version=OPSET,
                external_data=False,
                verbose=False,
            )
        except torch.onnx.OnnxExporterError as error:
            raise ExportError(
                f"found {type(module).__name__} that torch.onnx can't export ({_first_line(error)}); expected a "
                "forward without branches on the data and with operators that ONNX has"
            ) from error
    assert program is not None
    return program.model_proto


def _first_line(error: BaseException) -> str:
    cause = error.__cause__ or error
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    return f"{type(cause).__name__}: {lines[0][:200] if lines else 'no message'}"


def _strip(model: onnx.ModelProto) -> None:
    """Remove the traces of the source (paths, lines): bytes depend on the graph and its weights alone."""
    graph = model.graph
    model.producer_version = ""
    for thing in (model, graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        if "metadata_props" in thing.DESCRIPTOR.fields_by_name:
            del thing.metadata_props[:]
        thing.ClearField("doc_string")


def _check(model: onnx.ModelProto) -> None:
    import onnx

    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"found a graph that ONNX's checker refuses: {_first_line(error)}") from error
    for value in (*model.graph.input, *model.graph.output):
        batch = value.type.tensor_type.shape.dim[0]
        if not batch.dim_param:
            raise ExportError(
                f"found {value.name!r} with a batch of {batch.dim_value} fixed in the graph; expected a free batch; "
                "mend the network's forward: it may not use the batch size as a number"
            )
