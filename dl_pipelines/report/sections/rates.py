"""8. What the serving benchmark measured: rates by protocol and the settings that were tried, as tables of ours."""

from __future__ import annotations

from typing import Any

from dl_pipelines.evaluation.wording import number
from dl_pipelines.report.cells import Cell, Extra, Found, made, not_measured, told
from dl_pipelines.report.facts import Facts, pointer
from dl_pipelines.serving.settings import PROTOCOLS, STAGE, Settings, in_words

_AT = "outcome.json#/measured/benchmark"
RATES, SETTINGS = "Open loop at rising rates", "Settings that were tried"
_COLUMNS = ("Protocol", "Requests/s due", "Answered/s", "p50 (ms)", "p95 (ms)", "p99 (ms)", "Requests",
            "Not answered")  # fmt: skip
_SHARES = {"p50_ms": "every other request", "p95_ms": "one in 20 requests", "p99_ms": "one in 100 requests"}
"""Of those that are answered later than a percentile."""


def benchmark(facts: Facts) -> dict[str, Any] | None:
    """What was measured, as plain data; None where nothing was asked for."""
    found = facts.find(STAGE, _AT)
    return found.value if isinstance(found, Found) and found.value["protocols"] else None


def find(facts: Facts, *keys: str | int) -> Found | Cell:
    """A value of the benchmark."""
    return facts.find(STAGE, _AT + pointer(*keys)[1:])


def kept_at(facts: Facts, protocol: str = "grpc") -> tuple[int, int] | None:
    """Places of a protocol and of its step with the highest rate that kept the limit; None where none did."""
    for place, row in enumerate((benchmark(facts) or {"protocols": []})["protocols"]):
        if row["name"] == protocol and row["at"] is not None:
            return place, row["at"]
    return None


def limit(found: dict[str, Any]) -> str:
    """What a rate had to keep."""
    return f"p99 ≤ {number(found['limit_ms'])} ms"


def rounded(value: float) -> str:
    """In three digits: rates and times of a second are not known better."""
    return number(float(f"{value:.3g}"))


def extras(facts: Facts) -> list[Extra]:
    """Each rate of each protocol, then the settings; nothing where it was not asked for."""
    found = benchmark(facts)
    if found is None:
        return []
    rows = [row for place, item in enumerate(found["protocols"]) for row in _protocol(facts, place, item, found)]
    settings = [_candidate(facts, place, row, found) for place, row in enumerate(found["candidates"])]
    return [
        Extra(RATES, _COLUMNS, rows, _note(found), folded=True),
        Extra(
            SETTINGS, ("Settings", f"Requests/s with {limit(found)}", "Choice"), settings, f"{_first(found['why'])}."
        ),
    ]


def _protocol(facts: Facts, place: int, item: dict[str, Any], found: dict[str, Any]) -> list[tuple[str, list[Cell]]]:
    name = PROTOCOLS[item["name"]]
    if item["reason"]:
        return [(name, [not_measured(item["reason"])] * (len(_COLUMNS) - 1))]
    return [(name, _step(facts, place, at, item["at"] == at, found)) for at in range(len(item["steps"]))]


def _step(facts: Facts, place: int, at: int, highest: bool, found: dict[str, Any]) -> list[Cell]:
    def cell(name: str, unit: str, note: str = "") -> Cell:
        value = find(facts, "protocols", place, "steps", at, name)
        if isinstance(value, Cell):
            return not_measured(f"more than {_SHARES[name]} was not answered")
        return value.cell(unit, rounded, note)

    note = f"(the highest with {limit(found)})" if highest else ""
    return [
        cell("rate", "requests/s", note), cell("answered_rps", "requests/s"),
        *(cell(name, "ms") for name in _SHARES),
        _count(facts, place, at, "requests"), _not_answered(facts, place, at),
    ]  # fmt: skip


def _count(facts: Facts, place: int, at: int, name: str) -> Cell:
    value = find(facts, "protocols", place, "steps", at, name)
    return value if isinstance(value, Cell) else value.cell("requests")


def _not_answered(facts: Facts, place: int, at: int) -> Cell:
    parts = [find(facts, "protocols", place, "steps", at, name) for name in ("failed", "unsent")]
    return made("sum", [part for part in parts if isinstance(part, Found)]).cell("requests")


def _candidate(facts: Facts, place: int, row: dict[str, Any], found: dict[str, Any]) -> tuple[str, list[Cell]]:
    settings, chosen = Settings.read(row), Settings.read(row) == Settings(**found["chosen"])
    source = find(facts, "candidates", place)
    assert isinstance(source, Found)
    if row["reason"]:
        rate = not_measured(row["reason"])
    elif row["rate"] is None:
        less = f"less than {in_words(row['below'])}: not more than the best before" if row["below"] else "no rate"
        rate = told(less, source.source)
    else:
        value = find(facts, "candidates", place, "rate")
        assert isinstance(value, Found)
        rate = value.cell("requests/s", rounded)
    mine = "chosen" if chosen else "not chosen"
    return str(settings), [rate, told(f"{mine}{' (the brief has them)' if place == 0 else ''}", source.source)]


def _note(found: dict[str, Any]) -> str:
    steps = [step for item in found["protocols"] for step in item["steps"]]
    connections = f", {steps[0]['connections']} connections" if steps else ""
    return " ".join([
        "A request counts from when it was due (Poisson arrivals), sent by then or not; single rows, "
        f"{number(found['seconds'])} s a rate{connections}, the client on the same {found['cores']} cores.",
        f"The limit of {limit(found)} is from {found['limit_from']}.",
        *_client(found["protocols"]),
        *_disturbed(found),
    ])  # fmt: skip


def _client(protocols: list[dict[str, Any]]) -> list[str]:
    """Where the client may be what broke the limit, with the reason of the first."""
    bound = [item for item in protocols if item["limit"]]
    names = ", ".join(PROTOCOLS[item["name"]] for item in bound)
    more = "the server alone may carry more"
    return [f"Above the highest rate over {names}, {bound[0]['limit']}: {more}."] if bound else []


def _disturbed(found: dict[str, Any]) -> list[str]:
    below = [step for item in found["protocols"] for step in item["steps"][: item["at"] or 0]]
    if all(step["p99_ms"] is not None and step["p99_ms"] <= found["limit_ms"] for step in below):
        return []
    return ["Where a lower rate broke the limit and a higher one kept it, the machine was busy with something else."]


def _first(text: str) -> str:
    return text[:1].upper() + text[1:]
