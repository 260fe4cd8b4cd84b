"""The backends' processes of a server, one an instance of a model: Triton never brings one back that died.

It goes on to call the model ready and fails each request after a second. Here such a model is loaded anew: with a
touched folder of its version Triton starts new processes beside the dead ones. Standard library only.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path

from dl_pipelines.serving.breaker import Breaker
from dl_pipelines.serving.control import Control
from dl_pipelines.serving.process import SHARED_MEMORY, TritonError, birth, region_prefix
from dl_pipelines.serving.state import wanted_models
from dl_pipelines.store.home import Home

EVERY_SECONDS = 5.0
CONFIRM_SECONDS = 0.3
"""What seems dead may be a model that is just being unloaded or loaded anew."""
LONG_LOAD_SECONDS = 10.0
"""For one model's load; then the others that have to be loaded are not kept waiting."""
SWEEP_SECONDS = 60.0
ORPHAN_SECONDS = 2.0
"""A killed process may have to finish what it reads or writes."""
_STUB = "triton_python_backend_stub"


def group_of(server: int) -> dict[int, str]:
    """The living processes of a server's group and their state (`S`, `R`, `T` stopped, ...), the server's own too."""
    found: dict[int, str] = {}
    for path in Path("/proc").glob("[0-9]*"):
        fields = _fields(int(path.name))
        if fields and int(fields[2]) == server:
            found[int(path.name)] = fields[0]
    return found


def end_orphans(home: Home, server: int) -> None:
    """End what a dead server of this home left in its process group: its backends' processes wait for it for ever.

    The number may be another's group by now: of that no process was started for this home, and none is touched.
    """
    deadline = time.monotonic() + ORPHAN_SECONDS
    while birth(server) is None and time.monotonic() < deadline:
        ours = [pid for pid in group_of(server) if _of_home(home, pid)]
        if not ours:
            return
        for pid in ours:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)


def _of_home(home: Home, pid: int) -> bool:
    """Whether a process has this home's shared memory in its command line, or the environment of its server."""
    with contextlib.suppress(OSError):
        surroundings = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        return region_prefix(home).encode() in _command(pid) or f"HOME={home.server}".encode() in surroundings
    return False


def end_processes(home: Home, server: int, model: str) -> None:
    """End the processes of a model that nobody is to ask any more; a load that waits for them fails."""
    for pid in group_of(server):
        if _model_of(home, pid) == model:
            with contextlib.suppress(OSError):  # it is gone
                os.kill(pid, signal.SIGKILL)


def _model_of(home: Home, pid: int) -> str | None:
    """Whose process it is: its command line names a file of the model's version."""
    words = _command(pid).decode(errors="replace").split("\0")
    if words[0].endswith(_STUB):
        for word in words[1:]:
            if Path(word).is_relative_to(home.repository):
                return Path(word).relative_to(home.repository).parts[0]
    return None


def _fields(pid: int) -> list[str]:
    """State, parent, group, ... of a living process (proc(5), `stat`); empty for one that is gone."""
    with contextlib.suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        if fields[0] not in "ZX":
            return fields
    return []


def _state(pid: int) -> str:
    return (_fields(pid) or [""])[0]


class Stubs:
    """Watches the backends' processes of one server; `look` is called twice a second or so."""

    def __init__(
        self, server: int, home: Home, control: Control, say: Callable[[str], None], patience: float, loads: int
    ):
        """`patience`: seconds that a process may stand still; `loads`: of one model within a minute, then it rests."""
        self._server, self._home, self._control, self._say = server, home, control, say
        self._patience = patience
        self._region = re.compile(re.escape(region_prefix(home)) + r"[0-9a-f-]{36}")
        self._absent: dict[str, float] = {}
        self._known: set[int] = set()
        self._next = 0.0
        self._stopped: dict[int, float] = {}
        self._work: threading.Thread | None = None
        self._loads: dict[str, threading.Thread] = {}
        self._failures: dict[str, Breaker] = defaultdict(lambda: Breaker(loads))
        self.failing: dict[str, str] = {}

    def look(self, now: float) -> None:
        """Look after what is known; after a loss, and every few seconds, at everything."""
        if self._work and self._work.is_alive():
            return
        states = {pid: _state(pid) for pid in self._known}
        if now < self._next and not any(state in ("", "T") for state in states.values()):
            return
        self._next = now + EVERY_SECONDS
        self._known = set(self._of_models(now))
        work = threading.Thread(target=self._mend, args=(now,), daemon=True)  # a load may take long
        work.start()
        self._work = work

    def _of_models(self, now: float) -> dict[int, str]:
        """Model by process. One that stands still for long is ended: it answers nobody."""
        found: dict[int, str] = {}
        group = group_of(self._server)
        for pid, state in group.items():
            model = self._model(pid)
            if model is None:
                continue
            since = self._stopped.setdefault(pid, now) if state == "T" else self._stopped.pop(pid, now)
            if state == "T" and group.get(self._server) != "T" and now - since >= self._patience:
                self._say(f"ended process {pid} of {model}: it stood still for {now - since:.0f} s")
                with contextlib.suppress(OSError):  # it is gone
                    os.kill(pid, signal.SIGKILL)
                continue
            found[pid] = model
        return found

    def _model(self, pid: int) -> str | None:
        return _model_of(self._home, pid)

    def _mend(self, now: float) -> None:
        with contextlib.suppress(OSError, TritonError):  # the server itself is gone, or busy: looked at again
            short, absent = self._lacking(now)
            if short:
                time.sleep(CONFIRM_SECONDS)
                short &= self._lacking(now)[0]
            for model in sorted(short):
                self._load(model, now, "a process of it is gone")
            self._absent = {model: self._absent.get(model, now) for model in absent}
            for model, since in sorted(self._absent.items()):
                if now - since >= EVERY_SECONDS:  # publishing may be about to load it
                    self._load(model, now, "it is not loaded")
            if self.failing:
                lacking = set[str]().union(*self._lacking(now))
                for model in self.failing.keys() - lacking:
                    del self.failing[model]
            self._sweep()

    def _lacking(self, now: float) -> tuple[set[str], set[str]]:
        """Models that are called ready and have fewer processes than instances; those wanted that are not loaded."""
        alive = Counter(self._of_models(now).values())
        states = self._control.index()
        ready = [model for model, state in states.items() if state == "READY"]
        short = {model for model in ready if alive[model] < self._control.instances(model)}
        return short, {model for model in wanted_models(self._home) if states.get(model) in ("", "UNAVAILABLE")}

    def _load(self, model: str, now: float, why: str) -> None:
        """Load it anew, once at a time; one that takes long goes on by itself."""
        if (under_way := self._loads.get(model)) and under_way.is_alive():
            return
        failures = self._failures[model]
        if failures.open(now):
            self.failing[model] = f"{why}, {failures.limit} times within {failures.window:g} s"
            return
        failures.failed(now)
        self._say(f"loads {model} again: {why}")
        self._loads[model] = threading.Thread(target=self._reload, args=(model,), daemon=True)
        self._loads[model].start()
        self._loads[model].join(LONG_LOAD_SECONDS)

    def _reload(self, model: str) -> None:
        """A load that does not end has its new processes ended: Triton would wait for them for ever."""
        before = self._of(model)
        try:
            for version in (self._home.repository / model).iterdir():
                if version.name.isdecimal():
                    os.utime(version)
            self._control.load(model)
        except (OSError, TritonError) as error:
            self.failing[model] = str(error)
            self._say(f"could not load {model} again: {error}")
            if isinstance(error, TimeoutError):
                for pid in self._of(model) - before:
                    with contextlib.suppress(OSError):  # it is gone
                        os.kill(pid, signal.SIGKILL)
        self._next = 0.0  # its new processes are to be known

    def _of(self, model: str) -> set[int]:
        """Its processes."""
        return {pid for pid in group_of(self._server) if self._model(pid) == model}

    def _sweep(self) -> None:
        """Remove the shared memory of backends' processes that are gone; what was made just now may have none yet."""
        commands = b"".join(_command(pid) for pid in group_of(self._server))
        for path in SHARED_MEMORY.iterdir():
            if self._region.fullmatch(path.name) and path.name.encode() not in commands:
                with contextlib.suppress(OSError):
                    if time.time() - path.stat().st_mtime > SWEEP_SECONDS:
                        path.unlink()


def _command(pid: int) -> bytes:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""
