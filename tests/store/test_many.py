"""Work in several threads: results in order, few items held, an error in its place."""

from __future__ import annotations

import threading

import pytest

from dl_pipelines.store.many import AHEAD, THREADS, side_by_side


def test_results_come_in_the_order_of_the_items():
    started = threading.Barrier(THREADS, timeout=20)

    def work(number: int) -> int:
        if number < THREADS:
            started.wait()  # they really are under way together
        return number**2

    assert list(side_by_side(work, range(50))) == [number**2 for number in range(50)]


def test_items_are_taken_as_results_are():
    taken = []

    def items():
        for number in range(100):
            taken.append(number)
            yield number

    results = side_by_side(lambda number: number, items())
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    assert len(taken) == AHEAD + 2


def test_the_first_error_is_raised_in_its_place():
    def work(number: int) -> int:
        if number in (3, 5):
            raise ValueError(f"number {number}")
        return number

    seen = []
    with pytest.raises(ValueError, match="number 3"):
        seen += iter(side_by_side(work, range(10)))
    results = side_by_side(work, range(10))
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="number 3"):
        next(results)
