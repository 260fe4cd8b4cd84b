"""How a request gets its answer: assigned, asked, logged, given. The champion answers what a challenger does not.

Knows no Triton: models are asked by a function, clients answered by each request's `reply`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np
from asked import INTERNAL, UNAVAILABLE, Answer, Ask, Asked, Content, ModelError, told
from breaker import Breaker
from calls import Call, Calls
from checks import fault, is_finite, worse
from counters import Counters
from hanging import Hung
from journal import Journal
from shadowing import Shadowing
from wire import records
from wire.log_format import LogError
from wire.routing import RoutingError, RoutingTable

THREADS = 8


class NotAsked(Exception):
    """The breaker is open."""


class Answering:
    """Answers requests; every one is replied to exactly once."""

    def __init__(
        self, ask: Ask, routing: Callable[[], RoutingTable], journal: Journal, content: Content, breaker: Breaker,
        counters: Counters, shape: Sequence[int], dtype: np.dtype,
    ):  # fmt: skip
        self._ask, self._routing, self._journal, self._content = ask, routing, journal, content
        self._breaker, self._counters, self._shape, self._dtype = breaker, counters, tuple(shape), dtype
        self._challengers = Calls("challenger", THREADS)
        counters.breakers(dict.fromkeys(breaker.remembered, False))  # a router that was killed may have said otherwise
        self._shadowing = Shadowing(ask, journal, breaker, counters, self._fault)

    def take(self, asked: Sequence[Asked]) -> None:
        """Answer these: the champion's before this returns, a challenger's whenever it answers or is out of time."""
        try:
            self._route(asked, self._routing())
        except RoutingError as error:
            self._give_up(asked, str(error), UNAVAILABLE)
        except Exception as failure:  # noqa: BLE001 - no request may be left without an answer
            self._give_up([one for one in asked if not one.reply.detached], broke(failure), INTERNAL)

    def tick(self) -> None:
        """Now and then: tell of breakers what could not be told before."""
        self._shadowing.settle()
        try:
            table = self._routing()
        except RoutingError:
            return  # each request says it
        others = [model for model in table.models if model != table.champion]
        self._counters.breakers({model: self._breaker.is_open(table.revision, model) for model in others})
        self._counters.shares({arm.name: arm.weight for arm in table.arms})

    def close(self) -> None:
        """End the threads."""
        self._challengers.close()
        self._shadowing.close()

    def _route(self, asked: Sequence[Asked], table: RoutingTable, again: bool = True) -> None:
        """Assign, log that, and ask. `again`: should a model be gone because the table changed, go by the new one.

        With one arm there is nothing to assign: the record of the answer says it all.
        """
        here: list[Asked] = []
        there: dict[str, list[Asked]] = {}
        for one in asked:
            arm = table.arm(one.unit)
            one.arm = one.by = arm.name
            one.model = arm.model
            self._content.mark(one, table.project)
            if arm.model == table.champion:
                here.append(one)
            elif self._breaker.is_open(table.revision, arm.model):
                one.failure = "not asked: its breaker is open"
                here.append(one)
            else:
                there.setdefault(arm.model, []).append(one)
        if len(table.arms) > 1 and not self._log(asked, [assigned(one, table) for one in asked], flush=False):
            return
        for model, group in there.items():
            self._hand_over(group, model, table, again)
        if here:
            self._champion(here, table, again)

    def _champion(self, group: Sequence[Asked], table: RoutingTable, again: bool = False) -> None:
        """Ask the champion and finish. A batch that fails is asked one by one: a bad request fails alone.

        One that hung is not asked again: whoever waited for it has waited long enough.
        """
        outputs, error = self._tried(group, table.champion)
        if outputs is None:
            if again and (fresh := self._fresh(table)):
                self._route(group, fresh, again=False)
            elif len(group) > 1 and not isinstance(error, Hung):
                for one in group:
                    self._champion([one], table)
            else:
                for one in group:
                    self._failed(one, table, f"{table.champion} could not answer: {told(error)}")
            return
        for one, rows in zip(group, parts(group, outputs), strict=True):
            one.outputs, one.by, one.model = rows, table.arms[0].name, table.champion
        self._finish(group, table)

    def _hand_over(self, group: Sequence[Asked], model: str, table: RoutingTable, again: bool) -> None:
        """Leave requests to a challenger: they are no longer answered with their batch."""
        try:
            for one in group:
                one.reply.detach()
            self._challenge(group, model, table, again)
        except Exception as failure:  # noqa: BLE001 - no request may be left without an answer
            self._give_up(group, broke(failure), INTERNAL)

    def _challenge(self, group: Sequence[Asked], model: str, table: RoutingTable, again: bool) -> None:
        """Have a challenger asked by another thread."""
        seconds = table.timeout_ms / 1000

        def done(answer: Answer | None, error: BaseException | None, spent: float) -> None:
            outputs, seconds = answer or (None, spent)
            took(group, seconds)
            try:
                self._challenged(group, model, table, outputs, error, again)
            except Exception as failure:  # noqa: BLE001 - no request may be left without an answer
                self._give_up(group, broke(failure), INTERNAL)

        def closed() -> NotAsked | None:
            return NotAsked("its breaker is open") if self._breaker.is_open(table.revision, model) else None

        deadline = group[0].started - time.perf_counter() + time.monotonic() + seconds
        try:
            self._challengers.start(Call(lambda: self._ask(model, group), done, seconds, deadline, closed))
        except RuntimeError as error:
            done(None, NotAsked(str(error)), 0.0)

    def _challenged(
        self, group: Sequence[Asked], model: str, table: RoutingTable, outputs: np.ndarray | None,
        error: BaseException | None, again: bool,
    ) -> None:  # fmt: skip
        """A challenger answered, or did not."""
        if outputs is not None and (wrong := self._fault(group, outputs)):
            outputs, error = None, ModelError(wrong)
        if isinstance(error, ModelError) and again and (fresh := self._fresh(table)):
            self._route(group, fresh, again=False)
        elif isinstance(error, ModelError) and len(group) > 1 and not isinstance(error, Hung):
            for one in group:
                self._challenge([one], model, table, again=False)
        elif outputs is None:
            for one in group:
                one.failure = f"not asked: {error}" if isinstance(error, NotAsked) else told(error)
            if not isinstance(error, NotAsked):
                self._count(group[0], model, table)  # one call, one failure, however many waited for it
            self._champion(group, table)
        else:
            for one, rows in zip(group, parts(group, outputs), strict=True):
                one.outputs = rows
            self._compared(group, model, table)

    def _compared(self, group: Sequence[Asked], model: str, table: RoutingTable) -> None:
        """The challenger's answers are given, except those not finite where the champion's are."""
        doubted = [one for one in group if not is_finite(one.outputs)]
        if doubted:
            reference, _ = self._tried(doubted, table.champion)
            for one, rows in zip(doubted, parts(doubted, reference) if reference is not None else (), strict=False):
                if why := worse(one.outputs, rows):
                    one.failure, one.outputs, one.by, one.model = why, rows, table.arms[0].name, table.champion
                    self._count(one, model, table)
        if any(not one.failure for one in group):
            self._breaker.worked(table.revision, model)
        self._finish(group, table)

    def _finish(self, group: Sequence[Asked], table: RoutingTable) -> None:
        """Log the answers, give them, show the requests to the shadow."""
        if not self._log(group, self._content.answered(group, table)):
            return
        if table.shadow:  # compared with them when they are given away
            for one in group:
                one.outputs = np.array(one.outputs)
        now = time.perf_counter()
        for one in group:
            outcome = "answered" if one.by == one.arm else "fell_back"
            self._counters.request(one.arm, outcome, 1000 * (now - one.started))
            one.reply.give(one)
        if table.shadow:
            self._shadowing.show(group, table)

    def _failed(self, one: Asked, table: RoutingTable, why: str) -> None:
        one.fail(why)
        record = records.failed(one.id, one.at, one.hashed, one.arm, one.model, table.revision, why)
        if self._log([one], [record]):
            self._counters.request(one.arm, "failed")
            one.reply.give(one)

    def _log(self, asked: Sequence[Asked], written: Sequence[records.Record], flush: bool = True) -> bool:
        """Append; when that can't be done, these requests get that error and False is returned."""
        try:
            self._journal.append(written, flush)
        except LogError as error:
            self._counters.log_error()
            self._give_up(asked, str(error), UNAVAILABLE)
            return False
        return True

    def _give_up(self, asked: Sequence[Asked], error: str, code: str) -> None:
        for one in asked:
            one.fail(error, code)
            self._counters.request(one.arm, "failed")
            one.reply.give(one)

    def _tried(self, group: Sequence[Asked], model: str) -> tuple[np.ndarray | None, Exception | None]:
        """A model's answer to these, or what is wrong with it."""
        started = time.perf_counter()
        try:
            outputs, seconds = self._ask(model, group)
        except Exception as error:  # noqa: BLE001 - also a message that is no text: the batch is asked one by one
            took(group, time.perf_counter() - started)
            return None, error
        took(group, seconds)
        wrong = self._fault(group, outputs)
        return (None, ModelError(wrong)) if wrong else (outputs, None)

    def _fault(self, group: Sequence[Asked], outputs: np.ndarray) -> str:
        return fault(outputs, sum(one.rows for one in group), self._shape, self._dtype)

    def _fresh(self, table: RoutingTable) -> RoutingTable | None:
        """The table as it is now, where that is another one."""
        try:
            now = self._routing()
        except RoutingError:
            return None
        return None if now == table else now

    def _count(self, one: Asked, model: str, table: RoutingTable) -> None:
        if self._breaker.failed(table.revision, one.arm, model, table.breaker, one.failure):
            self._shadowing.settle()


def took(group: Sequence[Asked], seconds: float) -> None:
    """So long they were with a model."""
    for one in group:
        one.milliseconds += 1000 * seconds


def parts(group: Sequence[Asked], outputs: np.ndarray) -> Sequence[np.ndarray]:
    """The outputs of each request."""
    if len(group) == 1:
        return [outputs]
    ends = np.cumsum([one.rows for one in group]).tolist()
    return [outputs[end - one.rows : end] for one, end in zip(group, ends, strict=True)]


def assigned(one: Asked, table: RoutingTable) -> records.Record:
    """Which arm it is going to."""
    return records.assigned(one.id, one.rows, one.at, one.hashed, one.arm, one.model, table.revision)


def broke(failure: Exception) -> str:
    """What a client is told of a defect of the router's own."""
    return f"the router failed: {type(failure).__name__}: {failure}"
