"""What a technique is handed: rows to calibrate and to measure on, trainings by the brief's loop, an exporter, timing.

Each technique gets a folder of its own; what is found there from an interrupted run is used again. It decides nothing.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dl_pipelines.brief.sections import Compression, Distributed, Training
from dl_pipelines.compression.base import Network, TechniqueError
from dl_pipelines.compression.ledger import Estimate
from dl_pipelines.compression.trials import Bench
from dl_pipelines.models.plan import NetworkPlan
from dl_pipelines.store import durable
from dl_pipelines.tasks.base import Rows, Task
from dl_pipelines.training.changes import ChangeRef
from dl_pipelines.training.fit import TrainingFailed, fit
from dl_pipelines.training.job import FINAL, Job
from dl_pipelines.training.launch import Launcher
from dl_pipelines.training.warm import START

if TYPE_CHECKING:
    import numpy as np
    import torch


@dataclass(frozen=True)
class Workshop:
    """`make_job(folder)` gives how the trained model was trained, in that folder; `trained` is that model.

    `folder` is the technique's own. `decide_once(name, measure)` is for what is chosen by measurement: it is taken once
    and replayed (plain data). `calibrate(count)` gives up to `count` inputs of the train split. `ledger` gives the rows
    of the steps so far.
    """

    bench: Bench
    compression: Compression
    make_job: Callable[[Path], Job]
    trained: Network
    launcher: Launcher
    folder: Path
    calibrate: Callable[[int], np.ndarray]
    decide_once: Callable[[str, Callable[[], Any]], Any]
    tell: Callable[[str, int | None, int | None], None]
    ledger: Callable[[], list[dict[str, Any]]] = list

    @property
    def task(self) -> Task:
        """The brief's task."""
        return self.bench.task

    @property
    def rows(self) -> Rows:
        """The validation rows."""
        return self.bench.rows

    def of(self, technique: str) -> Workshop:
        """The same with a technique's own folder and names of decisions."""
        folder = self.folder / technique
        folder.mkdir(parents=True, exist_ok=True)
        decide = self.decide_once
        return replace(self, folder=folder, decide_once=lambda name, measure: decide(f"{technique}/{name}", measure))

    def say(self, message: str, done: int | None = None, total: int | None = None) -> None:
        """Tell how far it is."""
        self.tell(message, done, total)

    def job_for(
        self, name: str, plan: NetworkPlan, changes: tuple[ChangeRef, ...] = (), start: Path | None = None,
        pooled: bool = False, **training: Any,
    ) -> Job:  # fmt: skip
        """A training in `folder/name` of a plan's network, with changes to its recipe and to fields of `training`.

        It begins from the weights `start`, where given. `pooled`: for training/pool.py, by one process with the batch
        that all workers have together. The plan's loss is the family's where it has not the brief's.
        """
        from dl_pipelines.evaluation.candidates import loss_of

        job = self.make_job(self.folder / name)
        given, distributed = job.training, job.distributed
        update: dict[str, Any] = {"loss": loss_of(plan.family, given.loss), **training}
        if pooled:
            update.setdefault("batch_size", given.batch_size * distributed.workers)
            update.setdefault("compile", "off")
            distributed = Distributed(communicator="single", workers=1, threads=1)
        job.folder.mkdir(parents=True, exist_ok=True)
        if start is not None:
            durable.write_bytes(job.folder / START, start.read_bytes())
        if plan.cuts:
            cuts = ChangeRef(name="cut", params={"cuts": plan.plain()["cuts"]})
            changes = (cuts, *changes)
        return replace(
            job, family=plan.family, changes=changes, distributed=distributed,
            training=Training.model_validate({**given.model_dump(), **update}),
        )  # fmt: skip

    def train(self, job: Job) -> Path:
        """Train a job to its end by the brief's communicator; its weights. What is trained already is not again.

        Raises TechniqueError with the reason when the training fails.
        """
        from dl_pipelines.evaluation.candidates import is_done

        if not is_done(job.folder):
            job.write()
            try:
                fit(job, self.launcher, self.tell)
            except TrainingFailed as error:
                raise TechniqueError(str(error)) from error
            durable.remove_tree(job.folder / "checkpoints")
        return job.folder / FINAL

    def export(self, name: str, plan: NetworkPlan, weights: Path) -> Network:
        """The network with these weights, and its ONNX file, as `folder/name.onnx`. Raises TechniqueError."""
        from dl_pipelines.inference.export import ExportError, export_onnx

        kept = self.folder / f"{name}.safetensors"
        if weights != kept:
            shutil.copyfile(weights, kept)
        try:
            onnx = export_onnx(plan.load(self.task, kept), self.task, self.folder / f"{name}.onnx")
        except ExportError as error:
            raise TechniqueError(str(error)) from error
        return Network(name, plan, kept, onnx)

    def module(self, network: Network) -> torch.nn.Module:
        """A network of the chain as a torch module, in eval mode."""
        return network.plan.load(self.task, network.weights)

    def outputs(
        self, path: Path, runtime: str, precision: str = "fp32", inputs: np.ndarray | None = None
    ) -> np.ndarray:  # fmt: skip
        """What a model file answers to `inputs`, or to the validation rows [N, ...]. Raises TechniqueError."""
        from dl_pipelines.inference.parity import session_outputs
        from dl_pipelines.inference.runtimes import ModelRunError, RuntimeFileError

        rows = self.rows.inputs if inputs is None else inputs
        try:
            return session_outputs(self.bench.open(path, runtime, precision), rows)
        except (RuntimeFileError, ModelRunError) as error:
            raise TechniqueError(str(error)) from error

    def loss(self, outputs: np.ndarray) -> Estimate:
        """Paired loss of the primary metric against the trained model, positive is worse, with its 95 % interval.

        Raises TechniqueError where answers or rows don't determine the metric.
        """
        self._require(self.bench.determined(outputs))
        return self.bench.loss(outputs)

    def worst(self, outputs: np.ndarray) -> float:
        """The upper end of that interval, overall or on the gated slice that loses most. Raises TechniqueError."""
        self._require(self.bench.determined(outputs))
        return self.bench.worst(outputs)

    def within_budget(self, outputs: np.ndarray) -> bool:
        """Whether that is within the brief's budget, as what may serve has to be. Raises TechniqueError."""
        return self.worst(outputs) <= self.compression.max_loss

    def score(self, outputs: np.ndarray) -> float:
        """The primary metric, negative where lower is better. Raises TechniqueError."""
        metric, found = self.task.primary, self.task.measure(outputs, self.rows.targets)
        self._require(metric in found)
        return found[metric] if self.task.metrics[metric].better == "higher" else -found[metric]

    def _require(self, determined: bool) -> None:
        if not determined:
            raise TechniqueError(
                f"found answers or rows that don't determine {self.task.primary}; expected answers that are finite and "
                "validation rows that the metric is defined for; raise data.split.validation or choose another metric"
            )

    def time(self, files: Mapping[str, tuple[Path, str]], rounds: int | None = None) -> dict[str, dict[str, Any]]:
        """Latency of one row, interleaved, of model files `{name: (path, runtime)}`: see timing.time_interleaved."""
        return self.bench.time_files(files, rounds)
