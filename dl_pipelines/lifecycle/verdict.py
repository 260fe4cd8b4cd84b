"""A person's word on the experiment that runs: yes to the promotion that it proposes.

What goes against the evidence is in by_hand.py.
"""

from __future__ import annotations

import time

from dl_pipelines.lifecycle import ledger
from dl_pipelines.lifecycle.door import Rules
from dl_pipelines.lifecycle.experiment import TAKES_OUT, alone, carried, carry_out, look
from dl_pipelines.lifecycle.ledger import Experiment, Row
from dl_pipelines.lifecycle.mend import end, mend
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
        end(workspace, rules.router, found, ledger.PROMOTED, told, actor, found.proposed["decision"])
