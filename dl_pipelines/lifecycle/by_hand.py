"""What a person decides about traffic: a promotion that was proposed, one against the evidence, a rollback.

A gate that forbids is not passed by hand either. What sensors decide is in promotion.py and experiment.py.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any

from dl_pipelines.lifecycle.door import Rules
from dl_pipelines.lifecycle.ledger import PROPOSED
from dl_pipelines.lifecycle.promotion import (
    PromotionError,
    Row,
    challenger_of,
    decide_promotion,
    evidence_after,
    promote,
    read_evidence,
)
from dl_pipelines.lifecycle.verdict import accept
from dl_pipelines.serving import repository
from dl_pipelines.serving.champion import STAGE, Champion, NoChampion, champion
from dl_pipelines.serving.deadly import forgive
from dl_pipelines.serving.rollouts import rollout_rows
from dl_pipelines.serving.traffic import give_traffic, rollback
from dl_pipelines.store.workspace import Partition, Workspace


@dataclass(frozen=True)
class Wish:
    """What a person asks for: stored evidence by its id, or a published model; neither: what is proposed.

    Of a live experiment, `evidence` is the row of `rollouts` that proposes. `force` goes against the evidence, or
    without any; a `reason` is asked for then.
    """

    actor: str
    evidence: int | None = None
    partition: Partition | None = None
    reason: str = ""
    force: bool = False


@dataclass(frozen=True)
class Moved:
    """A move that was done: from one model to another, how long it took in seconds, and who and why by the ledger.

    `files` of the model's folder were compared with the artifact's sha256. `before` is empty when nothing served;
    `changed` is false when it served already.
    """

    changed: bool
    before: str
    model: str
    digest: str
    partition: str
    files: int
    seconds: float
    reason: str
    actor: str

    def plain(self) -> dict[str, Any]:
        """As plain data, for JSON."""
        return asdict(self)


def promote_by_hand(workspace: Workspace, rules: Rules, wish: Wish) -> Moved:
    """Give the traffic to what the wish names; forced, also to a model that the server has not outlived.

    Raises PromotionError, ArtifactError (a gate forbids), ParityError, DeadlyError, TritonError.
    """
    if wish.evidence is not None and wish.partition is not None:
        raise PromotionError("found both evidence and a date; expected one of them: evidence names its own model")
    if wish.force and not wish.reason.strip():
        raise PromotionError("found no reason; expected --reason: it is kept in the ledger with what was forced")
    started, before = time.perf_counter(), champion(workspace)
    if wish.force:
        _force(workspace, rules, wish)
    elif rules.lifecycle.evidence == "live" and wish.partition is not None:
        raise PromotionError(
            "found that lifecycle.evidence is live; expected its experiment to decide (`dlp promote PROJECT` accepts "
            "what it proposes), or --force and --reason"
        )
    elif wish.partition is not None:
        _promote(workspace, _evidence_of(workspace, wish.partition), rules, wish)
    elif rules.lifecycle.evidence == "live":
        accept(workspace, rules, wish.actor, wish.reason, wish.evidence)
    else:
        row = _proposed(workspace, rules) if wish.evidence is None else read_evidence(workspace, wish.evidence)
        _promote(workspace, row, rules, wish)
    return _moved(workspace, before, started)


def rollback_by_hand(workspace: Workspace, reason: str, actor: str) -> Moved:
    """Give the traffic back to the version that last served; an experiment under way ends.

    Raises NoChampion (nothing served before), ArtifactError, TritonError.
    """
    started, before = time.perf_counter(), champion(workspace)
    rollback(workspace, reason or "rolled back by hand", actor)
    return _moved(workspace, before, started)


def _moved(workspace: Workspace, before: Champion | None, started: float) -> Moved:
    seconds, now = time.perf_counter() - started, champion(workspace)
    if now is None:
        raise NoChampion(f"found nothing serving {workspace.project}; expected a champion; run `dlp run` for its brief")
    files = repository.model_files(workspace.by_digest(STAGE, now.digest))
    if not repository.is_sound(workspace.home, now.model, files):
        raise repository.RepositoryError(
            f"found the folder of {now.model} other than its artifact after the move; expected the same bytes; run "
            "`dlp serve`, which puts it back"
        )
    changed = before is None or before.digest != now.digest
    return Moved(
        changed, before.model if before else "", now.model, now.digest, now.partition, len(files), round(seconds, 3),
        now.reason, now.actor,
    )  # fmt: skip


def _promote(workspace: Workspace, row: Row, rules: Rules, wish: Wish) -> None:
    if promote(workspace, row, rules.lifecycle.margin, wish.actor, wish.reason):
        return
    now = champion(workspace)
    if now is None or now.model != row["challenger"]:
        raise PromotionError(
            f"found that evidence {row['id']} has promoted {row['challenger']} once, and that "
            f"{now.model if now else 'nothing'} took its place; expected new evidence; give it the traffic again with "
            "--force and --reason"
        )


def _force(workspace: Workspace, rules: Rules, wish: Wish) -> None:
    if wish.evidence is not None:
        live = rules.lifecycle.evidence == "live"
        row = _proposal(workspace, wish.evidence) if live else read_evidence(workspace, wish.evidence)
        partition = Partition.parse(row["partition"])
        artifact = challenger_of(workspace, partition, row)
        told = {"rollout": row["id"]} if live else {"evidence": row["id"]}
        facts: dict[str, Any] = {**told, "decision": row["event"] if live else row["decision"]}
    elif wish.partition is not None:
        partition, facts = wish.partition, {}
        artifact = workspace.get(STAGE, partition)
    else:
        raise PromotionError("found nothing to promote; expected --evidence or --date with --force")
    forgive(workspace.home, artifact)
    give_traffic(workspace, artifact, partition, wish.reason, {**facts, "forced": True}, wish.actor)


def _proposal(workspace: Workspace, number: int) -> Row:
    """The row of `rollouts` with this id, which proposes a promotion. Raises PromotionError."""
    found = [row for row in rollout_rows(workspace, id=number) if row["event"] == PROPOSED]
    if not found:
        raise PromotionError(
            f"found no proposal {number} of {workspace.project}; expected the id of one, since lifecycle.evidence is "
            "live; look at `dlp ab status`, or name a model by --date and --experiment"
        )
    return found[0]


def _evidence_of(workspace: Workspace, partition: Partition) -> Row:
    """The evidence on the model of a partition against what serves. Raises PromotionError."""
    model, now = workspace.get(STAGE, partition).read_json("model.json")["model"], champion(workspace)
    about = {"champion": now.model if now else "", "challenger": model, "partition": partition.key}
    found = [row for row in evidence_after(workspace, 0) if about.items() <= row.items()]
    if not found:
        raise PromotionError(
            f"found no comparison of {model} ({partition.key}) with {about['champion'] or 'nothing'}, which serves; "
            "expected evidence; run `dlp run` for that date, or give it the traffic with --force and --reason"
        )
    return found[-1]


def _proposed(workspace: Workspace, rules: Rules) -> Row:
    """The newest evidence against what serves that says promote. Raises PromotionError."""
    now, every = champion(workspace), evidence_after(workspace, 0)
    mine = [row for row in every if now and row["champion"] == now.model]
    won = [row for row in mine if decide_promotion(row, rules.lifecycle.margin) == "promote"]
    if not won:
        last = f"; the last comparison said {mine[-1]['decision']} ({mine[-1]['reason']})" if mine else ""
        raise PromotionError(
            f"found no challenger of {now.model if now else 'nothing'} that the evidence favours{last}; expected one; "
            "name a model by --date and --experiment with --force and --reason to go against it"
        )
    return won[-1]
