"""Networks whose weights are slices of a larger one's: the first channels of its first layers, block by block.

A space of widths and depths, what a family says of it, and the weights of each point. Nothing is trained here: see
`training/change_weight_shared.py`. After Yu and Huang (2019, universally slimmable), Cai et al. (2020, once for all).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from dl_pipelines.brief.references import FamilyRef
from dl_pipelines.brief.registry import Named
from dl_pipelines.tasks.base import Task

if TYPE_CHECKING:
    import torch

KEPT = 64
"""Networks that are kept to be answered by again: of a large space a long training draws thousands."""


@dataclass(frozen=True)
class Point:
    """A network of a space: channels and number of layers of each of its blocks."""

    widths: tuple[int, ...]
    depths: tuple[int, ...]

    @property
    def name(self) -> str:
        """`16x1_32x2`: 16 channels in one layer, then 32 in two."""
        return "_".join(f"{width}x{depth}" for width, depth in zip(self.widths, self.depths, strict=True))


@dataclass(frozen=True)
class Space:
    """Of each block the widths and depths that it may have, rising; a network may end after block `shortest` or later.

    Raises ValueError where a block has no choice, or `shortest` is none of the blocks.
    """

    widths: tuple[tuple[int, ...], ...]
    depths: tuple[tuple[int, ...], ...]
    shortest: int

    def __post_init__(self):
        if len(self.widths) != len(self.depths) or not all((*self.widths, *self.depths)):
            raise ValueError(f"found the widths {self.widths} and depths {self.depths}; expected some of each block")
        if not 1 <= self.shortest <= len(self.widths):
            raise ValueError(f"found {self.shortest} blocks at least; expected 1 to {len(self.widths)}")

    def __len__(self) -> int:
        """Number of points."""
        return sum(self._of(blocks) for blocks in range(self.shortest, len(self.widths) + 1))

    def __getitem__(self, place: int) -> Point:
        """A point by its place: short networks first, the first block's width counts fastest. Raises IndexError."""
        if not 0 <= place < len(self):
            raise IndexError(place)
        blocks = self.shortest
        while place >= self._of(blocks):
            place -= self._of(blocks)
            blocks += 1
        chosen: list[int] = []
        for options in (*self.widths[:blocks], *self.depths[:blocks]):
            place, option = divmod(place, len(options))
            chosen.append(options[option])
        return Point(tuple(chosen[:blocks]), tuple(chosen[blocks:]))

    def of_length(self, blocks: int) -> Space:
        """Its networks of so many blocks."""
        return Space(self.widths[:blocks], self.depths[:blocks], blocks)

    @property
    def largest(self) -> Point:
        """Everything at its most."""
        return Point(tuple(options[-1] for options in self.widths), tuple(options[-1] for options in self.depths))

    @property
    def smallest(self) -> Point:
        """Everything at its least."""
        short = slice(self.shortest)
        return Point(
            tuple(options[0] for options in self.widths[short]), tuple(options[0] for options in self.depths[short])
        )

    def _of(self, blocks: int) -> int:
        return prod(len(options) for options in (*self.widths[:blocks], *self.depths[:blocks]))


def scaled(start: Point, widths: Sequence[float], depths: Sequence[int], shortest: int | None = None) -> Space:
    """The space around a network: shares of its width, and numbers of layers, for each block; None: with all blocks."""
    of_block = tuple(tuple(sorted({max(1, round(share * width)) for share in widths})) for width in start.widths)
    blocks = len(start.widths)
    return Space(of_block, (tuple(sorted(set(depths))),) * blocks, min(shortest or blocks, blocks))


@runtime_checkable
class Searchable(Protocol):
    """What a family adds so that its widths and depths can be searched; an instance is a network's params."""

    def space(self, widths: Sequence[float], depths: Sequence[int], shortest: int | None) -> Space | None:
        """The space around this network, see `scaled`; None where it has no widths or depths to choose."""
        ...

    def at(self, point: Point) -> dict[str, Any]:
        """The params, as a brief's, of the network at a point."""
        ...

    def within(self, whole: Any, task: Task) -> dict[str, str]:
        """Of each module of this network with state the one of `whole` that it is the first channels of, by name."""
        ...


def searchable(ref: Named) -> Searchable:
    """A family with its params. Raises ValueError where it can't be searched."""
    from dl_pipelines.models.registry import FAMILIES

    family = FAMILIES.make(ref)
    if not isinstance(family, Searchable):
        raise ValueError(
            f"the family {ref.name} has no widths or depths to search; expected one with `space`, such as cnn; leave "
            "architecture_search out of compression.techniques"
        )
    return family


def family_at(ref: Named, point: Point) -> FamilyRef:
    """The family of a point. Raises ValueError where it can't be searched."""
    return FamilyRef(name=ref.name, params=searchable(ref).at(point))


class Parts:
    """The networks of the points below a largest one; their weights are slices of the largest's."""

    def __init__(self, family: Named, largest: Point, task: Task, statistics: Mapping[str, Any]):
        self._family, self._task, self._statistics = family, task, statistics
        self._whole: Any = searchable(family_at(family, largest))
        self._hollow: dict[Point, torch.nn.Module] = {}

    def network(self, point: Point) -> torch.nn.Module:
        """The family's network at a point, in train mode, with fresh weights. Draws nothing from torch's generator."""
        import torch

        with torch.random.fork_rng(devices=[]):
            return self._at(point).network(self._task, self._statistics).train()

    def weights(
        self, point: Point, network: torch.nn.Module, whole: Mapping[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]:  # fmt: skip
        """Of tensors of the largest, by name, those parts that the network at a point has, by its names: views.

        What is not in `whole` is left out.
        """
        modules, found = self._at(point).within(self._whole, self._task), {}
        for name, value in network.state_dict().items():
            module, _, tensor = name.rpartition(".")
            source = f"{modules[module]}.{tensor}"
            if source in whole:
                found[name] = whole[source][tuple(slice(size) for size in value.shape)]
        return found

    def loaded(self, point: Point, whole: Mapping[str, torch.Tensor]) -> torch.nn.Module:
        """The network at a point with its slices of the largest's tensors; statistics are still to be found."""
        network = self.network(point)
        network.load_state_dict(self.weights(point, network, whole))
        return network

    def answer(self, point: Point, whole: torch.nn.Module, inputs: torch.Tensor) -> torch.Tensor:
        """What the network at a point answers in train mode with parameters of `whole`, which get the gradients.

        Batch norm goes by the batch; running statistics of `whole` stay as they are.
        """
        from torch.func import functional_call

        if point not in self._hollow:
            while len(self._hollow) >= KEPT:
                del self._hollow[next(iter(self._hollow))]  # the oldest
            self._hollow[point] = _hollow(self.network(point).to(inputs.device))
        network = self._hollow[point]
        return functional_call(network, self.weights(point, network, dict(whole.named_parameters())), (inputs,))

    def _at(self, point: Point) -> Any:
        return searchable(family_at(self._family, point))


def _hollow(network: torch.nn.Module) -> torch.nn.Module:
    """Without memory for its parameters, which others stand for."""
    import torch

    for module in network.modules():
        for name, value in module.named_parameters(recurse=False):
            setattr(module, name, torch.nn.Parameter(torch.empty_like(value, device="meta")))
    return network


def recalibrated(network: torch.nn.Module, inputs: torch.Tensor, batch: int = 256) -> torch.nn.Module:
    """The network in eval mode with running statistics of batch norm that are the mean over these inputs' batches.

    What slices of shared weights need before they are scored (Yu and Huang, 2019, section 3.2). Batches count alike, so
    that they are as equal as can be, of `batch` rows at most.
    """
    import torch

    norms = [layer for layer in network.eval().modules() if isinstance(layer, torch.nn.modules.batchnorm._BatchNorm)]
    momenta = [layer.momentum for layer in norms]
    for layer in norms:
        layer.train()
        layer.reset_running_stats()
        layer.momentum = None  # the mean over all batches
    with torch.no_grad():
        for rows in inputs.tensor_split(max(1, -(-len(inputs) // batch))):
            network(rows)
    for layer, momentum in zip(norms, momenta, strict=True):
        layer.momentum = momentum
    return network.eval()
