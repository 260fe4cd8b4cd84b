"""The peer's connections are shared evenly by its workers, whoever accepts them."""

import itertools

import pytest

from benchmarks.fastapi_server import FastApi, Setup


class Peer(FastApi):
    """Connections that are accepted by the workers of a list, in turns."""

    def __init__(self, accepting, workers=2):
        self.setup, self._accepting = Setup(workers, 1, False), itertools.cycle(accepting)

    def calling(self):
        number = next(self._accepting)

        class Call:
            def worker(self):
                return number

        return Call()


def test_connections_are_opened_until_each_worker_has_its_share():
    calls = Peer([7] * 9 + [8]).spread(6)
    assert sorted(call.worker() for call in calls) == [7, 7, 7, 8, 8, 8]
    assert len(Peer([7], workers=1).spread(5)) == 5


def test_a_worker_that_accepts_nothing_is_told():
    with pytest.raises(RuntimeError, match=r"found workers with \[3\] connections; expected 3 each"):
        Peer([7]).spread(6)
