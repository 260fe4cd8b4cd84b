"""A person's word on the experiment that runs: yes to the promotion that it proposes, or its end.

What goes against the evidence is in by_hand.py.
"""

from __future__ import annotations

import time

from dl_pipelines.lifecycle import ledger
from dl_pipelines.lifecycle.door import Rules
from dl_pipelines.lifecycle.experiment import TAKES_OUT, alone, carried, carry_out, look
from dl_pipelines.lifecycle.ledger import Experiment, Row
from dl_pipelines.lifecycle.mend import end, mend, promote
from dl_pipelines.lifecycle.promotion import PromotionError
from dl_pipelines.store.workspace import Workspace
from dl_pipelines.wire.log_format import LogError


def accept(
    workspace: Workspace, rules: Rules, actor: str, reason: str = "", proposal: int | None = None,
    at: float | None = None,
) -> Row:  # fmt: skip
    """A person's yes to the promotion that was proposed (by the row `proposal`, if given); the row that says so.

    The same yes twice promotes once. The evidence is looked at once more (`at`: seconds since 1970, default now): a
    challenger that it takes out by now is taken out instead.

    Raises PromotionError when nothing is proposed, the experiment has ended otherwise, or a part of the log is damaged.
    """
    damaged = carried(workspace)
    with alone(workspace):
        mend(workspace, rules.router)
        every = ledger.experiments(workspace)
        found = every[-1] if every else None
        if found is None or found.proposed is None or proposal not in (None, found.proposed["id"]):
            by = "" if proposal is None else f" by the row {proposal}"
            raise PromotionError(
                f"found no promotion of {workspace.project} that was proposed{by}; expected an experiment that has "
                "shown its challenger good enough; look at `dlp ab status`"
            )
        told = reason or f"proposed: {found.proposed['reason']}"
        _accept(workspace, rules, found, told, actor, time.time() if at is None else at, damaged)
        row = ledger.newest(workspace, found.name).end
        if row is None or row["event"] != ledger.PROMOTED:
            raise PromotionError(
                f"found that the experiment of {found.challenger} was {row['event'] if row else 'not ended'} "
                f"({row['reason'] if row else 'it runs'}); expected it to wait for a person; train another model"
            )
        return row


def _accept(
    workspace: Workspace, rules: Rules, found: Experiment, told: str, actor: str, at: float, damaged: LogError | None
) -> None:
    """Promote what is proposed, unless it has ended or ends now."""
    if found.end or found.proposed is None:
        return
    decision = look(workspace, rules, found, at)
    if decision.action in TAKES_OUT:
        carry_out(workspace, rules, found, decision, actor)
    elif damaged:
        raise PromotionError(
            f"found a part of the log that can't be read ({damaged}); expected all of it, since what is missing may "
            "show harm; mend it, or go against it with --force and --reason"
        )
    else:
        promote(workspace, rules.router, found, told, actor, found.proposed["decision"])


def stop(workspace: Workspace, rules: Rules, actor: str, reason: str = "") -> Row:
    """A person ends the experiment that runs, and the champion gets everything; the row that says so.

    Raises PromotionError when none runs, or a moved champion has ended it; TritonError (the row is there, and the next
    step has the traffic follow).
    """
    with alone(workspace):
        found = ledger.running(workspace)
        if found is None:
            raise PromotionError(
                f"found no live experiment of {workspace.project} that runs; expected one; look at `dlp ab status`"
            )
        for line in end(workspace, rules.router, found, ledger.STOPPED, reason or "stopped by hand", actor):
            workspace.progress("rollout", line)
        row = ledger.newest(workspace, found.name).end
    if row is None or row["event"] != ledger.STOPPED:
        told = f"{row['event']} ({row['reason']})" if row else "not ended"
        raise PromotionError(f"found that the experiment of {found.challenger} was {told} meanwhile; look again")
    return row
