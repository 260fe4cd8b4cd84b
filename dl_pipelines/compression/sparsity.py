"""Unstructured pruning: single weights become zero and are stored as a mask. Files get smaller, not faster.

Magnitude pruning after Han et al. (2015, "Learning both Weights and Connections", 3.1): a threshold for each layer in
standard deviations of its weights; nothing is trained again. The whole is a graph of operators that every runtime has.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, field_validator

from dl_pipelines.brief.registry import Params as BaseParams
from dl_pipelines.compression.base import Network, Technique, TechniqueError, Variant, checked_bytes, share_name
from dl_pipelines.store import durable

if TYPE_CHECKING:
    import numpy as np
    import onnx
    from torch import nn

    from dl_pipelines.compression.workshop import Workshop

LEAST = 256
"""A tensor of fewer weights stays as it is."""
OPERATORS = 1_000
"""Bytes of the operators that restore a tensor, about."""
BITS = 8
KIND = "unstructured: the file is smaller, what the runtime computes is as much as before"


class Sparsity(Technique):
    """A variant for each share of weights that become zero: `sparse_50`, `sparse_70`; for `objective: size` only.

    Non-zero weights stay float32, with one bit a weight that says where they are: at a half 53 % of the dense size.
    ONNX's own sparse tensors take eight bytes a weight for that, and only ONNX Runtime reads them.
    """

    name = "sparsity"
    phase = "prune"
    template_row = "PRUNE"

    class Params(BaseParams):
        """Which shares of the weights become zero."""

        shares: tuple[float, ...] = Field(
            default=(0.3, 0.4, 0.5, 0.6, 0.7), min_length=1, description="of all weights together, between 0 and 1"
        )

        @field_validator("shares")
        @classmethod
        def _between(cls, shares: tuple[float, ...]) -> tuple[float, ...]:
            if not all(0 < share < 1 for share in shares) or len(set(map(share_name, shares))) != len(shares):
                raise ValueError(f"shares between 0 and 1 that differ in their first four digits, not {list(shares)}")
            return shares

    params: Params

    def unsuited(self, start: Network, shop: Workshop) -> str | None:
        """Whatever is not about size: runtimes restore the zeros and multiply by them."""
        objective = shop.compression.objective
        return None if objective == "size" else (
            f"makes files smaller, not faster: only for compression.objective: size, not {objective}"
        )  # fmt: skip

    def variants(self, start: Network, shop: Workshop) -> list[Variant]:
        """See Technique.variants."""
        made = list[Variant]()
        for place, share in enumerate(self.params.shares):
            name = f"sparse_{share_name(share)}"
            shop.say(f"sparsity: {name}", place, len(self.params.shares))
            try:
                made.append(self._variant(name, share, start, shop))
            except TechniqueError as error:
                made.append(Variant(name, self.name, "fp32", None, str(error)))
        return made

    def _variant(self, name: str, share: float, start: Network, shop: Workshop) -> Variant:
        from safetensors.torch import save

        module = shop.module(start)
        threshold, zeros = zero_weights(module, share)
        weights, path = shop.folder / f"{name}.safetensors", shop.folder / f"{name}_masked.onnx"
        durable.write_bytes(weights, save({key: value.contiguous() for key, value in module.state_dict().items()}))
        network = shop.export(name, start.plan, weights)
        store_masks(network.onnx, path)
        sizes = [network.onnx.stat().st_size, path.stat().st_size]
        details = {"kind": KIND, "share": share, "threshold": threshold, "zeros": zeros, "bytes": sizes}
        return Variant(name, self.name, "fp32", path, network=network, details=details)


def zero_weights(network: nn.Module, share: float) -> tuple[float, dict[str, float]]:
    """Set `share` (0..1) of the weights of convolutions and dense layers to zero, in place.

    Those that are smallest in standard deviations of their layer's weights; gives the largest of these, and each
    layer's share. Raises TechniqueError when there are no such layers.
    """
    import torch
    from torch import nn

    layers = {
        name: layer.weight for name, layer in network.named_modules()
        if isinstance(layer, nn.Linear | nn.modules.conv._ConvNd)
    }  # fmt: skip
    if not layers:
        raise TechniqueError("found no convolution or dense layer; expected some, whose weights can become zero")
    with torch.no_grad():
        sizes = {name: value.abs() / value.std(correction=0).clamp_min(1e-30) for name, value in layers.items()}
        every = torch.cat([value.flatten() for value in sizes.values()])
        threshold = every.kthvalue(max(round(share * len(every)), 1)).values
        for name, value in layers.items():
            value[sizes[name] <= threshold] = 0
        zeros = {name: round(float((value == 0).float().mean()), 4) for name, value in layers.items()}
    return round(float(threshold), 4), zeros


def store_masks(base: Path, target: Path) -> None:
    """Write `base` with a mask and the other values in place of each tensor that gets smaller by it.

    Tensors of a multiple of eight numbers; each is made whole when the model is loaded. Raises TechniqueError when the
    file gets no smaller.
    """
    import onnx
    from onnx import TensorProto, numpy_helper

    model, before = onnx.load(str(base)), base.stat().st_size
    dense = {
        item.name: numpy_helper.to_array(item)
        for item in model.graph.initializer
        if item.data_type == TensorProto.FLOAT
    }
    _store(model, {name: value for name, value in dense.items() if _pays(value)})
    written = checked_bytes(model, shapes=True)
    if len(written) >= before:
        raise TechniqueError(
            f"found {len(written)} bytes with masks; expected fewer than the {before} of the dense file: ask for "
            "larger shares, or for a network whose weights outweigh its graph"
        )
    target.write_bytes(written)


def _pays(value: np.ndarray) -> bool:
    saved = 4 * int((value == 0).sum()) - value.size / BITS
    return value.size >= LEAST and value.size % BITS == 0 and saved > OPERATORS


def _store(model: onnx.ModelProto, sparse: dict[str, np.ndarray]) -> None:
    """In place of these initializers: their bits and values, and nodes that make them whole again.

    A weight is the value at as many ones as its mask has up to there; a zero is at 0. Shapes are known before anything
    runs, so that runtimes do this once, when they load the model.
    """
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    graph, nodes, constants = model.graph, list[Any](), list[Any]()
    shared = {"sparse_powers": np.array([[1 << bit for bit in range(BITS)]], np.uint8),
              "sparse_flat": np.array([-1], np.int64), "sparse_axis": np.array(0, np.int64)}  # fmt: skip
    for name, value in sparse.items():
        flat = value.ravel()
        bits = np.packbits(flat != 0, bitorder="little")[:, None]
        values = np.concatenate([np.zeros(1, np.float32), flat[flat != 0]])
        shape = np.array(value.shape, np.int64)
        constants += [(f"{name}_bits", bits), (f"{name}_values", values), (f"{name}_shape", shape)]
        steps = [
            ("BitwiseAnd", ["bits", "sparse_powers"], "and", {}), ("Cast", ["and"], "set", {"to": TensorProto.BOOL}),
            ("Cast", ["set"], "ones", {"to": TensorProto.INT32}), ("Reshape", ["ones", "sparse_flat"], "mask", {}),
            ("CumSum", ["mask", "sparse_axis"], "count", {}), ("Mul", ["count", "mask"], "places", {}),
            ("Gather", ["values", "places"], "flat", {}), ("Reshape", ["flat", "shape"], "", {}),
        ]  # fmt: skip
        for operator, given, gives, attributes in steps:
            inputs = [part if part in shared else f"{name}_{part}" for part in given]
            output = f"{name}_{gives}" if gives else name
            nodes.append(helper.make_node(operator, inputs, [output], f"{output}_{operator}", **attributes))
    rest = [item for item in graph.initializer if item.name not in sparse]
    del graph.initializer[:]
    graph.initializer.extend(rest)
    graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in [*shared.items(), *constants])
    before = list(graph.node)
    del graph.node[:]
    graph.node.extend([*nodes, *before])
