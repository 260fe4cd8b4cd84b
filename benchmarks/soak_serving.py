"""Kills what serves, under load, and counts what of the acknowledged answers is lost or doubled: none may be.

A round has a home, a server, clients, a carrier of the log and a database (PostgreSQL and SQLite in turn) of its own;
`kill -9` hits at random times the router's process, the model's, the server, the carrier or the database (SQLite has no
process: it is locked). After each the server has to answer again within 10 s. At the end the tables are held against
what the clients were told. A soak that is stopped loses the round that it was in. `crashes` are ends of the server that
nobody killed: it has to be back from them all the same; the server's log of such a round, or one with a fault, is kept.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.command import ROOT
from benchmarks.postgres import Postgres, installed
from benchmarks.soak_line import MODELS, PROJECT, Clients, Line, missing, opened, told
from dl_pipelines.serving.launch import CRASHES
from dl_pipelines.serving.stubs import group_of
from dl_pipelines.store import durable
from dl_pipelines.store.home import DATABASE_URL

ROUND = 50
"""Kills between two looks at the tables."""
PAUSE = 1.0
"""Seconds that lie between two kills at most, once all is well."""
LIMIT, GIVE_UP = 10.0, 60.0
"""Seconds within which the server answers again; and after which the round is given up."""
A_MINUTE = {"router": 15, "model": 15, "server": 4, "carrier": 15, "database": 15}
"""Kills of each target: the guardian waits twice as long after each death of the server within a minute."""
RECOVERIES = ("router", "model", "server")
"""Targets whose loss stops the answers."""


class Round:
    """One home, killed at while `clients` ask. `kills` by target, `slowest` recovery in seconds, `faults` in words."""

    def __init__(self, line: Line, clients: Clients, postgres: Postgres | None):
        self._line, self.clients, self._postgres = line, clients, postgres
        self.kills: dict[str, int] = dict.fromkeys(A_MINUTE, 0)
        self.slowest, self.faults = 0.0, list[str]()
        self._at: dict[str, list[float]] = {name: [] for name in self.kills}
        self._carrier = self._carrying()

    def close(self) -> None:
        """End the carrier."""
        self._carrier.kill()
        self._carrier.wait()

    def kill(self, target: str) -> None:
        """Kill it, wait until all is well again. Raises TimeoutError."""
        hit: dict[str, Callable[[], None]] = {
            "router": lambda: self._end(self._stub(MODELS[0])),
            "model": lambda: self._end(self._stub(MODELS[1])),
            "server": lambda: self._end(self._server()),
            "carrier": self._new_carrier,
            "database": self._hit_database,
        }
        hit[target]()
        self.kills[target] += 1
        self._at[target].append(time.monotonic())
        if target in RECOVERIES:
            took = self._recovered(time.monotonic())
            self.slowest = max(self.slowest, took)
            if took > LIMIT:
                load = f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
                self.faults.append(f"{took:.1f} s without an answer after the {target} was killed ({load})")

    def allowed(self, target: str) -> bool:
        """Whether it was not killed too often within the last minute."""
        return sum(time.monotonic() - at < 61 for at in self._at[target]) < A_MINUTE[target]

    def _recovered(self, since: float) -> float:
        """Seconds until a request that began after the kill was answered. Raises TimeoutError."""
        place = len(self.clients.asked)
        while time.monotonic() - since < GIVE_UP:
            for began, took, answered in self.clients.asked[place:]:
                if answered and began > since:
                    return began + took - since
            time.sleep(0.02)
        raise TimeoutError(f"no answer within {GIVE_UP:g} s; the last failures: {self.clients.failures}")

    def _end(self, pid: int) -> None:
        os.kill(pid, signal.SIGKILL)

    def _server(self) -> int:
        return _until(lambda: (state := self._line.server.state()) and state.pid)

    def _stub(self, model: str) -> int:
        mine = f"/repository/{model}/".encode()
        return _until(lambda: next((pid for pid in group_of(self._server()) if mine in _command(pid)), 0))

    def _carrying(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "benchmarks.soak_carrier", str(self._line.server.home.root), PROJECT]
        return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)

    def _new_carrier(self) -> None:
        self.close()
        self._carrier = self._carrying()

    def _hit_database(self) -> None:
        if self._postgres:
            self._postgres.kill()
            time.sleep(random.uniform(0, 1))
            self._postgres.start()
            return
        path = self._line.server.home.database_url.removeprefix("sqlite:///")
        with contextlib.closing(sqlite3.connect(path, timeout=30, isolation_level=None)) as connection:
            connection.execute("BEGIN EXCLUSIVE")
            time.sleep(random.uniform(0, 2))
            connection.execute("ROLLBACK")


def one(folder: Path, number: int, targets: Callable[[Round], Iterable[str]]) -> dict[str, Any]:
    """A round: kill the targets, one after the other. Its counts and faults. Raises TritonError."""
    with _database(number) as postgres, opened(folder, ("process", "disk")[number // 2 % 2]) as line:
        with Clients(line, name=f"{number}/") as clients:
            work = Round(line, clients, postgres)
            try:
                for target in targets(work):
                    work.kill(target)
            except TimeoutError as error:
                work.faults.append(str(error))
            finally:
                work.close()
        last = line.server.last()
        crashes = last.restarts - work.kills["server"] if last else 0
        found = missing(line.workspace, clients.acknowledged)
    faults = work.faults + [f"answered wrongly: {text}" for text in clients.wrong]
    faults += [f"{name}: {told(found[name])}" for name in ("lost", "doubled", "changed", "denied") if found[name]]
    return {
        "kills": work.kills, "slowest": round(work.slowest, 2), "acknowledged": len(clients.acknowledged),
        "failed": sum(clients.failures.values()), "lost": len(found["lost"]), "doubled": found["doubled"],
        "crashes": crashes, "rows": found["rows"], "faults": faults,
    }  # fmt: skip


def at_random(number: int, kills: int, end: float) -> Callable[[Round], Iterable[str]]:
    """At most so many targets until `end` (time.monotonic), at random times; the same for a number."""

    def targets(work: Round) -> Iterator[str]:
        draw, left = random.Random(number), kills
        while left and time.monotonic() < end:
            time.sleep(draw.uniform(0, PAUSE))
            allowed = [target for target in work.kills if work.allowed(target)]
            if allowed:
                left -= 1
                yield draw.choice(allowed)

    return targets


@contextlib.contextmanager
def _database(number: int) -> Iterator[Postgres | None]:
    """PostgreSQL in even rounds where there is one, else the home's SQLite; and a server that may crash often."""
    before = {name: os.environ.get(name) for name in (DATABASE_URL, CRASHES)}
    with contextlib.ExitStack() as stack:
        postgres = stack.enter_context(Postgres()) if number % 2 == 0 and installed() else None
        os.environ[CRASHES] = "1000"
        os.environ.pop(DATABASE_URL, None)
        if postgres:
            os.environ[DATABASE_URL] = postgres.url
        try:
            yield postgres
        finally:
            for name, value in before.items():
                os.environ.pop(name, None)
                if value is not None:
                    os.environ[name] = value


def _until(find: Callable[[], Any]) -> Any:
    end = time.monotonic() + GIVE_UP
    while time.monotonic() < end:
        with contextlib.suppress(OSError):
            if found := find():
                return found
        time.sleep(0.02)
    raise TimeoutError(f"what was to be killed did not come back within {GIVE_UP:g} s")


def _command(pid: int) -> bytes:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


def _keep_logs(home: Path, there: Path) -> None:
    """What the server and its guardian said: the next round has a home of its own."""
    there.mkdir(exist_ok=True)
    for path in (home / "server").glob("server.log*"):
        shutil.copyfile(path, there / path.name)


def soak(folder: Path, minutes: float) -> dict[str, object]:
    """Kill for so many minutes; the counts of all soaks in `folder` so far."""
    folder.mkdir(parents=True, exist_ok=True)
    state = folder / "serving.json"
    counts: dict[str, Any] = {"rounds": 0, "kills": {}, "acknowledged": 0, "failed": 0, "lost": 0, "doubled": 0,
                              "crashes": 0, "slowest": 0.0, "faults": []}  # fmt: skip
    if state.exists():
        counts = durable.read_json(state)
    end = time.monotonic() + 60 * minutes
    while time.monotonic() < end:
        number = counts["rounds"]
        shutil.rmtree(folder / "serving", ignore_errors=True)
        found = one(folder / "serving", number, at_random(number, ROUND, end))
        for name, value in found["kills"].items():
            counts["kills"][name] = counts["kills"].get(name, 0) + value
        for name in ("acknowledged", "failed", "lost", "doubled", "crashes"):
            counts[name] += found[name]
        counts["rounds"], counts["slowest"] = number + 1, max(counts["slowest"], found["slowest"])
        counts["faults"] += [{"round": number, "fault": fault[:2000]} for fault in found["faults"]]
        if found["faults"] or found["crashes"]:
            _keep_logs(folder / "serving" / "home", folder / f"serving-{number}-logs")
        durable.write_json(state, counts)
    return {"name": "soak.serving", "minutes": minutes, "killed": sum(counts["kills"].values()), **counts}
