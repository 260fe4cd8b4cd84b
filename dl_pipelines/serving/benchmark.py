"""`serving_benchmark`: how a model is best run on this machine, and which rate it then carries; when it is asked for.

Every rate is an open loop (open_loop.py) through a router of its own. Settings are compared by the highest rate that
keeps the limit of p99; the brief's own stay unless others are better each time that both are tried in turn.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from dl_pipelines.brief.live import Serving
from dl_pipelines.brief.sections import Data, Problem
from dl_pipelines.serving.rates import Rates, rate_of
from dl_pipelines.serving.server import running
from dl_pipelines.serving.settings import CHOICE, PROTOCOLS, STAGE, Settings, copies, delays, limit_of
from dl_pipelines.store.artifacts import Artifact, Draft
from dl_pipelines.store.workspace import Partition, Workspace
from dl_pipelines.tasks.base import Signature, Task
from dl_pipelines.training.selected import kept

ROWS = 256
"""Validation rows that are asked for, in turn."""


def make_serving_benchmark(
    workspace: Workspace, partition: Partition, serving: Serving, problem: Problem, data: Data, task: Task
) -> Artifact:
    """`choice.json` {queue_delay_ms, instances, threads}; what was measured is `measured["benchmark"]`.

    When it was not asked for (serving.benchmark.seconds is 0) the choice is empty and it holds the `reason`. A choice
    holds for serving.benchmark.keep_days for models of the same shape. Raises ArtifactError, TritonError.
    """
    asked = serving.benchmark
    if not asked.seconds:
        reason = "serving.benchmark.seconds is 0"

        def tell(draft: Draft) -> None:
            draft.write_json(CHOICE, {})
            draft.measure(benchmark={"reason": reason, "candidates": [], "protocols": []})
            draft.show(reason=reason)

        return workspace.make(STAGE, partition, tell, settings={"reason": reason}, parents={})
    compressed = workspace.get("compressed_model", partition).require_gates()
    window = workspace.get("training_window", partition.daily).require_gates()
    limit, source = limit_of(serving, problem.targets)
    cores = len(os.sched_getaffinity(0))
    about = {"limit_ms": limit, "limit_from": source, "cores": cores, "seconds": asked.seconds}

    def build(draft: Draft) -> None:
        from dl_pipelines.data.batches import window_rows

        rows = window_rows(workspace, window, "validation", data, task).inputs[:ROWS]
        rates = Rates(workspace, draft.work, serving, compressed, task.signature(), rows, limit)
        found = draft.decide_once("measured", lambda: measured(rates, cores))
        draft.write_json(CHOICE, found["chosen"])
        draft.measure(benchmark={**about, "reason": None, **found})
        own = Settings.of(serving)
        changed = "" if found["chosen"] == asdict(own) else f" in place of {own}, with which compression chose"
        draft.show(chosen=f"{Settings(**found['chosen'])}{changed}", why=found["why"], benchmark={"md": table(found)})

    settings = {
        **about,
        "asked": asked.model_dump(mode="json", exclude={"keep_days"}),
        "serving": serving.model_dump(mode="json", exclude={"benchmark", "load_seconds", "load_clients"}),
        "shape": _shape(compressed, task.signature()),
        "split": data.split.model_dump(mode="json"),
    }
    parents = {"compressed_model": compressed, "training_window": window}
    given: dict[str, Any] = {"settings": settings, "parents": parents}
    return kept(workspace, STAGE, partition, days=asked.keep_days, **given) or workspace.make(
        STAGE, partition, build, **given
    )


def _shape(compressed: Artifact, signature: Signature) -> dict[str, Any]:
    """What models have in common that a choice holds for: runtime, tensors, and a size alike to its first digit."""
    choice = compressed.read_json("choice.json")
    size = sum(compressed.file(name).stat().st_size for name in compressed.files if name.startswith("model/"))
    tensors = [*signature.inputs, *signature.outputs]
    return {
        **{name: choice[name] for name in ("runtime", "precision", "variant")},
        "bytes": float(f"{size:.1g}"),
        "tensors": [[item.name, item.dtype, list(item.shape)] for item in tensors],
    }


def measured(rates: Rates, cores: int) -> dict[str, Any]:
    """Compare, choose, then measure the chosen by each protocol: instances and threads first, with the best the delay.

    That is a fourth to a half of all combinations; one that is better only with another delay is not found.
    """
    own = Settings.of(rates.serving)
    with running(rates.workspace.home):
        rates.say(f"{own} (the brief's own)")
        rows = [rates.own(own)]
        rows += [rates.other(settings, rows[0]["place"]) for settings in copies(rates.serving, cores)]
        best = max(rows, key=lambda row: -1 if row["place"] is None else row["place"])
        rows += [rates.other(item, best["place"]) for item in delays(rates.serving, Settings.read(best))]
        chosen, why = rates.choose(rows)
        (near,) = (row["place"] for row in rows if Settings.read(row) == chosen)
        protocols = [rates.protocol(name, chosen, near) for name in PROTOCOLS]
    return {"candidates": rows, "chosen": asdict(chosen), "why": why, "protocols": protocols}


def table(found: Mapping[str, Any]) -> str:
    """The benchmark as a person reads it, in Markdown."""
    lines = ["| settings | requests/s that keep p99 |", "|---|---|"]
    for row in found["candidates"]:
        settings = Settings.read(row)
        name = f"**{settings}**" if asdict(settings) == found["chosen"] else str(settings)
        limit = f" ({row['limit']})" if row["limit"] else ""
        lines.append(f"| {name} | {(row['reason'] or rate_of(row) + limit).replace('|', '/')} |")
    lines += ["", "| protocol | requests/s | p50 (ms) | p95 | p99 | requests |", "|---" * 6 + "|"]
    for row in found["protocols"]:
        name = PROTOCOLS[row["name"]]
        if row["reason"]:
            lines.append(f"| {name} | {row['reason'].replace('|', '/')} |" + " - |" * 4)
        for step in row["steps"]:
            times = " | ".join(_ms(step[f"p{share}_ms"]) for share in (50, 95, 99))
            lines.append(f"| {name} | {step['rate']:.4g} | {times} | {step['requests']} |")
    return "\n".join(lines)


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"
