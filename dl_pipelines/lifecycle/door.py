"""Which challenger has the next live experiment: held-out rows are the door to it.

A newer challenger waits until the one that runs has ended, and takes the place of one that waits.
"""

from __future__ import annotations

from dataclasses import dataclass

from dl_pipelines.brief import Brief
from dl_pipelines.brief.live import Lifecycle, Router
from dl_pipelines.brief.sections import Data, Evaluation
from dl_pipelines.lifecycle import ledger
from dl_pipelines.lifecycle.ledger import Row
from dl_pipelines.lifecycle.mend import mend
from dl_pipelines.lifecycle.promotion import compare_with_champion, decide_promotion, evidence_after
from dl_pipelines.serving.champion import STAGE, champion
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


def waiting(workspace: Workspace, rules: Rules) -> Row | None:
    """The comparison on held-out rows of the newest challenger that may have an experiment, or None.

    It is newer than what serves and than the last experiment's, is still there, and is not worse on held-out rows (or
    has to be compared with what serves now).
    """
    now = champion(workspace)
    begun = [int(item.first["decision"].get("evidence", 0)) for item in ledger.experiments(workspace)]
    rows = evidence_after(workspace, max(begun, default=0))
    if now is None or not rows:
        return None
    row, there = rows[-1], Partition.parse(rows[-1]["partition"])
    published = workspace.find(STAGE, there) if workspace.pointed(STAGE, there) else None
    if published is None or published.read_json("model.json")["model"] != row["challenger"]:
        return None
    if row["challenger"] == now.model or there.day < Partition.parse(now.partition).day:
        return None
    about = {"champion": now.model, "challenger": row["challenger"], "partition": row["partition"]}
    compared = [item for item in evidence_after(workspace, 0) if about.items() <= item.items()]
    if not compared:
        return row
    worse = decide_promotion(compared[-1], rules.lifecycle.margin) == "keep"
    return None if worse else {**compared[-1], "newest": row["id"]}


def begin(workspace: Workspace, rules: Rules, actor: str) -> list[str]:
    """The first stage of the challenger that waits, when it is not worse than what serves now."""
    row, now = waiting(workspace, rules), champion(workspace)
    if row is None or now is None:
        return []
    partition = Partition.parse(row["partition"])
    if row["champion"] != now.model:  # what it was compared with serves no longer
        compared = compare_with_champion(
            workspace, partition, rules.data, rules.task, rules.lifecycle, rules.evaluation
        )  # fmt: skip
        if compared is None or decide_promotion(compared, rules.lifecycle.margin) == "keep":
            return []
        row = {**compared, "newest": row["id"]}
    artifact = workspace.get(STAGE, partition).require_gates()
    name, share = ledger.name_of(now.model, row["challenger"], now.version), rules.lifecycle.rollout.shares[0]
    first = {"digest": artifact.digest, "version": now.version, "evidence": max(row["id"], row.get("newest", 0))}
    added = ledger.add(
        workspace, f"{name}:stage:0", experiment=name, event=ledger.STAGE, stage=0, share=share, champion=now.model,
        challenger=row["challenger"], partition=partition.key, decision=first,
        reason=f"not worse on held-out rows: {row['reason']}", actor=actor,
    )  # fmt: skip
    begun = [f"{row['challenger']} begins its experiment against {now.model}"] if added else []
    return begun + mend(workspace, rules.router)
