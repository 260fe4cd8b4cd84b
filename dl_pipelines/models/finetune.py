"""Fine-tuning: weights of a local safetensors file into the served network, and how fast each parameter may move.

Nothing is downloaded or unpickled: docs/finetuning.md has the command that turns a PyTorch checkpoint into safetensors.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dl_pipelines.brief.sections import Architecture, Pretrained
from dl_pipelines.store.digest import digest_file

if TYPE_CHECKING:
    import torch

LEAST = 0.5
"""Share of the tensors before the head that must fit."""
NAMED = 5
COUNTER = "num_batches_tracked"
"""Of a batch norm: fits whatever network it is of, and tells nothing."""
PAGE = "docs/finetuning.md"


class PretrainedError(ValueError):
    """Weights that can't be used: what was found, what was expected, what to do."""


@dataclass(frozen=True)
class Prepared:
    """What came of it: names of tensors taken over and fresh, and of each parameter the factor of its learning rate.

    `layers` are those of the network from the stem to the head, `frozen` those that stay as they are. `adapted` names a
    stem whose weights were given other channels.
    """

    taken: list[str]
    fresh: list[str]
    factors: dict[str, float]
    layers: int
    frozen: int
    adapted: str | None = None

    def plain(self) -> dict[str, Any]:
        """As in model.json."""
        return {"tensors": len(self.taken), "fresh": self.fresh, "layers": self.layers, "frozen": self.frozen,
                "adapted": self.adapted}  # fmt: skip


def located(pretrained: Pretrained | None) -> Pretrained | None:
    """With the file's whole path, for processes that may work elsewhere. Raises PretrainedError without one."""
    return None if pretrained is None else pretrained.model_copy(update={"weights": str(_path(pretrained).resolve())})


def settings_of(pretrained: Pretrained | None) -> dict[str, Any] | None:
    """What a training depends on: the file's sha256, wherever it lies, and what is done with it.

    Raises PretrainedError when there is no such file.
    """
    if pretrained is None:
        return None
    return {**pretrained.model_dump(mode="json", exclude={"weights"}), "sha256": digest_file(_path(pretrained))}


def architecture_settings(architecture: Architecture) -> dict[str, Any]:
    """What a training depends on in this section: all but the comparison, and weights by their content."""
    plain = architecture.model_dump(mode="json", exclude={"comparison"})
    return {**plain, "pretrained": settings_of(architecture.pretrained)}


def prepare(network: torch.nn.Module, pretrained: Pretrained) -> dict[str, float]:
    """Load the file's weights where name and shape fit; the factor of the learning rate of each parameter, 0: frozen.

    The head's factor is 1, that of a layer `layer_decay` times that of the one behind it (Howard and Ruder, 2018), and
    0 for the first `freeze` of the layers before the head. What stays fresh has nothing to keep: its factor is 1.
    Raises PretrainedError when the file is missing, unreadable or of another network.
    """
    return prepared(network, pretrained).factors


def prepared(network: torch.nn.Module, pretrained: Pretrained, copy: bool = True) -> Prepared:
    """`prepare`, with all that came of it; `copy` False only tells."""
    from dl_pipelines.models.depth import depths
    from dl_pipelines.models.naming import as_named
    from dl_pipelines.models.weights import copy_weights, learned

    path = _path(pretrained)
    tensors = _read(path)
    layers = depths(network)
    found, adapted = as_named(network, tensors, layers[0])
    head = set(layers[-1])
    before = [name for name, _ in learned(network) if name not in head and not name.endswith(COUNTER)]
    fit = set(copy_weights(network, found, copy=False)[0]) & set(before)
    if not fit or len(fit) < LEAST * len(before):
        raise PretrainedError(_too_few(path, before, fit, tensors))
    taken, fresh = copy_weights(network, found, copy)
    new = set(fresh)
    frozen = int(pretrained.freeze * (len(layers) - 1) + 0.5)
    factors = {
        name: 1.0 if name in new else 0.0 if place < frozen else pretrained.layer_decay ** (len(layers) - 1 - place)
        for place, names in enumerate(layers)
        for name in names
    }
    return Prepared(taken, fresh, factors, len(layers), frozen, adapted)


def _path(pretrained: Pretrained) -> Path:
    path = Path(pretrained.weights).expanduser()
    if not path.is_file():
        raise PretrainedError(
            f"found no file {path} (architecture.pretrained.weights); expected a safetensors file; mend the path, or "
            f"make one as {PAGE} says"
        )
    return path


def _read(path: Path) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    with path.open("rb") as file:
        start = file.read(16)
    if start.startswith((b"PK\x03\x04", b"\x80\x02")):
        raise PretrainedError(
            f"found a PyTorch checkpoint in {path}; expected a safetensors file, which runs no code when it is read; "
            f"convert it with the command in {PAGE}"
        )
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise PretrainedError(
            f"found no readable safetensors file in {path} ({error}); expected all of one; copy it again, or make it "
            f"again as {PAGE} says"
        ) from error
    bad = [name for name, value in tensors.items() if value.is_floating_point() and not bool(value.isfinite().all())]
    if bad:
        raise PretrainedError(
            f"found values in {path} that are not finite, in {_few(bad)}; expected finite weights; use another file"
        )
    return tensors


def _too_few(path: Path, before: list[str], fit: set[str], tensors: Mapping[str, torch.Tensor]) -> str:
    missing = [name for name in before if name not in fit]
    names = sorted(name for name in tensors if not name.endswith(COUNTER))
    return (
        f"found {len(fit)} of {len(before)} tensors before the head in {path} by name and shape; expected at least "
        f"half. The network lacks {_few(missing)}; the file has {_few(names)}. Name the family and the params of the "
        "network that the weights are of"
    )


def _few(names: Any) -> str:
    names = list(names)
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more
