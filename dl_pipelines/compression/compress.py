"""The stage `compressed_model`: from the trained model to the artifact that serves, one step after the other.

Each technique starts from the last network that was taken and is judged against the strongest artifact so far (chain.py
measures, ledger.py decides). Looks at validation rows only; calibration and training at the train split.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dl_pipelines.brief.live import Serving
from dl_pipelines.brief.sections import Compression, Data, Distributed, Problem, Training
from dl_pipelines.compression.base import Network, Technique, TechniqueError
from dl_pipelines.compression.budget import budget_told
from dl_pipelines.compression.candidates import served_files, spread
from dl_pipelines.compression.chain import Chain, Row
from dl_pipelines.compression.ledger import as_markdown
from dl_pipelines.compression.registry import techniques_of
from dl_pipelines.compression.trials import Bench
from dl_pipelines.compression.verify import links_gate, write_links
from dl_pipelines.compression.workshop import Workshop
from dl_pipelines.inference.parity_chain import Link
from dl_pipelines.inference.runtimes import MODEL_FILES
from dl_pipelines.store.artifacts import Artifact, Draft, Gate
from dl_pipelines.store.digest import digest_json
from dl_pipelines.store.workspace import Partition, Workspace
from dl_pipelines.tasks.base import Parity, Rows, Task
from dl_pipelines.training.launch import Launcher, run_locally

if TYPE_CHECKING:
    import numpy as np

    from dl_pipelines.training.energy import Counter
    from dl_pipelines.training.job import Job

STAGE = "compressed_model"
LEDGER = "ledger/compression.json"
LEAST_CALIBRATION = 2
"""Rows: ranges of one row say nothing about others."""


class NoEnergyCounter(ValueError):
    """The objective is energy, which this machine does not show."""


def make_compressed_model(
    workspace: Workspace, partition: Partition, problem: Problem, training: Training, distributed: Distributed,
    compression: Compression, serving: Serving, data: Data, task: Task, launcher: Launcher = run_locally,
) -> Artifact:  # fmt: skip
    """The artifact that serves: `model/` for its runtime, `choice.json`, `network.json`, `outputs_validation.npy`.

    The ledger is `ledger/compression.json` (outside the digest: it is measured) and `measured["ledger"]`; its first row
    is `measured["baseline"]`. Gates: `parity` (blocking), `accuracy_budget`. An interrupted one goes on. Raises
    ArtifactError when a parent is missing or failed its gates, ExportError, NoEnergyCounter, ValueError when the
    validation split is empty.
    """
    trained = workspace.get("trained_model", partition).require_gates()
    window = workspace.get("training_window", partition.daily).require_gates()
    techniques = techniques_of(compression)
    stage = _Stage(
        workspace, problem, training, distributed, compression, serving, data, task, launcher, trained, window,
        techniques,
    )  # fmt: skip
    settings = settings_of(problem, training, distributed, compression, serving, data, techniques)
    parents = {"trained_model": trained, "training_window": window}
    return workspace.make(STAGE, partition, stage.build, settings=settings, parents=parents, version=3)


def settings_of(
    problem: Problem, training: Training, distributed: Distributed, compression: Compression, serving: Serving,
    data: Data, techniques: list[Technique],
) -> dict[str, Any]:  # fmt: skip
    """What the artifact depends on beside its parents; how a model is trained only where a technique trains."""
    asked = [{"name": each.name, "params": each.params.model_dump(mode="json")} for each in techniques]
    settings: dict[str, Any] = {
        "compression": {**compression.model_dump(mode="json"), "techniques": asked},
        "targets": [target.model_dump(mode="json") for target in problem.targets],
        "as_served": serving.model_dump(mode="json", include={"threads", "instances"}),
    }
    if any(technique.trains for technique in techniques):
        settings |= {
            "training": training.model_dump(mode="json", exclude={"search", "warm_epochs"}),
            "distributed": distributed.model_dump(mode="json", include={"communicator", "workers", "compression"}),
            "augmentation": data.augmentation.model_dump(mode="json"),
        }
    return settings


@dataclass(frozen=True)
class _Stage:
    """What one build of the stage works with."""

    workspace: Workspace
    problem: Problem
    training: Training
    distributed: Distributed
    compression: Compression
    serving: Serving
    data: Data
    task: Task
    launcher: Launcher
    trained: Artifact
    window: Artifact
    techniques: list[Technique]

    def build(self, draft: Draft) -> None:
        """Write the artifact. What was measured is decided once: a second build replays the ledger."""
        from dl_pipelines.data.batches import window_rows

        counter = self._counter()
        validation = window_rows(self.workspace, self.window, "validation", self.data, self.task)
        if not len(validation):
            raise ValueError("found no validation rows in the window; expected some; raise data.split.validation")
        self._say("exporting to ONNX")
        shop = self._workshop(draft, validation, counter)
        chain = Chain(shop, self.compression)
        for technique in self.techniques:
            chain.step(technique)
        rows = chain.rows()
        served, parity = self._write(draft, chain)
        _gates(draft, chain, parity, served, self.compression.max_loss, write_links(draft, chain))
        _tell(draft, chain.bench, served, rows)

    def _say(self, message: str, done: int | None = None, total: int | None = None) -> None:
        self.workspace.progress(STAGE, message, done, total)

    def _workshop(self, draft: Draft, validation: Rows, counter: Counter | None = None) -> Workshop:
        from dl_pipelines.data.batches import window_rows
        from dl_pipelines.inference.export import export_onnx
        from dl_pipelines.inference.parity import torch_outputs
        from dl_pipelines.models.plan import NetworkPlan

        plan = NetworkPlan.read(self.trained.verify().read_json("model.json"))
        weights = self.trained.file("weights.safetensors")
        module = plan.load(self.task, weights)
        folder = draft.work / "steps"
        onnx = export_onnx(module, self.task, folder / "trained" / "model.onnx")
        bench = Bench(
            self.task, validation, torch_outputs(module, validation.inputs), self.serving.threads,
            self.compression.timing_rounds, self.serving.instances, self.problem.targets, self.compression.objective,
            counter,
        )  # fmt: skip

        @cache
        def calibrate(count: int) -> np.ndarray:
            rows = window_rows(self.workspace, self.window, "train", self.data, self.task)  # not kept: it may be large
            if len(rows) < LEAST_CALIBRATION:
                raise TechniqueError(
                    f"found {len(rows)} train row(s) to calibrate with; expected at least {LEAST_CALIBRATION}; "
                    "widen the window (data.window_days) or lower data.split.validation and data.split.test"
                )
            return spread(rows, count)

        return Workshop(
            bench, self.compression, self._job, Network("fp32", plan, weights, onnx), self.launcher,
            folder, calibrate, draft.decide_once, self._say,
        )  # fmt: skip

    def _job(self, folder: Path) -> Job:
        """How the trained model was trained; its rows are written when a technique first trains."""
        from dl_pipelines.data.row_cache import cached_rows, statistics_of
        from dl_pipelines.models.plan import NetworkPlan
        from dl_pipelines.training.job import Job
        from dl_pipelines.training.train import task_ref

        rows = cached_rows(self.workspace, self.window, self.data, self.task)
        plan = NetworkPlan.read(self.trained.read_json("model.json"))
        given = self.trained.settings["settings"]["training"]  # with what a study or a comparison chose
        training = Training.model_validate({**self.training.model_dump(), **given, "compile": "off"})
        return Job(
            folder, task_ref(self.task), plan.family, training, self.distributed, self.data.augmentation,
            statistics_of(rows), rows,
        )  # fmt: skip

    def _counter(self) -> Counter | None:
        from dl_pipelines.training.energy import find_counter

        if self.compression.objective != "energy":
            return None
        counter, reason = find_counter()
        if counter is None:
            raise NoEnergyCounter(
                f"found no energy counter ({reason}); expected one for compression.objective: energy; choose latency "
                "or size, or run where the kernel shows it"
            )
        return counter

    def _write(self, draft: Draft, chain: Chain) -> tuple[Row, Parity]:
        """The model's files, the choice, the outputs; returns the row that serves and the parity of its files."""
        import numpy as np

        row, candidate = chain.chosen()
        path = candidate.variant.path
        assert path is not None
        names = MODEL_FILES[candidate.runtime]
        for source, name in zip(served_files(path), names, strict=True):
            shutil.copyfile(source, draft.file(f"model/{name}"))
        main = draft.file(f"model/{names[0]}")
        session = chain.bench.open(main, candidate.runtime, candidate.variant.precision)
        parity, outputs = chain.bench.parity(candidate.variant, chain.own(candidate), session)
        np.save(draft.file("outputs_validation.npy"), outputs, allow_pickle=False)
        choice = {key: row[key] for key in ("variant", "technique", "runtime", "precision", "metrics")}
        size = sum(draft.file(f"model/{name}").stat().st_size for name in names)
        draft.write_json("choice.json", {**choice, "file": f"model/{names[0]}", "size_bytes": size})
        network = chain.network_of(candidate)
        shutil.copyfile(network.weights, draft.file("network.safetensors"))
        shutil.copyfile(network.onnx, draft.file("network.onnx"))
        draft.write_json("network.json", {"name": network.name, **network.plan.plain()})
        rows = chain.rows()
        draft.write_json(LEDGER, rows)
        draft.content(LEDGER.partition("/")[0], digest_json([[row["variant"], row["runtime"]] for row in rows]))
        return row, parity


def _gates(draft: Draft, chain: Chain, served: Parity, row: Row, budget: float, links: Sequence[Link]) -> None:
    """`parity`: torch -> ONNX exactly, then the served files by the task's rule, then link by link (see verify.py).

    `accuracy_budget`: see budget.py.
    """
    _, candidate = chain.chosen()
    first = chain.export_parity(candidate)
    linked, told, noise = links_gate(links)
    facts = {
        "export_difference": first.max_difference if math.isfinite(first.max_difference) else None,
        "difference": served.max_difference if math.isfinite(served.max_difference) else None,
        "agreement": served.agreement,
        "rows": served.rows,
        **noise,
    }
    summary = f"torch -> ONNX: {first.summary}; {row['variant']} on {row['runtime']}: {served.summary}; links: {told}"
    draft.gate(Gate("parity", first.passed and served.passed and linked, summary, blocking=True, facts=facts))
    passed, summary, facts = budget_told(chain.rows(), budget, chain.bench.task.primary, first.rows)
    draft.gate(Gate("accuracy_budget", passed, summary, facts=facts))


def _tell(draft: Draft, bench: Bench, served: Row, rows: list[Row]) -> None:
    draft.measure(
        ledger=rows, baseline=rows[0], rows=len(bench.rows), threads=bench.threads, instances=bench.instances,
        objective=bench.objective,
    )  # fmt: skip
    draft.show(
        chosen=f"{served['variant']} on {served['runtime']}",
        size_mb=round(served["size_mb"], 4),
        latency_p50_ms=round(served["latency_p50_ms"], 4),
        ledger={"md": as_markdown(rows, bench.task.primary)},
    )
