"""When something failed too often to be tried again, and how long to wait before it is. Standard library only."""

from __future__ import annotations

WINDOW_SECONDS = 60.0
FIRST_SECONDS = 0.2
LONGEST_SECONDS = 5.0


class Breaker:
    """Counts failures of the last minute: open at `limit` of them. Times are of one monotonic clock, in seconds."""

    def __init__(self, limit: int, window: float = WINDOW_SECONDS):
        self.limit, self.window = limit, window
        self._at: list[float] = []

    def failed(self, now: float) -> None:
        """One more failure."""
        self._at = [*self.within(now), now]

    def within(self, now: float) -> list[float]:
        """When it failed within the window."""
        return [at for at in self._at if now - at < self.window]

    def open(self, now: float) -> bool:
        """Whether it failed too often."""
        return len(self.within(now)) >= self.limit

    def wait(self, now: float) -> float:
        """Seconds before the next try: doubled with each failure of the window, up to a bound."""
        return min(LONGEST_SECONDS, FIRST_SECONDS * 2 ** max(0, len(self.within(now)) - 1))
