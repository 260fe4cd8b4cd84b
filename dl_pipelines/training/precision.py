"""Which device and which number format a training runs with: chosen by the brief and by what the hardware has."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from dl_pipelines.brief.sections import Training

FORMATS = {"bf16": torch.bfloat16, "fp16": torch.float16}


class NoSuchHardware(ValueError):
    """The brief asks for a device or a number format that this machine has not."""


@dataclass(frozen=True)
class Numerics:
    """`precision` is what runs: fp32, bf16 or fp16. Weights stay in float32; only operations are cast."""

    device: torch.device
    precision: str

    def autocast(self) -> AbstractContextManager[Any]:
        """Under which losses are computed."""
        found = FORMATS.get(self.precision)
        return nullcontext() if found is None else torch.autocast(self.device.type, found)

    def put(self, array: np.ndarray) -> torch.Tensor:
        """The array on the device; the host does not wait for a copy from pinned memory."""
        tensor = torch.from_numpy(array)
        return tensor if self.device.type == "cpu" else tensor.to(self.device, non_blocking=True)

    def scaler(self) -> torch.amp.GradScaler | None:
        """What keeps small gradients above the smallest fp16 number (Micikevicius et al., 2018)."""
        return torch.amp.GradScaler(self.device.type) if self.precision == "fp16" else None


def choose(training: Training) -> Numerics:
    """The numerics of a training on this machine. Raises NoSuchHardware."""
    device = _device(training.device)
    precision = training.precision
    if precision == "mixed":
        precision = _mixed(device)
    if precision == "fp16" and device.type == "cpu":
        raise NoSuchHardware(
            "found training.precision: fp16 and no GPU; expected fp32, bf16 or mixed on a CPU, or a GPU that "
            "torch.cuda.is_available() sees"
        )
    return Numerics(device, precision)


def has_bf16(capabilities: dict[str, Any]) -> bool:
    """Whether a CPU multiplies in bf16 by itself; elsewhere bf16 is emulated and slower than fp32."""
    return any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "amx_tile", "bf16"))


def _device(wanted: str) -> torch.device:
    there = torch.cuda.is_available()
    if wanted == "cuda" and not there:
        raise NoSuchHardware(
            f"found training.device: cuda and no GPU (torch {torch.__version__}); expected one that "
            "torch.cuda.is_available() sees; set training.device to auto or cpu"
        )
    if wanted == "cpu" or not there:
        return torch.device("cpu")
    # Workers of one machine share its GPUs evenly.
    local = int(os.environ.get("HOROVOD_LOCAL_RANK", os.environ.get("LOCAL_RANK", "0")))
    device = torch.device("cuda", local % torch.cuda.device_count())
    torch.cuda.set_device(device)
    return device


def _mixed(device: torch.device) -> str:
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    return "bf16" if has_bf16(cpu_capabilities()) else "fp32"


def cpu_capabilities() -> dict[str, Any]:
    """What this CPU has, by torch's names; an older torch tells less."""
    if hasattr(torch.cpu, "get_capabilities"):
        return dict(torch.cpu.get_capabilities())
    names = {"avx512_bf16": "_is_avx512_bf16_supported", "amx_tile": "_is_amx_tile_supported"}
    return {name: getattr(torch.cpu, check, lambda: False)() for name, check in names.items()}
