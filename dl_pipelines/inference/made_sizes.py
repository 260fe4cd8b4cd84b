"""How much an operator makes by its constants alone: a small file must not become a large one when it is loaded.

Of both formats, which name the operators alike. Runtimes compute what depends on constants only while they load.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from dl_pipelines.inference.model_files import LARGEST_BYTES, refused

LARGEST_ELEMENTS = LARGEST_BYTES // 4
MOST_SIZES = 64
"""Sizes are as many as a tensor has dimensions, or twice as many."""

Numbers = Sequence[float]
Places = Mapping[str, tuple[tuple[int, ...], ...]]
"""By operator: the inputs that say how large its output is; those of a group say it together."""


def product(sizes: Numbers) -> float:
    """Elements of a tensor of these sizes (or repeats, or scales), where those below one count as one."""
    return math.prod(max(abs(size), 1) for size in sizes)


def padded(pads: Numbers) -> float:
    """Elements at least of a tensor padded by [first axis before, ..., first axis after, ...]."""
    half = len(pads) // 2
    return math.prod(max(before + after, 0) + 1 for before, after in zip(pads[:half], pads[half:], strict=False))


def counted(numbers: Numbers) -> float:
    """Elements of a range [start, limit, step]; infinite where it does not move."""
    start, limit, step = numbers
    return max((limit - start) / step, 0) if step else math.inf


COUNTS: Mapping[str, Callable[[Numbers], float]] = {"Range": counted, "Pad": padded}
"""How elements are counted; the others by the product."""


def check_made(file: str, operator: str, places: Places, values: Callable[[int], Numbers | None]) -> None:
    """That what an operator makes by its constants is no larger than a model may be.

    `values` gives the constant at an input, None where there is none. Raises ModelFileError.
    """
    for group in places.get(operator, ()):
        known = [found for place in group if (found := values(place)) is not None]
        if len(known) == len(group):
            numbers = [number for found in known for number in found]
            check_count(file, operator, numbers, COUNTS.get(operator, product))


def check_count(file: str, operator: str, numbers: Numbers, count: Callable[[Numbers], float]) -> None:
    """That `count` of these numbers is no more than a model may hold; what is no number is more. See check_made."""
    if len(numbers) > MOST_SIZES or not count(numbers) <= LARGEST_ELEMENTS:
        few = f"{list(numbers[:MOST_SIZES])}"
        raise refused(file, f"{operator} to the size {few}", f"at most {LARGEST_ELEMENTS} elements")
