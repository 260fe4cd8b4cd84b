"""Which number formats this processor multiplies in by itself; elsewhere they are emulated, slower than float32."""

from __future__ import annotations

from pathlib import Path

UNITS = {"bf16": ("avx512_bf16", "amx_bf16", "bf16"), "fp16": ("avx512_fp16", "amx_fp16", "asimdhp")}
"""What Linux calls the units of each format, on x86-64 and on ARM."""
CPUINFO = Path("/proc/cpuinfo")


def processor_flags(cpuinfo: Path = CPUINFO) -> frozenset[str]:
    """What the kernel says that the processor has; nothing where it does not say."""
    if not cpuinfo.exists():
        return frozenset()
    for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
        name, _, value = line.partition(":")
        if name.strip().lower() in ("flags", "features"):
            return frozenset(value.split())
    return frozenset()


def missing_units(precision: str, cpuinfo: Path = CPUINFO) -> str | None:
    """Why nothing in `precision` (bf16, fp16) would be timed honestly here, or None where there are units for it."""
    wanted, found = UNITS[precision], processor_flags(cpuinfo)
    if found & set(wanted):
        return None
    return (
        f"this processor has no units for {precision} ({cpuinfo} names none of {', '.join(wanted)}); it would be "
        "emulated, and its time say nothing"
    )
