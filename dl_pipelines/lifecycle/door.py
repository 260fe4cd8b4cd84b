"""Which challenger has the next live experiment: held-out rows are the door to it.

A newer challenger waits until the one that runs has ended, and takes the place of one that waits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dl_pipelines.brief import Brief
from dl_pipelines.brief.live import Lifecycle, Router
from dl_pipelines.brief.sections import Data, Evaluation
from dl_pipelines.lifecycle import ledger
from dl_pipelines.lifecycle.ledger import Row
from dl_pipelines.lifecycle.mend import mend
from dl_pipelines.lifecycle.promotion import compare_with_champion, decide_promotion, evidence_after
from dl_pipelines.serving.champion import STAGE, Champion, champion
from dl_pipelines.store.workspace import Partition, Workspace
from dl_pipelines.tasks.base import Task


@dataclass(frozen=True)
class Rules:
    """What a project's experiments go by: the brief's sections and its task."""

    task: Task
    data: Data
    evaluation: Evaluation
    lifecycle: Lifecycle
    router: Router

    @classmethod
    def of(cls, brief: Brief, task: Task) -> Rules:
        """From a brief and the task it names."""
        return cls(task, brief.data, brief.evaluation, brief.lifecycle, brief.serving.router)


def rules_of(rules: Rules) -> dict[str, Any]:
    """What decides on a challenger, as plain data: an experiment goes by the rules that it began with."""
    given = rules.lifecycle
    return {"margin": given.margin, **given.rollout.model_dump(mode="json"), **rules.router.model_dump(mode="json")}


def waiting(workspace: Workspace, rules: Rules) -> Row | None:
    """The comparison on held-out rows of the newest challenger that may have an experiment, or None.

    It is newer than what serves and than the last experiment's, is still there, has had no experiment against what
    serves, and is not worse on held-out rows (or has to be compared with what serves now).
    """
    now, experiments = champion(workspace), ledger.experiments(workspace)
    begun = max((int(item.first["decision"].get("evidence", 0)) for item in experiments), default=0)
    every, names = evidence_after(workspace, 0), {item.name for item in experiments}
    if now is None:
        return None
    seen: set[tuple[str, str]] = set()
    for row in reversed([item for item in every if item["id"] > begun]):
        about = _about(row)
        if about in seen or ledger.name_of(now.model, row["challenger"], now.version) in names:
            continue
        seen.add(about)
        if not _may_come(workspace, row, now):
            continue
        compared = [item for item in every if (item["champion"], *_about(item)) == (now.model, *about)]
        if not compared:
            return row
        if decide_promotion(compared[-1], rules.lifecycle.margin) != "keep":
            return {**compared[-1], "newest": row["id"]}
    return None


def _about(row: Row) -> tuple[str, str]:
    return row["challenger"], row["partition"]


def _may_come(workspace: Workspace, row: Row, now: Champion) -> bool:
    """Whether the challenger of a comparison is still published for its day, which is none before the champion's."""
    there = Partition.parse(row["partition"])
    published = workspace.find(STAGE, there) if workspace.pointed(STAGE, there) else None
    if published is None or published.read_json("model.json")["model"] != row["challenger"]:
        return False
    return row["challenger"] != now.model and there.day >= Partition.parse(now.partition).day


def begin(workspace: Workspace, rules: Rules, actor: str) -> list[str]:
    """The first stage of the newest challenger that waits and is not worse than what serves now."""
    while row := waiting(workspace, rules):
        now = champion(workspace)
        if now is None or row["champion"] == now.model:
            break
        # what it was compared with serves no longer
        partition = Partition.parse(row["partition"])
        if not compare_with_champion(
            workspace, partition, rules.data, rules.task, rules.lifecycle, rules.evaluation
        ):  # fmt: skip
            return []
    return _begin(workspace, rules, row, actor) if row else []


def _begin(workspace: Workspace, rules: Rules, row: Row, actor: str) -> list[str]:
    now, partition = champion(workspace), Partition.parse(row["partition"])
    if now is None or now.model != row["champion"]:
        return []  # somebody was faster
    artifact = workspace.get(STAGE, partition).require_gates()
    name, share = ledger.name_of(now.model, row["challenger"], now.version), rules.lifecycle.rollout.shares[0]
    first = {
        "digest": artifact.digest, "version": now.version, "evidence": max(row["id"], row.get("newest", 0)),
        "rules": rules_of(rules),
    }  # fmt: skip
    added = ledger.add(
        workspace, f"{name}:stage:0", experiment=name, event=ledger.STAGE, stage=0, share=share, champion=now.model,
        challenger=row["challenger"], partition=partition.key, decision=first,
        reason=f"not worse on held-out rows: {row['reason']}", actor=actor,
    )  # fmt: skip
    begun = [f"{row['challenger']} begins its experiment against {now.model}"] if added else []
    return begun + mend(workspace, rules.router)
