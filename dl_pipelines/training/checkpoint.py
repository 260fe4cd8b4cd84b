"""Checkpoints of each epoch: tensors as safetensors, the rest as JSON that is written last and names their sha256."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save

from dl_pipelines.store import durable
from dl_pipelines.store.digest import digest_bytes, digest_file

KEPT = 2
"""The newest, and one to fall back on should that be damaged."""


def save_checkpoint(folder: Path, epoch: int, tensors: Mapping[str, torch.Tensor], about: Mapping[str, Any]) -> None:
    """Add the checkpoint of an epoch to `folder` and drop old ones; a crash at any moment leaves a whole one."""
    data = save({name: tensor.detach().contiguous() for name, tensor in tensors.items()})
    path = folder / f"epoch-{epoch:05d}.safetensors"
    durable.write_bytes(path, data)
    durable.write_json(path.with_suffix(".json"), {**about, "epoch": epoch, "sha256": digest_bytes(data)})
    for old in sorted(folder.glob("epoch-*.json"))[:-KEPT]:
        old.unlink()
        old.with_suffix(".safetensors").unlink(missing_ok=True)


def load_checkpoint(folder: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]] | None:
    """Tensors and the rest of the newest checkpoint that is whole; None when there is none."""
    for state in sorted(folder.glob("epoch-*.json"), reverse=True):
        try:
            about = durable.read_json(state)
            path = state.with_suffix(".safetensors")
            if digest_file(path) == about["sha256"]:
                return load_file(path), about
        except (OSError, ValueError, KeyError, TypeError):  # torn or overwritten: the one before is as good
            continue
    return None


def model_tensors(modules: Mapping[str, torch.nn.Module]) -> dict[str, torch.Tensor]:
    """Parameters and buffers of each module, by `model/<module>/<name>`."""
    return {
        f"model/{key}/{name}": value for key, module in modules.items() for name, value in module.state_dict().items()
    }


def restore_model(modules: Mapping[str, torch.nn.Module], tensors: Mapping[str, torch.Tensor]) -> None:
    """The reverse of model_tensors."""
    for key, module in modules.items():
        start = f"model/{key}/"
        module.load_state_dict({n.removeprefix(start): v for n, v in tensors.items() if n.startswith(start)})


def optimizer_tensors(name: str, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """The optimizer's state, by `optimizer/<name>/<parameter>/<key>`; every value of it is a tensor or a number."""
    found = {}
    for position, state in optimizer.state_dict()["state"].items():
        for key, value in state.items():
            if value is not None:
                found[f"optimizer/{name}/{position}/{key}"] = torch.as_tensor(value)
    return found


def restore_optimizer(name: str, optimizer: torch.optim.Optimizer, tensors: Mapping[str, torch.Tensor]) -> None:
    """The reverse of optimizer_tensors."""
    start, state = f"optimizer/{name}/", {}
    for path, value in tensors.items():
        if path.startswith(start):
            position, key = path.removeprefix(start).split("/")
            state.setdefault(int(position), {})[key] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
