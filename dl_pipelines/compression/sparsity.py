"""Unstructured pruning: single weights become zero and are stored as a mask. Files get smaller, not faster.

Magnitude pruning after Han et al. (2015, "Learning both Weights and Connections", 3.1): a threshold for each layer in
standard deviations of its weights; nothing is trained again. The whole is a graph of operators that every runtime has.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, field_validator

from dl_pipelines.brief.registry import Params as BaseParams
from dl_pipelines.compression.base import Network, Technique, TechniqueError, Variant

if TYPE_CHECKING:
    import numpy as np
    import onnx

    from dl_pipelines.compression.workshop import Workshop

WEIGHTS = {"Conv": (1,), "Gemm": (0, 1), "MatMul": (0, 1)}
"""Inputs of operators that weights are looked for in."""
LEAST = 256
"""Weights of a smaller tensor stay as they are: the operators that restore it would be larger."""
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
            if not all(0 < share < 1 for share in shares) or len(set(shares)) != len(shares):
                raise ValueError(f"different shares between 0 and 1, not {list(shares)}")
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
        made = []
        for share in self.params.shares:
            name = f"sparse_{round(100 * share)}"
            path = shop.folder / f"{name}.onnx"
            try:
                details = sparsify(start.onnx, path, share)
            except TechniqueError as error:
                made.append(Variant(name, self.name, "sparse", None, str(error)))
            else:
                made.append(Variant(name, self.name, "sparse", path, details=details))
        return made


def sparsify(base: Path, target: Path, share: float) -> dict[str, Any]:
    """Write `base` with `share` (0..1) of its weights zero, and what that did to them. Raises TechniqueError.

    Weights of convolutions and products whose number is a multiple of eight; each is restored when the model is loaded.
    """
    import numpy as np
    import onnx
    from onnx import numpy_helper

    model = onnx.load(str(base))
    dense = {item.name: numpy_helper.to_array(item) for item in _weights(model.graph)}
    if not dense:
        raise TechniqueError(
            f"found no weights of {', '.join(WEIGHTS)} with {LEAST} numbers or more; expected a larger network"
        )
    sizes = {name: np.abs(value) / max(float(value.std()), 1e-30) for name, value in dense.items()}
    every = np.concatenate([value.ravel() for value in sizes.values()])
    last = max(round(share * len(every)), 1) - 1
    threshold = np.partition(every, last)[last]
    kept = {name: np.where(sizes[name] > threshold, value, np.float32(0)) for name, value in dense.items()}
    _store(model, kept)
    onnx.checker.check_model(model, full_check=True)
    written = model.SerializeToString(deterministic=True)
    before = base.stat().st_size
    if len(written) >= before:
        raise TechniqueError(
            f"found {len(written)} bytes with {share:.0%} of the weights zero; expected fewer than the {before} of the "
            "dense file: ask for a larger share, or for a network whose weights outweigh its graph"
        )
    target.write_bytes(written)
    zeros = {name: round(float((value == 0).mean()), 4) for name, value in kept.items()}
    return {
        "kind": KIND, "share": share, "threshold": round(float(threshold), 4), "zeros": zeros,
        "bytes": [before, len(written)],
    }  # fmt: skip


def _weights(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Float32 initializers that a product or convolution has for its weights, each once."""
    from onnx import TensorProto

    used = {
        node.input[place] for node in graph.node for place in WEIGHTS.get(node.op_type, ()) if place < len(node.input)
    }
    for item in graph.initializer:
        count = 1
        for side in item.dims:
            count *= side
        if item.name in used and item.data_type == TensorProto.FLOAT and count >= LEAST and count % BITS == 0:
            yield item


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
