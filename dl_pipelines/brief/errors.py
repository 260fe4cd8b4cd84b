"""What is wrong with a brief, and where: the error a user reads, with file, line, field and the closest valid name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """One fault in a brief.

    `path` is dotted (`training.epochs`), `line` counts from 1 (None: the field isn't in the file),
    `found` is what the user wrote, `expected` what is allowed, `closest` a name the user may have meant.
    """

    path: str
    expected: str
    found: str | None = None
    line: int | None = None
    closest: str | None = None

    def describe(self, source: str) -> str:
        """One line: `file:line: path: found X; expected Y (did you mean Z?)`."""
        where = f"{source}:{self.line}" if self.line else source
        found = f"found {self.found}; " if self.found is not None else ""
        hint = f" (did you mean {self.closest!r}?)" if self.closest else ""
        return f"{where}: {self.path or 'brief'}: {found}expected {self.expected}{hint}"


class BriefError(ValueError):
    """A brief can't be used; carries every problem at once, so that the user mends them in one go."""

    def __init__(self, source: str, problems: Iterable[Problem]):
        self.source = source
        self.problems = tuple(problems)
        super().__init__("\n".join(problem.describe(source) for problem in self.problems))


def closest(name: str, allowed: Iterable[str]) -> str | None:
    """The allowed name most like `name`, or None when none is near."""
    matches = difflib.get_close_matches(str(name), list(allowed), n=1, cutoff=0.6)
    return matches[0] if matches else None
