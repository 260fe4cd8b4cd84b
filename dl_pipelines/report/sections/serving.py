"""8. How the model is served, and what its clients saw: in the serving benchmark if there was one, or a load test."""

from __future__ import annotations

from dl_pipelines.evaluation.wording import in_unit, number, percent, plural
from dl_pipelines.report.cells import Cell, Found, made, not_applicable, told
from dl_pipelines.report.facts import Facts, library
from dl_pipelines.report.sections import rates
from dl_pipelines.serving.settings import PROTOCOLS

_LATENCY = "outcome.json#/measured/latency"
_SERVING = "manifest.json#/settings/settings/serving"


def cells(facts: Facts) -> dict[str, Cell]:
    """The section's cells."""
    return {**_environment(facts), **_configuration(facts), **_performance(facts)}


def _environment(facts: Facts) -> dict[str, Cell]:
    machine = facts.find("trained_model", "outcome.json#/measured/hardware")
    on = f" ({machine.value['cpu']}, {machine.value['cores']} cores)" if isinstance(machine, Found) else ""
    return {
        "DEPLOY_PLATFORM": told(f"this machine{on}, loopback only", library("serving.server"),
                                *([machine.source] if isinstance(machine, Found) else [])),
        "CONTAINER_TYPE": not_applicable("the server is a process; its model folder also loads in a container"),
        "ORCHESTRATION": told("Dagster; a server that dies or hangs is started again",
                              library("serving.server")),
        "LOAD_BALANCER": told("a router in Triton passes each request to the champion, or to a challenger on trial",
                              library("wire.routing")),
        "CDN_EDGE": not_applicable("nothing is reached from outside this machine"),
    }  # fmt: skip


def _configuration(facts: Facts) -> dict[str, Cell]:
    runtime = facts.find("triton_repository", "model.json#/runtime")
    batch, delay, timeout, instances, threads = (
        facts.find("triton_repository", f"{_SERVING}/{name}")
        for name in ("max_batch", "queue_delay_ms", "timeout_ms", "instances", "threads")
    )
    measured = facts.find("triton_repository", "model.json#/settings/from")
    by = ", as the serving benchmark chose" if isinstance(measured, Found) and measured.value == rates.STAGE else ""
    clients = facts.find("triton_repository", f"{_LATENCY}/clients")
    each = f"of {plural(threads.value, 'thread')}{by}" if isinstance(threads, Found) else ""
    load = f"({plural(clients.value, 'client')} in the load test)" if isinstance(clients, Found) else ""
    waits = _waits(delay.value) + by if isinstance(delay, Found) else ""
    return {
        "MODEL_SERVER": runtime if isinstance(runtime, Cell) else told(
            f"Triton Inference Server, backend {runtime.value}", runtime.source),
        "API_FRAMEWORK": told("gRPC and HTTP (KServe v2 protocol)", library("serving.protocols")),
        "SERVE_BATCH": batch if isinstance(batch, Cell) else batch.cell(
            "rows", note=f"at most{waits}"),
        "TIMEOUT": timeout if isinstance(timeout, Cell) else timeout.cell("ms"),
        "CONCURRENCY": instances if isinstance(instances, Cell) else instances.cell(
            "instances", lambda count: plural(count, "instance"), f"{each} {load}".strip()),
    }  # fmt: skip


def _waits(delay_ms: float) -> str:
    return f"; a request waits up to {number(delay_ms)} ms for others" if delay_ms else "; no request waits for others"


def _performance(facts: Facts) -> dict[str, Cell]:
    at = rates.kept_at(facts)
    figures = _at_a_rate(facts, *at) if at else _in_the_load_test(facts)
    return {**figures, "AVAILABILITY": _availability(facts)}


def _at_a_rate(facts: Facts, protocol: int, step: int) -> dict[str, Cell]:
    """The highest rate over gRPC that kept the limit, and what clients saw at it."""
    measured = rates.benchmark(facts)
    assert measured is not None
    where = ("protocols", protocol, "steps", step)
    rest = ", ".join(
        f"{PROTOCOLS[item['name']]} {rates.rounded(item['rate'])}"
        for item in measured["protocols"]
        if item["rate"] is not None and item["name"] != "grpc"
    )
    throughput = rates.find(facts, *where, "rate")
    figures = {
        "THROUGHPUT_REQ": throughput if isinstance(throughput, Cell) else throughput.cell(
            "requests/s", rates.rounded, f"over gRPC with {rates.limit(measured)}{f' ({rest})' if rest else ''}")
    }  # fmt: skip
    for name in ("p50", "p95", "p99"):
        found = rates.find(facts, *where, f"{name}_ms")
        aim = _aim(facts, f"latency_{name}_ms", "ms").removeprefix("measured; ")
        figures[f"{name.upper()}_LATENCY"] = found if isinstance(found, Cell) else found.cell(
            "ms", rates.rounded, f"at that rate; {aim}")  # fmt: skip
    return figures


def _in_the_load_test(facts: Facts) -> dict[str, Cell]:
    throughput = facts.find("triton_repository", f"{_LATENCY}/throughput_rps")
    figures = {
        "THROUGHPUT_REQ": throughput if isinstance(throughput, Cell) else throughput.cell(
            "requests/s", note=_aim(facts, "throughput_rps", "req/sec"))
    }  # fmt: skip
    for name in ("p50", "p95", "p99"):
        found = facts.find("triton_repository", f"{_LATENCY}/{name}_ms")
        aim = _aim(facts, f"latency_{name}_ms", "ms")
        figures[f"{name.upper()}_LATENCY"] = found if isinstance(found, Cell) else found.cell("ms", note=aim)
    return figures


def _aim(facts: Facts, metric: str, unit: str) -> str:
    """What was measured, and the target if the brief has one."""
    for target in facts.brief["problem"]["targets"]:
        if target["metric"] == metric and target["where"] == "served":
            return f"measured; target {'≥' if target['op'] == '>=' else '≤'} {in_unit(target['value'], unit)}"
    return "measured; the brief has no target"


def _availability(facts: Facts) -> Cell:
    failed = facts.find("triton_repository", f"{_LATENCY}/failed")
    asked = facts.find("triton_repository", f"{_LATENCY}/requests")
    seconds = facts.find("triton_repository", f"{_LATENCY}/seconds")
    if isinstance(failed, Cell) or isinstance(asked, Cell) or isinstance(seconds, Cell):
        return next(item for item in (failed, asked, seconds) if isinstance(item, Cell))
    if not asked.value:
        return not_applicable("no request was sent")
    note = f"of {asked.value:,} requests in {number(seconds.value)} s of load; no long run was measured"
    return made("rest", [failed, asked]).cell("share", percent, note)
