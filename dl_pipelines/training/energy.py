"""The processor's energy counter (RAPL), where the kernel lets this process read it. Nothing is estimated without."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

POWERCAP = Path("/sys/class/powercap")
Given = TypeVar("Given")


@dataclass(frozen=True)
class Counter:
    """Sums of whole processors: their own parts are in them. `zones` are folders of the kernel's power capping."""

    zones: tuple[Path, ...]

    def around(self, work: Callable[[], Given]) -> tuple[Given, float]:
        """What `work` gives, and the joules of all processors meanwhile, whoever used them. Raises OSError.

        A counter that has started again from 0 is noticed, once.
        """
        before = self._read()
        given = work()
        apart = [after - start for start, after in zip(before, self._read(), strict=True)]
        whole = [_number(zone / "max_energy_range_uj") for zone in self.zones]
        used = [spent if spent >= 0 else spent + range_ for spent, range_ in zip(apart, whole, strict=True)]
        return given, sum(used) / 1e6

    def _read(self) -> list[int]:
        return [_number(zone / "energy_uj") for zone in self.zones]


def find_counter(root: Path = POWERCAP) -> tuple[Counter | None, str]:
    """The counter of this machine, or None and why there is none."""
    zones = tuple(sorted(zone for zone in root.glob("intel-rapl:*") if zone.name.count(":") == 1))
    if not zones:
        return None, "this machine shows no energy counter (RAPL)"
    try:
        Counter(zones).around(lambda: None)
    except OSError as error:
        return None, f"the energy counter of this machine can't be read ({error.strerror})"
    return Counter(zones), ""


def joules_of(counter: Counter, answer: Callable[[], int], seconds: float) -> float:
    """Joules of the machine for a thousand answers; `answer` gives how many it made, again and again for so long."""

    def work() -> int:
        end, count = time.monotonic() + seconds, 0
        while time.monotonic() < end:
            count += answer()
        return count

    answers, joules = counter.around(work)
    return 1000 * joules / answers


def joules_in_turns(
    counter: Counter, answers: Mapping[str, Callable[[], int]], seconds: float, turns: int
) -> dict[str, list[float]]:
    """Of each its `joules_of`, one a turn, in an order that rotates: the first of a turn finds the processor cooler."""
    found: dict[str, list[float]] = {name: [] for name in answers}
    names = list(answers)
    for turn in range(turns):
        start = turn % max(len(names), 1)
        for name in (*names[start:], *names[:start]):
            found[name].append(joules_of(counter, answers[name], seconds))
    return found


def _number(path: Path) -> int:
    return int(path.read_text())
