"""`kill -9` of the server, of the router and of a model while clients ask: soon back, all that was answered logged."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest

from dl_pipelines.serving.server import running
from dl_pipelines.store.home import Home
from dl_pipelines.wire.records import ANSWERED
from tests.serving.echo import stubs_of, until
from tests.serving.routers import Client, Routed


class Crowd:
    """Clients that ask all the time, each request under an id of its own; they keep what was answered."""

    def __init__(self, routed: Routed, count: int):
        self.routed, self.answered, self._stop = routed, list[str](), threading.Event()
        self.failed = self.wrong = 0
        self._threads = [threading.Thread(target=self._ask, args=(number,)) for number in range(count)]

    def __enter__(self) -> Crowd:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, name: int) -> None:
        client, number = Client(self.routed), 0
        while not self._stop.is_set():
            number += 1
            try:
                assert client([1, 2, 3, 4], f"{name}/{number}", timeout=5)[0].tolist() == [10, 20]
                self.answered.append(f"{name}/{number}")
            except Exception as error:  # noqa: BLE001 - whatever the client makes of a server that is gone
                self.wrong += isinstance(error, AssertionError)
                self.failed += 1
                time.sleep(0.02)
        client.close()


@pytest.fixture
def routed(tmp_path):
    """A kept server with a router and a model."""
    with running(Home(tmp_path / "home").prepare(), keep=True) as server:
        made = Routed(server, "crowded")
        made.add("crowded__a", 2)
        made.route("crowded__a")
        made.load()
        yield made
    server.stop()


def test_nothing_that_was_answered_is_lost(routed):
    server = routed.server
    with Crowd(routed, 4) as crowd:
        until(lambda: len(crowd.answered) > 100)
        for victim in ("", "crowded", "crowded__a"):
            state = server.state()
            assert state
            for pid in stubs_of(state.pid, victim) if victim else [state.pid]:
                os.kill(pid, signal.SIGKILL)
            time.sleep(0.1)
            before = len(crowd.answered)
            until(lambda before=before: len(crowd.answered) > before + 100)
            until(lambda: (state := server.state()) and state.ready)
    assert crowd.failed > 0 and crowd.wrong == 0, "they asked meanwhile, and no answer was another one's"
    logged = [record["id"] for record in routed.records(ANSWERED)]
    assert not set(crowd.answered) - set(logged), "acknowledged and not in the log"
    assert len(logged) == len(set(logged)), "twice in the log"
