"""Checkpoints: tensors as safetensors, the rest as JSON that is written last and names their sha256.

A checkpoint stands for a position: so many epochs are done, and so many steps of the next one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save

from dl_pipelines.store import durable
from dl_pipelines.store.digest import digest_bytes, digest_file

KEPT = 2
"""The newest, and one to fall back on should that be damaged."""


def save_checkpoint(
    folder: Path, epoch: int, tensors: Mapping[str, torch.Tensor], about: Mapping[str, Any], step: int = 0
) -> None:
    """Add the checkpoint of a position to `folder` and drop old ones; a crash at any moment leaves a whole one."""
    data = save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
    path = folder / f"epoch-{epoch:05d}{f'-{step:08d}' if step else ''}.safetensors"
    durable.write_bytes(path, data)
    durable.write_json(path.with_suffix(".json"), {**about, "epoch": epoch, "step": step, "sha256": digest_bytes(data)})
    for old in _states(folder)[:-KEPT]:
        old.unlink()
        old.with_suffix(".safetensors").unlink(missing_ok=True)


def load_checkpoint(folder: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]] | None:
    """Tensors and the rest of the newest checkpoint that is whole; None when there is none."""
    for state in reversed(_states(folder)):
        try:
            about = durable.read_json(state)
            path = state.with_suffix(".safetensors")
            if digest_file(path) == about["sha256"]:
                return load_file(path), about
        except (OSError, ValueError, KeyError, TypeError):  # torn or overwritten: the one before is as good
            continue
    return None


def _states(folder: Path) -> list[Path]:
    return sorted(folder.glob("epoch-*.json"), key=lambda path: path.stem)


def part(tensors: Mapping[str, torch.Tensor], start: str) -> dict[str, torch.Tensor]:
    """Those whose names begin with `start`, without that."""
    return {name.removeprefix(start): value for name, value in tensors.items() if name.startswith(start)}


def model_tensors(modules: Mapping[str, torch.nn.Module]) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Parameters and buffers of each module, by `model/<module>/<name>`.

    What modules share is stored once, under its first name; the second result leads from the other names to that.
    """
    found: dict[str, torch.Tensor] = {}
    aliases: dict[str, str] = {}
    seen: dict[int, str] = {}
    for key, module in modules.items():
        for name, value in module.state_dict(keep_vars=True).items():
            path = f"model/{key}/{name}"
            if id(value) in seen:
                aliases[path] = seen[id(value)]
            else:
                seen[id(value)], found[path] = path, value
    return found, aliases


def restore_model(
    modules: Mapping[str, torch.nn.Module], tensors: Mapping[str, torch.Tensor], aliases: Mapping[str, str]
) -> None:
    """The reverse of model_tensors."""
    whole = {**tensors, **{path: tensors[first] for path, first in aliases.items()}}
    for key, module in modules.items():
        module.load_state_dict(part(whole, f"model/{key}/"))


def optimizer_tensors(name: str, optimizers: Sequence[torch.optim.Optimizer]) -> dict[str, torch.Tensor]:
    """Their state, by `optimizer/<name>/<number>/<parameter>/<key>`; every value of it is a tensor or a number."""
    return {
        f"optimizer/{name}/{number}/{position}/{key}": torch.as_tensor(value)
        for number, optimizer in enumerate(optimizers)
        for position, state in optimizer.state_dict()["state"].items()
        for key, value in state.items()
        if value is not None
    }


def restore_optimizer(
    name: str, optimizers: Iterable[torch.optim.Optimizer], tensors: Mapping[str, torch.Tensor]
) -> None:
    """The reverse of optimizer_tensors."""
    for number, optimizer in enumerate(optimizers):
        state: dict[int, dict[str, torch.Tensor]] = {}
        for path, value in part(tensors, f"optimizer/{name}/{number}/").items():
            position, key = path.split("/")
            state.setdefault(int(position), {})[key] = value
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
