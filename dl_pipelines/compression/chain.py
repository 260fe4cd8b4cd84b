"""The steps of a compression, one technique each: make variants, measure them, take the best or none, go on from it.

A step's rows are decided once and replayed: then nothing is measured, and files are made again only of a step from
which something was taken.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from dl_pipelines.brief.sections import Compression
from dl_pipelines.compression.base import Network, Technique, TechniqueError, Variant
from dl_pipelines.compression.candidates import on_runtimes
from dl_pipelines.compression.ledger import Judged, Rules, Trial, as_rows, decide
from dl_pipelines.compression.trials import Candidate
from dl_pipelines.compression.workshop import Workshop
from dl_pipelines.inference.runtimes import ModelRunError, RuntimeFileError
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
        self._step = 0
        self._used: dict[str, int] = {}
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
        shop = self.shop.of(self._label(technique.name))
        shop.say(f"{technique.phase}: {technique.name.replace('_', ' ')}")
        made: list[Candidate] = []

        def judge() -> list[Row]:
            made.extend(self._candidates(technique, shop))
            trials, strongest = self._measure(made)
            return as_rows(decide(trials, strongest, self.rules), self._step, technique.phase, self.strongest.key)

        self._step += 1
        rows = shop.decide_once("ledger", judge)
        if not made and any(row["taken"] for row in rows):
            made.extend(self._candidates(technique, shop))
        self._go_on(rows, made)

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

    def _measure(self, candidates: list[Candidate]) -> tuple[list[Trial], Trial]:
        return self.bench.run(candidates, self._own, self.baseline, self.strongest, self.shop.say)

    def _label(self, name: str) -> str:
        """What a technique's folder and choices are called: with a number, where the brief names it again."""
        self._used[name] = count = self._used.get(name, 0) + 1
        return name if count == 1 else f"{name}_{count}"

    def _candidates(self, technique: Technique, shop: Workshop) -> list[Candidate]:
        """The technique's variants on the runtimes, or one with the reason why there are none."""
        variants = [self._fitting(variant) for variant in self._named(self._variants(technique, shop))]
        for variant in variants:
            self._remember(variant)
        return on_runtimes(variants, self.compression.runtimes, shop.folder)

    def _variants(self, technique: Technique, shop: Workshop) -> list[Variant]:
        from dl_pipelines.inference.export import ExportError

        unsuited = why = technique.unsuited(self.start, shop)
        if why is None:
            try:
                why, found = "it gave no variant", technique.variants(self.start, shop)
                if found:
                    return found
            except (TechniqueError, RuntimeFileError, ModelRunError, ExportError) as error:
                why = str(error)
            except ModuleNotFoundError as error:
                if (error.name or "dl_pipelines").startswith("dl_pipelines"):
                    raise
                why = f"found no package {error.name}; expected it for {technique.name}; install requirements.lock"
        first = self.compression.runtimes[:1]
        untried = unsuited is not None
        return [Variant(technique.name, technique.name, "fp32", None, why, runtimes=first, untried=untried)]

    def _named(self, variants: list[Variant]) -> Iterator[Variant]:
        """Each with a name that no other of the ledger has, and its network with the same."""
        used = {row["variant"] for row in self._rows}
        for variant in variants:
            others = (f"{variant.name}_{place}" for place in itertools.count(2))
            name = next(name for name in itertools.chain([variant.name], others) if name not in used)
            used.add(name)
            network = variant.network and replace(variant.network, name=name)
            yield replace(variant, name=name, network=network)

    def _fitting(self, variant: Variant) -> Variant:
        """The variant, or why none of the brief's runtimes can serve it."""
        allowed = self.compression.runtimes
        if variant.runtimes is None or set(variant.runtimes) & set(allowed):
            return variant
        why = (
            f"it is for {' and '.join(variant.runtimes)}, which compression.runtimes ({', '.join(allowed)}) leaves out"
        )
        return replace(variant, path=None, network=None, failure=variant.failure or why, runtimes=allowed[:1])

    def _remember(self, variant: Variant) -> None:
        from dl_pipelines.inference.parity import torch_outputs

        network = variant.network or self.start
        self._networks[variant.name] = network
        if variant.network is None:
            self._own[variant.name] = self._own[self.start.name]
        else:
            self._own[variant.name] = torch_outputs(self.shop.module(variant.network), self.bench.rows.inputs)

    def _go_on(self, rows: list[Row], candidates: list[Candidate]) -> None:
        self._rows += rows
        taken = next((row for row in reversed(rows) if row["taken"]), None)  # of step 0 the baseline comes first
        if taken is None:
            return
        names = taken["variant"], taken["runtime"]
        found = next((item for item in candidates if (item.variant.name, item.runtime) == names), None)
        if found is None or found.variant.path is None:
            why = "it was not made" if found is None else found.variant.failure
            raise ValueError(
                f"found no {names[0]} on {names[1]} ({why}), which an earlier build chose; expected the same inputs to "
                "make it again; check that the libraries are those of requirements.lock"
            )
        self.strongest = found
        if found.variant.network is not None:
            self.start = found.variant.network


def _baseline(trial: Trial) -> Judged:
    """The first row. Raises ValueError when there is nothing that the rest could be compared with."""
    if trial.failure or trial.latency is None:
        found = trial.failure or "one that was not measured"
        raise ValueError(f"found no usable baseline ({found}); expected the uncompressed model on its first runtime")
    return Judged(trial, True, True, "the baseline: uncompressed, on the first runtime of the brief")
