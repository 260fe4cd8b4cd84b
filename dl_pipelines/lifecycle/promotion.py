"""Champion against challenger: evidence from held-out rows, the decision, and the promotion that follows from it.

Both answer the validation rows of the challenger's window in this process; live traffic is not split and test rows are
not read. A difference is the challenger's minus the champion's, turned so that above zero the challenger is better.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dl_pipelines.brief.live import Lifecycle
from dl_pipelines.brief.sections import Data, Evaluation
from dl_pipelines.serving import repository
from dl_pipelines.serving.champion import STAGE, Champion, champion, exclusive
from dl_pipelines.serving.traffic import give_traffic
from dl_pipelines.store.artifacts import Artifact
from dl_pipelines.store.database import Database
from dl_pipelines.store.workspace import Partition, Workspace
from dl_pipelines.tasks.base import Task

if TYPE_CHECKING:
    import sqlalchemy as sa

Row = Mapping[str, Any]
"""A row of `promotion_evidence` as plain data."""


class PromotionError(ValueError):
    """Evidence that may not move traffic; says why and what to do."""


def decide_promotion(row: Row, margin: float) -> str:
    """`promote`, `keep` or `undecided`, from `rows`, `low` and `high`; `margin` >= 0 in the unit of the metric.

    The challenger takes over when the whole interval lies above -margin, the champion stays when all of it lies below.
    Where nothing could be compared (no rows) the champion stays.
    """
    low, high = row.get("low"), row.get("high")
    if not row.get("rows"):
        return "keep"
    if low is None or high is None:
        return "undecided"
    if low > -margin:
        return "promote"
    return "keep" if high < -margin else "undecided"


def compare_with_champion(
    workspace: Workspace, partition: Partition, data: Data, task: Task, lifecycle: Lifecycle, evaluation: Evaluation
) -> Row | None:
    """The evidence on the partition's published model, stored once for this champion, challenger and partition.

    None where there is nothing to compare: nothing serves, this model serves, or it is of an earlier day than what
    serves. Models with other inputs, outputs or labels are not compared: the champion stays, with that reason.
    Raises ArtifactError (a stage has not run, a gate failed, a file is damaged).
    """
    with exclusive(workspace):
        artifact, now = workspace.get(STAGE, partition).require_gates(), champion(workspace)
        challenger = artifact.read_json("model.json")["model"]
        if now is None or challenger == now.model:
            return None
        if partition.day < Partition.parse(now.partition).day:
            workspace.progress(STAGE, f"{challenger} is of an earlier day than {now.model}, which serves: not compared")
            return None
        known = {"champion": now.model, "challenger": challenger, "partition": partition.key}
        if found := _evidence(workspace, **known):
            return found[-1]
        values = _compare(workspace, now, artifact, data, task, lifecycle, evaluation)
        number = _append(workspace, **known, **values)
    row = read_evidence(workspace, number)
    workspace.progress(STAGE, f"{challenger} against {now.model}: {row['decision']} ({row['reason']})")
    return row


def _compare(
    workspace: Workspace, now: Champion, artifact: Artifact, data: Data, task: Task, lifecycle: Lifecycle,
    evaluation: Evaluation,
) -> dict[str, Any]:  # fmt: skip
    """Everything of the evidence but who and where."""
    from dl_pipelines.data.batches import window_rows
    from dl_pipelines.evaluation.metrics import paired_difference
    from dl_pipelines.inference.answers import compressed_answers

    serves = workspace.by_digest(STAGE, now.digest)
    if other := repository.unlike(serves.verify(), artifact.verify()):
        return _nothing(task, f"not compared: {other}")
    window = workspace.by_digest("training_window", artifact.parents["training_window"]).require_gates()
    rows = window_rows(workspace, window, "validation", data, task)
    if not len(rows):
        return _nothing(task, "the window has no validation rows")
    first, second = (
        compressed_answers(workspace.by_digest("compressed_model", item.parents["compressed_model"]), rows.inputs)
        for item in (serves, artifact)
    )
    if any(task.primary not in task.measure(outputs, rows.targets) for outputs in (first, second)):
        return _nothing(task, f"{task.primary} can't be measured on these {len(rows)} validation rows")
    given = evaluation.resamples, lifecycle.confidence, evaluation.seed
    found = paired_difference(task, task.primary, first, second, rows.targets, *given)
    value, low, high = found["value"], found["low"], found["high"]
    if task.metrics[task.primary].better == "lower":
        value, low, high = 0.0 - value, 0.0 - high, 0.0 - low
    values = {"metric": task.primary, "rows": len(rows), "difference": value, "low": low, "high": high}
    told = (
        f"{task.primary} better by {value:.4g} [{low:.4g}, {high:.4g}] at {lifecycle.confidence:.0%} on {len(rows)} "
        f"validation rows, margin {lifecycle.margin:g}"
    )
    return {**values, "decision": decide_promotion(values, lifecycle.margin), "reason": told}


def _nothing(task: Task, reason: str) -> dict[str, Any]:
    """Evidence on no rows; the zeros stand for no difference, and `rows` 0 says that none was measured."""
    zeros = {"rows": 0, "difference": 0.0, "low": 0.0, "high": 0.0}
    return {"metric": task.primary, **zeros, "decision": "keep", "reason": reason}


def evidence_after(workspace: Workspace, number: int) -> list[Row]:
    """Evidence with an id above `number`, oldest first."""
    return [row for row in _evidence(workspace) if row["id"] > number]


def read_evidence(workspace: Workspace, number: int) -> Row:
    """The evidence with this id. Raises PromotionError when the project has none."""
    found = _evidence(workspace, id=number)
    if not found:
        raise PromotionError(
            f"found no promotion evidence {number} of {workspace.project}; expected an id that a comparison stored; "
            "publish a newer model (`dlp run`) to have it compared"
        )
    return found[0]


def promote(
    workspace: Workspace, evidence: Row, margin: float | None = None, actor: str = "run", reason: str = ""
) -> bool:
    """Give the challenger of the evidence the traffic; False when this evidence has done so already.

    With a `margin` (the brief's, now) the decision is taken again, else the stored one counts. `actor` and `reason`
    (the evidence's, when empty) go into the ledger. Everything is checked under the publication lock.

    Raises PromotionError, ArtifactError, ParityError, DeadlyError, TritonError.
    """
    with exclusive(workspace):
        if _used(workspace, evidence):
            workspace.progress(STAGE, f"evidence {evidence['id']} has promoted {evidence['challenger']} already")
            return False
        decision = evidence["decision"] if margin is None else decide_promotion(evidence, margin)
        if decision != "promote":
            raise PromotionError(
                f"found the decision {decision} in evidence {evidence['id']} ({evidence['reason']}); expected promote; "
                "train a better model, or set lifecycle.margin higher"
            )
        now = champion(workspace)
        if now is None or now.model != evidence["champion"]:
            raise PromotionError(
                f"found {now.model if now else 'nothing'} serving {workspace.project}; expected "
                f"{evidence['champion']}, which evidence {evidence['id']} is about; run `dlp run` again to have "
                f"{evidence['challenger']} compared with what serves"
            )
        partition = Partition.parse(evidence["partition"])
        facts = {name: evidence[name] for name in ("champion", "metric", "rows", "difference", "low", "high")}
        give_traffic(
            workspace, challenger_of(workspace, partition, evidence), partition, reason or evidence["reason"],
            {"evidence": evidence["id"], **facts}, actor,
        )  # fmt: skip
    return True


def challenger_of(workspace: Workspace, partition: Partition, evidence: Row) -> Artifact:
    """What is published for a partition, which has to be the evidence's challenger. Raises PromotionError."""
    artifact = workspace.find(STAGE, partition)
    model = artifact.read_json("model.json")["model"] if artifact else "nothing"
    if artifact is None or model != evidence["challenger"]:
        raise PromotionError(
            f"found {model} published for {partition.key}; expected {evidence['challenger']}, which evidence "
            f"{evidence['id']} is about; run `dlp run` for that date again"
        )
    return artifact


def _used(workspace: Workspace, evidence: Row) -> bool:
    """Whether the ledger has a move for this evidence, finished or (after a crash) about to be repaired."""
    from dl_pipelines.store.tables import served_ledger

    now = champion(workspace)
    for row in _rows(workspace, served_ledger):
        if row["evidence"].get("evidence") != evidence["id"]:
            continue
        if row["event"] != "published" or (now is not None and row["id"] == now.version):
            return True
    return False


def _evidence(workspace: Workspace, **equal: Any) -> list[Row]:
    from dl_pipelines.store.tables import promotion_evidence

    return _rows(workspace, promotion_evidence, **equal)


def _rows(workspace: Workspace, table: sa.Table, **equal: Any) -> list[Row]:
    with contextlib.closing(Database.of(workspace.home, workspace.project)) as database:
        return database.rows(table, project=workspace.project, **equal)


def _append(workspace: Workspace, **values: Any) -> int:
    from dl_pipelines.store.tables import promotion_evidence

    with contextlib.closing(Database.of(workspace.home, workspace.project)) as database:
        return database.append(promotion_evidence, project=workspace.project, **values)
