"""`scaling_report`: how much faster more workers train, what holds them up, and what it costs; when it is asked for.

Each number of workers trains on the same samples through the real launcher; scaling_worker.py keeps the time.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dl_pipelines.brief.sections import Architecture, Data, Distributed, Training
from dl_pipelines.store import durable
from dl_pipelines.store.artifacts import Artifact, Draft
from dl_pipelines.store.workspace import Partition, Workspace
from dl_pipelines.tasks.base import Task
from dl_pipelines.tasks.intervals import Estimate, estimate
from dl_pipelines.training.energy import find_counter
from dl_pipelines.training.job import Job
from dl_pipelines.training.scaling_runs import CONFIDENCE, PARTS, Run, measured
from dl_pipelines.training.selected import kept, selected

STAGE = "scaling_report"


class ScalingFailed(ValueError):
    """One worker could not train, so that there is nothing to compare with; says why."""


def make_scaling_report(
    workspace: Workspace, partition: Partition, architecture: Architecture, training: Training,
    distributed: Distributed, data: Data, task: Task,
) -> Artifact:  # fmt: skip
    """`scaling.json` says what was asked for; what was found is `measured["scaling"]`.

    What the comparison and the study chose is what is trained. When nothing was asked for it holds the `reason`.
    Raises ScalingFailed, or ArtifactError when the window has no passing report.
    """
    window = workspace.get("training_window", partition.daily).require_gates()
    architecture, training, choosing = selected(workspace, partition, architecture, training)
    asked = distributed.scaling
    if not asked.workers:
        reason = "distributed.scaling.workers names none"

        def tell(draft: Draft) -> None:
            draft.write_json("scaling.json", {"workers": [], "reason": reason})
            draft.measure(scaling={"rows": [], "reason": reason})
            draft.show(reason=reason)

        return workspace.make(STAGE, partition, tell, settings={"reason": reason}, parents={})
    counts = sorted({1, *asked.workers})
    every = math.lcm(*counts)
    steps = every * math.ceil(asked.steps / every)
    about = {"workers": counts, "steps": steps, "batch_size": training.batch_size * training.accumulate,
             "samples": steps * training.batch_size * training.accumulate}  # fmt: skip

    def build(draft: Draft) -> None:
        job = _job(draft.work, workspace, window, architecture, training, distributed, data, task, about["samples"])
        runs: dict[int, Run | str] = {}
        for count in counts:
            workspace.progress(STAGE, f"{count} worker(s)", len(runs), len(counts))
            runs[count] = measured(job, count)
        first = runs[1]
        if not isinstance(first, Run):
            raise ScalingFailed(f"found that one worker could not train ({first}); expected it to; mend that first")
        rows = [row_of(runs[count], first, count, distributed) for count in counts]
        found = {**about, "price_per_hour": distributed.price_per_hour, "energy_reason": find_counter()[1],
                 "confidence": CONFIDENCE, "reason": None, "rows": rows}  # fmt: skip
        draft.write_json("scaling.json", {**about, "reason": None})
        draft.measure(scaling=found)
        draft.show(scaling={"md": table(found)})

    settings = {
        **about,
        "architecture": architecture.model_dump(mode="json", exclude={"comparison"}),
        "training": training.model_dump(mode="json", exclude={"warm_epochs", "search", "epochs"}),
        "distributed": distributed.model_dump(mode="json", exclude={"workers", "scaling", "restarts", "hosts"}),
        "augmentation": data.augmentation.model_dump(mode="json"),
        "task": task.params.model_dump(mode="json"),  # type: ignore[attr-defined]
    }
    given: dict[str, Any] = {"settings": settings, "parents": {"training_window": window, **choosing}}
    return kept(workspace, STAGE, partition, days=asked.keep_days, **given) or workspace.make(
        STAGE, partition, build, **given
    )


def _job(
    work: Path, workspace: Workspace, window: Artifact, architecture: Architecture, training: Training,
    distributed: Distributed, data: Data, task: Task, samples: int,
) -> Job:  # fmt: skip
    """One epoch of just so many samples: train rows in their order, again from the first where there are fewer."""
    import numpy as np

    from dl_pipelines.data.row_cache import cached_rows, statistics_of
    from dl_pipelines.training.train import task_ref

    workspace.progress(STAGE, "reading the window")
    whole, rows = cached_rows(workspace, window, data, task), work / "rows"
    durable.remove_tree(rows)
    rows.mkdir()
    for name in ("inputs", "targets", "ids"):
        train = np.load(whole / f"train_{name}.npy", mmap_mode="r")
        np.save(rows / f"train_{name}.npy", train[np.arange(samples) % len(train)], allow_pickle=False)
        (rows / f"validation_{name}.npy").symlink_to(whole / f"validation_{name}.npy")
    changed = {"epochs": 1, "patience": None, "checkpoint_steps": None,
               "compile": "off" if training.compile == "auto" else training.compile}  # fmt: skip
    return Job(
        folder=work, task=task_ref(task), family=architecture.family, training=training.model_copy(update=changed),
        distributed=distributed, augmentation=data.augmentation,
        statistics=statistics_of(whole), rows=rows,
    )  # fmt: skip


def row_of(run: Run | str, first: Run, count: int, distributed: Distributed) -> dict[str, Any]:
    """A row of the report: figures beside those of one worker, or the `reason` why there are none."""
    about = {"workers": count, "threads": distributed.threads, "reason": None,
             "communicator": "single" if count == 1 else distributed.communicator}  # fmt: skip
    if not isinstance(run, Run):
        return {**about, "reason": run}
    value, drawn = run.rates()
    alone, alone_drawn = first.rates()
    split, price = run.step_ms(), distributed.price_per_hour
    perfect: Estimate = {"value": 1.0, "low": 1.0, "high": 1.0}
    return {
        **about,
        "samples_per_second": estimate(value, drawn, CONFIDENCE),
        "efficiency": perfect if run is first
        else estimate(value / (count * alone), drawn / (count * alone_drawn), CONFIDENCE),
        "step_ms": split,
        "bottleneck": max(split, key=lambda name: split[name]),
        "lost_to": None if run is first else lost_to(split, first.step_ms()),
        "loss": round(run.loss, 6),
        "loss_of": run.loss_of,
        "samples": run.batch * len(run.steps),
        "seconds": round(run.seconds, 4),
        "cost": None if price is None else round(price * run.seconds / 3600, 9),
        "energy_j": run.energy_j,
    }  # fmt: skip


def lost_to(split: Mapping[str, float], alone: Mapping[str, float]) -> str | None:
    """The part of a step that grew most beside one worker's; None where none did: each does as much in a step."""
    grown = {name: split[name] - alone[name] for name in PARTS}
    most = max(grown, key=lambda name: grown[name])
    return most if grown[most] > 0 else None


def table(found: Mapping[str, Any]) -> str:
    """The report as a person reads it, in Markdown."""
    head = "| workers | samples/s | efficiency | ms of a step: " + ", ".join(PARTS) + " | bottleneck | loss |"
    lines = [head, "|---" * 6 + "|"]
    for row in found["rows"]:
        if row["reason"]:
            lines.append(f"| {row['workers']} | {row['reason'].replace('|', '/')} |" + " - |" * 4)
            continue
        rate, share = row["samples_per_second"], row["efficiency"]
        split = ", ".join(f"{row['step_ms'][name]:.3g}" for name in PARTS)
        lines.append(
            f"| {row['workers']} | {rate['value']:.4g} [{rate['low']:.4g}, {rate['high']:.4g}] | {share['value']:.1%} "
            f"[{share['low']:.1%}, {share['high']:.1%}] | {split} | {row['bottleneck']} | {row['loss']:.4g} |"
        )
    return "\n".join(lines) + f"\n\n{found['samples']} samples each, {found['steps']} steps of one worker."
