"""Runs the whole of `dlp demo ab` in a new home, again and again (about a minute each), and looks at what it left.

One challenger has to be rolled back and the other promoted, the ledger to be what was printed, and the page to have a
plot of each. That the demo can be run is tested nowhere else.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import shutil
import subprocess
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.command import DLP, ROOT
from dl_pipelines.store import durable
from dl_pipelines.store.home import Home
from dl_pipelines.store.workspace import Workspace

PATIENCE = 900.0
PROJECT = "demo_ab"
MOVE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d \w+ +\S+ by .*")
"""How a row of the ledger is printed: when, what, which model, by whom and why."""


@dataclass(frozen=True)
class Ran:
    """A demo that ended: what it gave back (None: nothing) and told, the rows of the ledger in its home, its page."""

    code: int
    given: Mapping[str, Any] | None
    told: str
    ledger: Sequence[Mapping[str, Any]]
    page: str


def run(home: Path) -> Ran:
    """One demo from nothing. Raises subprocess.TimeoutExpired."""
    from dl_pipelines.serving.champion import ledger

    command = [str(DLP), "demo", "ab", "--home", str(home), "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=PATIENCE)
    if done.returncode:
        return Ran(done.returncode, None, done.stderr, (), "")
    given = json.loads(done.stdout)
    rows = ledger(Workspace(Home(home), PROJECT))
    return Ran(0, given, done.stderr, rows, Path(given["plots"]).read_text(encoding="utf-8"))


def wrong(ran: Ran) -> Iterator[str]:
    """What is not as the demo promises, in words."""
    if ran.code or ran.given is None:
        yield f"it ended with exit code {ran.code}: {ran.told[-1500:]}"
        return
    experiments = ran.given["experiments"]
    states = [item["state"] for item in experiments]
    if states != ["rolled back", "promoted"]:
        yield f"found the experiments {states}; expected a rolled back one, then a promoted one"
    else:
        yield from _wrong_moves(ran, *experiments)
    printed = [line for line in ran.told.splitlines() if MOVE.fullmatch(line)]
    kept = [
        f"{row['at'][:19].replace('T', ' ')} {row['event']:<10} {row['model']} by {row['actor']}: {row['reason']}"
        for row in ran.ledger
        if row["event"] != "published"
    ]
    if printed != kept or not kept:
        yield f"found {printed} printed, and {kept} in the ledger"
    yield from _wrong_page(ran.page, experiments)


def _wrong_moves(ran: Ran, worse: Mapping[str, Any], better: Mapping[str, Any]) -> Iterator[str]:
    champions = [row["model"] for row in ran.ledger if row["event"] == "champion"]
    if champions != [worse["champion"], better["challenger"]] or worse["challenger"] in champions:
        yield f"found the champions {champions}; expected the first, then {better['challenger']}"
    tried = {row["model"] for row in ran.ledger if row["event"] == "challenger"}
    if better["challenger"] not in tried:
        yield f"found that {sorted(tried)} were tried; expected {better['challenger']} too, which was promoted"


def _wrong_page(page: str, experiments: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    sections = page.split("<h2>")[1:]
    heads = [f"{item['challenger']} against {item['champion']}: {item['state']}" for item in experiments]
    if found := [(head, section[:150]) for head, section in itertools.zip_longest(heads, sections, fillvalue="")
                 if not head or not section.startswith(f"{head}</h2>")]:  # fmt: skip
        yield f"found the sections {found} of the page"
        return
    for head, section in zip(heads, sections, strict=True):
        drawn, kinds = re.search(r"<svg .*</svg>", section, re.DOTALL), set[str]()
        with contextlib.suppress(ET.ParseError):
            for node in ET.fromstring(drawn[0]).iter() if drawn else ():
                kinds.update(node.get("class", "").split())
        if not kinds & {"band", "whisker"}:
            yield f"found no plot of {head} in the page"


def soak(folder: Path, minutes: float) -> dict[str, object]:
    """Run it for so many minutes, once at least; the counts of all soaks in `folder` so far."""
    folder.mkdir(parents=True, exist_ok=True)
    state = folder / "demo.json"
    counts: dict[str, Any] = {"demos": 0, "looks": 0, "slowest": 0.0, "faults": []}
    if state.exists():
        counts = durable.read_json(state)
    end = time.monotonic() + 60 * minutes
    while True:
        shutil.rmtree(folder / "demo", ignore_errors=True)
        began = time.monotonic()
        ran = run(folder / "demo")
        counts["slowest"] = max(counts["slowest"], round(time.monotonic() - began, 1))
        counts["faults"] += [{"demo": counts["demos"], "fault": fault[:2000]} for fault in wrong(ran)]
        counts["looks"] += sum(item["looks"] for item in (ran.given or {"experiments": []})["experiments"])
        counts["demos"] += 1
        durable.write_json(state, counts)
        if time.monotonic() >= end:
            return {"name": "soak.demo", "minutes": minutes, **counts}
