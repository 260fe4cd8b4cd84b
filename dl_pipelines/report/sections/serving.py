"""8. How the model is served, and what its clients saw in the load test through the live server."""

from __future__ import annotations

from dl_pipelines.evaluation.wording import number, percent, plural
from dl_pipelines.report.cells import Cell, Found, made, not_applicable, told
from dl_pipelines.report.facts import Facts, library

_LATENCY = "outcome.json#/measured/latency"


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
        "ORCHESTRATION": told("Dagster; a server that died is started again when it is next needed",
                              library("serving.server")),
        "LOAD_BALANCER": told("a router in Triton passes each request to the champion", library("serving.champion")),
        "CDN_EDGE": not_applicable("nothing is reached from outside this machine"),
    }  # fmt: skip


def _configuration(facts: Facts) -> dict[str, Cell]:
    runtime = facts.find("triton_repository", "model.json#/runtime")
    batch = facts.find("triton_repository", "manifest.json#/settings/settings/serving/max_batch")
    delay = facts.brief["serving"]["queue_delay_ms"]
    timeout = facts.find("triton_repository", "manifest.json#/settings/settings/serving/timeout_ms")
    instances = facts.find("triton_repository", "manifest.json#/settings/settings/serving/instances")
    clients = facts.find("triton_repository", f"{_LATENCY}/clients")
    note = f"({plural(clients.value, 'client')} in the load test)" if isinstance(clients, Found) else ""
    return {
        "MODEL_SERVER": runtime if isinstance(runtime, Cell) else told(
            f"Triton Inference Server, backend {runtime.value}", runtime.source),
        "API_FRAMEWORK": told("gRPC (KServe v2 protocol)", library("serving.client")),
        "SERVE_BATCH": batch if isinstance(batch, Cell) else batch.cell(
            "rows", note=f"at most; a request waits up to {number(delay)} ms for others"),
        "TIMEOUT": timeout if isinstance(timeout, Cell) else timeout.cell("ms"),
        "CONCURRENCY": instances if isinstance(instances, Cell) else instances.cell(
            "instances", lambda count: plural(count, "instance"), note),
    }  # fmt: skip


def _performance(facts: Facts) -> dict[str, Cell]:
    throughput = facts.find("triton_repository", f"{_LATENCY}/throughput_rps")
    figures = {
        "THROUGHPUT_REQ": throughput if isinstance(throughput, Cell) else throughput.cell(
            "requests/s", note=_aim(facts, "throughput_rps"))
    }  # fmt: skip
    for name in ("p50", "p95", "p99"):
        found = facts.find("triton_repository", f"{_LATENCY}/{name}_ms")
        aim = _aim(facts, f"latency_{name}_ms")
        figures[f"{name.upper()}_LATENCY"] = found if isinstance(found, Cell) else found.cell("ms", note=aim)
    return {**figures, "AVAILABILITY": _availability(facts)}


def _aim(facts: Facts, metric: str) -> str:
    """What was measured, and the target if the brief has one."""
    for target in facts.brief["problem"]["targets"]:
        if target["metric"] == metric and target["where"] == "served":
            return f"measured; target {'≥' if target['op'] == '>=' else '≤'} {number(target['value'])}"
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
