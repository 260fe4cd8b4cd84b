"""Live experiments: looks at their evidence and carries out what `rollout` decides about a challenger.

One experiment of a project runs at a time; which one begins is door.py's. A person who moves the champion ends it.
Traffic is moved by mend.py, which follows the ledger's rows; a person's word on an experiment is verdict.py's.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from dl_pipelines.lifecycle import ledger
from dl_pipelines.lifecycle.door import Rules, begin, rules_of, waiting
from dl_pipelines.lifecycle.evidence import counts, gather
from dl_pipelines.lifecycle.judged import Stage
from dl_pipelines.lifecycle.ledger import Experiment
from dl_pipelines.lifecycle.mend import SENSOR, add, began, end, mend, promote, to_mend
from dl_pipelines.lifecycle.rollout import Decision, decide_rollout
from dl_pipelines.store.workspace import Workspace
from dl_pipelines.wire.log_format import LogError

TAKES_OUT = {"roll_back": ledger.ROLLED_BACK, "stop": ledger.STOPPED}
"""Actions of `rollout` that take a challenger out, and what they are called in the ledger once they are done."""
RELOOK = 300.0
"""Seconds after which the same rows are looked at again: a stage has its hours, labels come of age."""
LARGE = 500_000
"""Rows that take too long to look at within a sensor's minute: `step` does, every RELOOK seconds."""


@dataclass(frozen=True)
class Due:
    """Whether there is something to do, what or why not, and what was looked at: the same again is nothing new.

    What has to be done is due again until it is done: then `seen` is empty.
    """

    needed: bool
    told: str
    seen: str = ""


def step(workspace: Workspace, rules: Rules, at: float, actor: str = SENSOR) -> list[str]:
    """Do whatever is due at the time `at` (seconds since 1970); sentences on what was done, none where nothing was.

    Mend what a crash left, look at the running experiment and carry the decision out, begin the one that waits. May be
    called at any time, from any process: the same evidence moves once. Where a part of the log can't be read, a
    challenger may be taken out but goes no further. Raises TritonError, RoutingError; LogError after all else is done.
    """
    damaged = carried(workspace)
    with alone(workspace):
        done = mend(workspace, rules.router)
        found = ledger.running(workspace)
        if found and rules.lifecycle.evidence != "live":
            done += end(workspace, rules.router, found, ledger.STOPPED, "lifecycle.evidence is held_out now", actor)
        elif found:
            decision = look(workspace, rules, found, at)
            if not damaged or decision.action in TAKES_OUT:
                done += carry_out(workspace, rules, found, decision, actor)
        if rules.lifecycle.evidence == "live" and ledger.running(workspace) is None:
            done += begin(workspace, rules, actor)
    for told in done:
        workspace.progress("rollout", told)
    if damaged:
        raise damaged
    return done


def due(workspace: Workspace, rules: Rules, at: float, seen: str = "") -> Due:
    """Whether `step` has something to do at the time `at`; looks at the evidence, unless it is as it was when `seen`.

    Moves nothing. Raises LogError (unless a challenger has to be taken out all the same), RoutingError.
    """
    found = ledger.running(workspace)
    if rules.lifecycle.evidence != "live":
        return Due(found is not None, "lifecycle.evidence is held_out: no experiment is run")
    if wrong := to_mend(workspace):
        return Due(True, wrong)
    if found is None:
        row = waiting(workspace, rules)
        return Due(row is not None, f"{row['challenger']} waits for its experiment" if row else "no challenger waits")
    damaged, stage = carried(workspace), Stage.of(found.stage)
    there, rows = f"{stage.revision}:{int(at // RELOOK)}", counts(workspace, stage)
    large = sum(rows.values()) > LARGE
    there += "" if large else f":{sorted(rows.items())}"
    if there == seen and not damaged:
        return Due(False, f"nothing new of {found.challenger}, stage {stage.number}", there)
    if large:
        return Due(True, f"{found.challenger}, stage {stage.number}: too much to look at beside a sensor", there)
    with alone(workspace):
        decision = look(workspace, rules, found, at)
    if damaged and decision.action not in TAKES_OUT:
        raise damaged
    told = f"{found.challenger}, stage {stage.number}: {decision.action} ({decision.reason})"
    if decision.action == "promote" and rules.lifecycle.promotion == "manual" and found.proposed is not None:
        who = f"a person decides on the proposal {found.proposed['id']} (`dlp promote`)"
        return Due(False, f"{told}; lifecycle.promotion is manual: {who}", there)
    needed = decision.action != "wait"
    return Due(needed, told, "" if needed else there)


def carried(workspace: Workspace) -> LogError | None:
    """Bring the routers' log into the tables; what was wrong with a part of it, if anything."""
    from dl_pipelines.serving.carry import carry_log

    try:
        carry_log(workspace)
    except LogError as error:
        return error
    return None


def look(workspace: Workspace, rules: Rules, found: Experiment, at: float) -> Decision:
    """What the evidence of the present stage says; kept as a row of `rollout_looks` when it saw something new."""
    given = rules.lifecycle
    if other := changed(found, rules):
        return Decision("stop", f"the rules have changed while it ran, and what it counts is not by them: {other}")
    stage = replace(Stage.of(found.stage), since=began(workspace, found.stage))
    evidence = gather(workspace, rules.task, stage, given.rollout.label_hours, at, rules.router.timeout_ms)
    decision = decide_rollout(evidence, given.rollout, given.margin)
    ledger.add_look(workspace, found, evidence, decision.plain())
    return decision


def changed(found: Experiment, rules: Rules) -> str:
    """Which rules are others than those that the experiment began with; nothing where they are the same."""
    now, then = rules_of(rules), found.first["decision"].get("rules", {})
    return ", ".join(f"{name} was {then[name]} and is {now[name]}" for name in then if now.get(name) != then[name])


def carry_out(workspace: Workspace, rules: Rules, found: Experiment, decision: Decision, actor: str) -> list[str]:
    """Add the row of a decision and make the routing table follow; nothing for `wait`, and for what is there."""
    if decision.action == "wait":
        return []
    if decision.action == "advance":
        number = found.stage["stage"] + 1
        share = rules.lifecycle.rollout.shares[number]
        told = add(
            workspace, found, ledger.STAGE, number, share, decision.plain(), decision.reason, actor,
            f"{found.name}:stage:{number}",
        )  # fmt: skip
        return told + mend(workspace, rules.router)
    if decision.action == "promote" and rules.lifecycle.promotion == "manual":
        row = found.stage
        return add(
            workspace, found, ledger.PROPOSED, row["stage"], row["share"], decision.plain(), decision.reason, actor,
            f"{found.name}:proposed",
        )  # fmt: skip
    if decision.action == "promote":
        return promote(workspace, rules.router, found, decision.reason, actor, decision.plain())
    event = TAKES_OUT[decision.action]
    return end(workspace, rules.router, found, event, decision.reason, actor, decision.plain())


def alone(workspace: Workspace):
    """A lock: one look at a project's experiment at a time. A thread may take it again."""
    from filelock import FileLock

    workspace.home.locks.mkdir(parents=True, exist_ok=True)
    return FileLock(workspace.home.locks / f"rollout-{workspace.project}.lock", is_singleton=True)
