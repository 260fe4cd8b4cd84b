"""What of the processor some tests need."""

from pathlib import Path

import pytest

FLAGS = next((line.split() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("flags")), [])
VNNI = not {"avx512_vnni", "avx_vnni"}.isdisjoint(FLAGS)

needs_exact_int8 = pytest.mark.skipif(
    not VNNI, reason="sums of eight-bit products saturate on this CPU (no VNNI): int8 has another error here"
)
"""For tests that hold weights of full eight bits to figures; those reduced to seven bits are exact anywhere."""
