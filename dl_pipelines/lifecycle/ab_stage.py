"""The stage `ab_experiment`: what a partition's model has shown live as a challenger, and what was decided on it.

The evidence is that of the looks that were taken (experiment.py); nothing is moved here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from dl_pipelines.brief.live import Lifecycle
from dl_pipelines.evaluation.pictures import alone, markdown
from dl_pipelines.lifecycle import ledger
from dl_pipelines.lifecycle.ab_picture import pictures, together, units
from dl_pipelines.lifecycle.ledger import Experiment, Row
from dl_pipelines.store.artifacts import Artifact, Draft, Gate
from dl_pipelines.store.digest import digest_json
from dl_pipelines.store.workspace import Partition, Workspace

STAGE = "ab_experiment"
SPLIT = "the arms can't be compared"
"""What the reason of a decision says when the units, or the labels, were not split as the share says."""
FILE, DRAWN = "experiment.json", "evidence.svg"


def make_ab_experiment(workspace: Workspace, partition: Partition, lifecycle: Lifecycle) -> Artifact:
    """`experiment.json` and `evidence.svg`, or the `reason` why there was no experiment of this partition's model.

    The same rows and looks give the same artifact. Gates (they warn): `guardrails`, none is harmed; `sample_ratio`,
    each arm had its share. Raises ArtifactError when nothing was published,
    or its log has not been read.
    """
    if lifecycle.evidence != "live":
        return _not_asked(workspace, partition)
    published = workspace.get("triton_repository", partition).require_gates()
    logged = workspace.get("prediction_log", partition).require_gates()  # what was asked is in the tables by now
    model = published.read_json("model.json")["model"]
    every = ledger.experiments(workspace)
    found = next((item for item in reversed(every) if item.challenger == model), None)
    looks = ledger.looks(workspace, found.name) if found else []
    told = told_of(found, looks) if found else {"reason": _why_none(model, every)}
    before = summary(every, ledger.withdrawn(workspace))

    def build(draft: Draft) -> None:
        draft.write_json(FILE, {**told, "experiments": before})
        _gates(draft, told)
        if not found:
            draft.show(reason=told["reason"])
            return
        drawn = pictures(looks)
        draft.write_text(DRAWN, alone(together(drawn)))
        draft.show(
            state=told["state"], stage=told["stage"], why=told["reason_of_state"], evidence={"md": markdown(drawn)}
        )

    settings = {"told": digest_json([told, before]), "looks": len(looks)}
    parents = {"triton_repository": published, "prediction_log": logged}
    return workspace.make(STAGE, partition, build, settings=settings, parents=parents)


def _not_asked(workspace: Workspace, partition: Partition) -> Artifact:
    reason = "lifecycle.evidence is held_out: challengers are compared on held-out rows, live traffic is not split"

    def tell(draft: Draft) -> None:
        draft.write_json(FILE, {"reason": reason, "experiments": []})
        _gates(draft, {"reason": reason})
        draft.show(reason=reason)

    return workspace.make(STAGE, partition, tell, settings={"reason": reason}, parents={})


def told_of(found: Experiment, looks: Sequence[Row]) -> dict[str, Any]:
    """One experiment as plain data: its rows, and of each stage the last look."""
    last = {look["stage"]: look for look in looks}
    kept = ("id", "event", "stage", "share", "reason", "actor", "at")
    return {
        "experiment": found.name,
        "champion": found.champion,
        "challenger": found.challenger,
        "state": found.end["event"] if found.end else ("proposed" if found.proposed else "running"),
        "reason_of_state": found.rows[-1]["reason"],
        "stage": found.stage["stage"],
        "share": found.stage["share"],
        "looks": len(looks),
        "units": sum(units(look["evidence"]) for look in last.values()),
        "rows": [{name: row[name] for name in kept} for row in found.rows],
        "stages": [
            {"stage": stage, "evidence": look["evidence"], "decision": look["decision"], "at": look["at"]}
            for stage, look in sorted(last.items())
        ],
        "last": last[max(last)]["decision"] if last else None,
    }


def summary(every: Sequence[Experiment], withdrawn: Mapping[int, str]) -> list[dict[str, Any]]:
    """A line for each experiment of the project so far; `seconds` from the decision to end it until it had ended."""
    found = []
    for item in every:
        end = item.end
        gone = withdrawn.get(end["id"]) if end else None
        found.append(
            {
                "challenger": item.challenger,
                "champion": item.champion,
                "began": item.first["at"],
                "state": end["event"] if end else "running",
                "stage": item.stage["stage"],
                "ended": end["at"] if end else None,
                "by": end["actor"] if end else None,
                "reason": item.rows[-1]["reason"],
                "seconds": _seconds(end["at"], gone) if end and gone else None,
            }
        )
    return found


def _seconds(first: str, last: str) -> float:
    return round((datetime.fromisoformat(last) - datetime.fromisoformat(first)).total_seconds(), 3)


def _why_none(model: str, every: Sequence[Experiment]) -> str:
    if any(item.end is None for item in every):
        return f"{model} has had no experiment: another one is running"
    return f"{model} has had no experiment: it was no challenger of what serves, or none has begun yet"


def _gates(draft: Draft, told: Mapping[str, Any]) -> None:
    """What the last look of each stage says of them; True where there was nothing to be harmed or split."""
    if "reason" in told:
        for name in ("guardrails", "sample_ratio"):
            draft.gate(Gate(name, True, f"no experiment: {told['reason']}"))
        return
    harmed = [
        f"stage {stage['stage']}: {bound['name']} is harmed"
        for stage in told["stages"]
        for bound in stage["decision"]["bounds"][1:]
        if bound["state"] == "harmed"
    ]
    judged = [bound for stage in told["stages"] for bound in stage["decision"]["bounds"][1:]]
    summary = "; ".join(harmed) or f"none of {len(judged)} bounds is harmed"
    draft.gate(Gate("guardrails", not harmed if judged else None, summary, facts={"harmed": harmed}))
    wrong = [
        f"stage {stage['stage']}: {stage['decision']['reason']}"
        for stage in told["stages"]
        if stage["decision"]["action"] == "stop" and SPLIT in stage["decision"]["reason"]
    ]
    draft.gate(Gate("sample_ratio", not wrong, "; ".join(wrong) or "each arm has had its share of the units"))
