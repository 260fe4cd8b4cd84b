"""The steps of a compression, one technique each: make variants, measure them, take the best or none, go on from it.

A step's rows are decided once and replayed; the files of what was taken are made again when they are gone.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from dl_pipelines.brief.sections import Compression
from dl_pipelines.compression.base import Network, Technique, TechniqueError, Variant
from dl_pipelines.compression.candidates import on_runtimes
from dl_pipelines.compression.ledger import Judged, Rules, Trial, as_rows, decide
from dl_pipelines.compression.trials import Candidate
from dl_pipelines.compression.workshop import Workshop
from dl_pipelines.tasks.base import Parity

if TYPE_CHECKING:
    import numpy as np

Row = dict[str, Any]
"""One row of the ledger as plain data."""


class Chain:
    """Starts with the uncompressed model on every runtime; the first of them is the baseline of all gains."""

    def __init__(self, shop: Workshop, compression: Compression):
        self.shop = replace(shop, ledger=self.rows)
        self.bench, self.compression = shop.bench, compression
        self.rules = Rules(compression.objective, compression.max_loss, shop.task.primary)
        self._rows: list[Row] = []
        self._own: dict[str, np.ndarray] = {"fp32": shop.bench.reference}
        """Outputs of the torch network that each variant came from, by the variant's name."""
        self._networks: dict[str, Network] = {"fp32": shop.trained}
        self.start = shop.trained
        first = on_runtimes(
            [Variant("fp32", "none", "fp32", shop.trained.onnx)], compression.runtimes, shop.folder / "trained"
        )
        self.baseline = self.strongest = first[0]
        self._begin(first)

    def step(self, technique: Technique) -> None:
        """Try one technique from the last network that was taken."""
        shop, name = self.shop.of(technique.name), technique.name
        shop.say(f"{technique.phase}: {name.replace('_', ' ')}")
        variants = self._variants(technique, shop)
        for variant in variants:
            self._remember(variant)
        candidates = on_runtimes(variants, self.compression.runtimes, shop.folder)
        rows = shop.decide_once("ledger", lambda: self._judge(candidates, len(self._steps()), technique.phase))
        self._go_on(rows, candidates)

    def rows(self) -> list[Row]:
        """The ledger so far, with what serves."""
        for row in self._rows:
            row["chosen"] = (row["variant"], row["runtime"]) == (self.strongest.variant.name, self.strongest.runtime)
        return self._rows

    def chosen(self) -> tuple[Row, Candidate]:
        """What serves."""
        return next(row for row in self.rows() if row["chosen"]), self.strongest

    def own(self, candidate: Candidate) -> np.ndarray:
        """Outputs [N, ...] of the torch network that a candidate was exported from."""
        return self._own[candidate.variant.name]

    def network_of(self, candidate: Candidate) -> Network:
        """That network."""
        return self._networks[candidate.variant.name]

    def export_parity(self, candidate: Candidate) -> Parity:
        """Of that network's float32 graph on ONNX Runtime with the network itself, exactly."""
        network = self.network_of(candidate)
        exported = Variant(network.name, "none", "fp32", network.onnx)
        return self.bench.parity(exported, self.own(candidate), self.bench.open(network.onnx, "onnxruntime"))[0]

    def _begin(self, candidates: list[Candidate]) -> None:
        """The baseline, and whether another runtime is better: step 0."""

        def judge() -> list[Row]:
            trials, strongest = self._measure(candidates)
            judged = [_baseline(trials[0]), *decide(trials[1:], strongest, self.rules)]
            return as_rows(judged, 0, "runtime", self.baseline.key)

        self._go_on(self.shop.of("trained").decide_once("ledger", judge), candidates)

    def _judge(self, candidates: list[Candidate], step: int, phase: str) -> list[Row]:
        trials, strongest = self._measure(candidates)
        return as_rows(decide(trials, strongest, self.rules), step, phase, self.strongest.key)

    def _measure(self, candidates: list[Candidate]) -> tuple[list[Trial], Trial]:
        def say(message: str, done: int) -> None:
            self.shop.say(message, done, len(candidates) + 2)

        return self.bench.run(candidates, self._own, self.baseline, self.strongest, say)

    def _variants(self, technique: Technique, shop: Workshop) -> list[Variant]:
        why = technique.unsuited(self.start, shop)
        if why is None:
            try:
                return technique.variants(self.start, shop)
            except TechniqueError as error:
                why = str(error)
        return [Variant(technique.name, technique.name, "fp32", None, why, runtimes=self.compression.runtimes[:1])]

    def _remember(self, variant: Variant) -> None:
        from dl_pipelines.inference.parity import torch_outputs

        network = variant.network or self.start
        self._networks[variant.name] = network
        if variant.network is None:
            self._own[variant.name] = self._own[self.start.name]
        else:
            module = self.shop.module(variant.network)
            self._own[variant.name] = torch_outputs(module, self.bench.rows.inputs)
            self._own.setdefault(variant.network.name, self._own[variant.name])

    def _go_on(self, rows: list[Row], candidates: list[Candidate]) -> None:
        self._rows += rows
        taken = next((row for row in rows if row["taken"]), None)
        if taken is None:
            return
        found = next(item for item in candidates if (item.variant.name, item.runtime) == _names(taken))
        if found.variant.path is None:
            raise ValueError(
                f"found no {found.key} ({found.variant.failure}), which an earlier build chose; expected the same "
                "inputs to make it again; check that the libraries are those of requirements.lock"
            )
        self.strongest = found
        if found.variant.network is not None:
            self.start = found.variant.network

    def _steps(self) -> set[int]:
        return {row["step"] for row in self._rows}


def _baseline(trial: Trial) -> Judged:
    """The first row. Raises ValueError when there is nothing that the rest could be compared with."""
    if trial.failure or trial.latency is None:
        found = trial.failure or "one that was not measured"
        raise ValueError(f"found no usable baseline ({found}); expected the uncompressed model on its first runtime")
    return Judged(trial, True, True, "the baseline: uncompressed, on the first runtime of the brief")


def _names(row: Row) -> tuple[str, str]:
    return row["variant"], row["runtime"]
