"""Experiments in the ledger, written by hand with evidence that was counted nowhere and the real decision on it."""

from __future__ import annotations

from dl_pipelines.brief.live import Rollout
from dl_pipelines.lifecycle import ledger
from dl_pipelines.lifecycle.rollout import ArmEvidence, Evidence, Moments, decide_rollout, latency_bin
from dl_pipelines.store.workspace import Workspace

RULES = Rollout(shares=(0, 0.5), min_units=100, min_hours=0, label_hours=0, alpha=0.05)


def arm(units: int, right: float, failed: int = 0, slow: float = 1.0) -> ArmEvidence:
    """An arm of so many units, of which a share was right; one request a unit."""
    scores = Moments(units, units * right, units * right)
    return ArmEvidence(units, units, failed, {latency_bin(slow): units - failed}, units, units, scores)


def shadow(units: int, worse: float) -> Evidence:
    """A shadow stage whose challenger is wrong for a share of the units where the champion is right."""
    pairs = Moments(units, -units * worse, units * worse)
    return Evidence(0, 1.0, arm(units, 0.9), arm(units, 0.9 - worse), pairs)


def split(units: int, better: float, failed: int = 0, ours: int | None = None) -> Evidence:
    """A stage of equal shares."""
    return Evidence(1, 2.0, arm(units, 0.5), arm(units if ours is None else ours, 0.5 + better, failed))


class Written:
    """An experiment of `new` against `old`."""

    def __init__(
        self, workspace: Workspace, challenger: str = "tiny__new", champion: str = "tiny__old", version: int = 1
    ):
        self.workspace, self.name = workspace, ledger.name_of(champion, challenger, version)
        self.about = {"champion": champion, "challenger": challenger, "partition": "2026-01-02|base"}
        self.version = version

    def row(self, event: str, stage: int = 0, reason: str = "by a test") -> Written:
        decision = {} if event != "stage" or stage else {"version": self.version, "digest": "d" * 64, "evidence": 1}
        key = f"{self.name}:stage:{stage}" if event == "stage" else f"{self.name}:{event}"
        assert ledger.add(
            self.workspace, key, experiment=self.name, event=event, stage=stage, share=RULES.shares[stage],
            decision=decision, reason=reason, actor="sensor", **self.about,
        )  # fmt: skip
        return self

    def look(self, evidence: Evidence) -> Written:
        found = ledger.newest(self.workspace, self.name)
        decision = decide_rollout(evidence, RULES, 0.0)
        assert ledger.add_look(self.workspace, found, evidence, decision.plain())
        return self
