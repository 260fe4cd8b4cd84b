"""The stage `triton_repository`: a compressed model as a Triton model, loaded into the live server and measured there.

It is run as the serving benchmark chose, where one was asked for. It gets no traffic here: that is a promotion
(traffic.py).
"""

from __future__ import annotations

import functools
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from dl_pipelines.brief.live import Serving
from dl_pipelines.brief.sections import Data, Evaluation
from dl_pipelines.serving import parity, repository
from dl_pipelines.serving.champion import STAGE
from dl_pipelines.serving.client import Caller, batched
from dl_pipelines.serving.load_test import LoadResult, load_test
from dl_pipelines.serving.probe import Live, probed, router_pbtxt
from dl_pipelines.serving.settings import STAGE as BENCHMARK
from dl_pipelines.serving.settings import Settings, chosen
from dl_pipelines.store.artifacts import Artifact, Draft, Gate
from dl_pipelines.store.workspace import Partition, Workspace
from dl_pipelines.tasks.base import Rows, Task

if TYPE_CHECKING:
    import numpy as np


def make_triton_repository(
    workspace: Workspace, partition: Partition, serving: Serving, data: Data, task: Task, evaluation: Evaluation
) -> Artifact:
    """`model/` (a Triton model folder), `router.pbtxt`, `model.json`, the rows of its parity.

    measured: `parity`, `latency`, `metrics` {validation, test} through the live server, `rows`, `load_seconds`. Gates:
    `live_parity` (blocking), `no_failures`. The look at the test rows is recorded. Raises ArtifactError, TritonError.
    """
    compressed = workspace.get("compressed_model", partition).require_gates()
    window = workspace.get("training_window", partition.daily).require_gates()
    benchmark = workspace.get("serving_benchmark", partition) if serving.benchmark.seconds else None
    serving = chosen(serving, benchmark)
    stage = _Stage(workspace, partition, serving, data, task, evaluation, compressed, window, benchmark)
    settings = {
        "serving": serving.model_dump(mode="json", exclude={"benchmark"}),
        "evaluation": evaluation.model_dump(mode="json", include={"resamples", "confidence", "seed"}),
        "split": data.split.model_dump(mode="json"),
    }
    parents = {"compressed_model": compressed, "training_window": window}
    if benchmark:
        parents[BENCHMARK] = benchmark
    return workspace.make(STAGE, partition, stage.build, settings=settings, parents=parents, version=2)


@dataclass(frozen=True)
class _Stage:
    """What one build of the stage works with."""

    workspace: Workspace
    partition: Partition
    serving: Serving
    data: Data
    task: Task
    evaluation: Evaluation
    compressed: Artifact
    window: Artifact
    benchmark: Artifact | None = None

    def build(self, draft: Draft) -> None:
        """Write the model folder, have it loaded, compare and measure through the server."""
        import numpy as np

        from dl_pipelines.data.batches import window_rows

        reference = np.load(self.compressed.file("outputs_validation.npy"), allow_pickle=False)
        rows = {
            split: window_rows(self.workspace, self.window, split, self.data, self.task)
            for split in ("validation", "test")
        }
        self._write(draft, rows["validation"], reference)
        router = draft.file("router.pbtxt").read_text(encoding="utf-8")
        with probed(self.workspace, draft.path / "model", router) as live:
            outputs = {split: self._outputs(live, found) for split, found in rows.items()}
            load = self._load_test(live, rows["validation"])
        self._record(draft, live, rows, outputs, reference, load)

    def _say(self, message: str, done: int) -> None:
        self.workspace.progress(STAGE, message, done, 3)

    def _write(self, draft: Draft, validation: Rows, reference: np.ndarray) -> None:
        import numpy as np

        signature, serving = self.task.signature(), self.serving
        runtime = repository.write_model(draft.path / "model", self.compressed, signature, serving)
        model = repository.model_name(self.workspace.project, draft.path / "model")
        draft.write_text("router.pbtxt", router_pbtxt(self.workspace.project, signature, serving))
        kept = parity.kept_rows(len(validation), serving)
        np.save(draft.file(parity.INPUTS), validation.inputs[:kept], allow_pickle=False)
        np.save(draft.file(parity.OUTPUTS), reference[:kept], allow_pickle=False)
        about: dict[str, Any] = {
            "model": model,
            "runtime": runtime,
            "input": signature.inputs[0].name,
            "output": signature.outputs[0].name,
            "max_batch": serving.max_batch,
            "tolerance": serving.parity_tolerance,
            "timeout_ms": serving.timeout_ms,
            "settings": {**asdict(Settings.of(serving)), "from": BENCHMARK if self.benchmark else "brief"},
        }
        if signature.columns:  # what a table's columns mean is not in its shape
            about["columns"] = list(signature.columns)
        draft.write_json("model.json", about)

    def _outputs(self, live: Live, rows: Rows) -> np.ndarray:
        import numpy as np

        self._say(f"asking {live.model} for {len(rows)} rows", 1)
        signature = self.task.signature()
        if not len(rows):
            return np.zeros((0, *signature.outputs[0].shape), signature.outputs[0].dtype)
        return batched(Caller.of(live.server.grpc, live.router, signature), rows.inputs, self.serving.max_batch)

    def _load_test(self, live: Live, rows: Rows) -> LoadResult:
        self._say(f"{self.serving.load_clients} clients for {self.serving.load_seconds:g} s", 2)
        make = functools.partial(
            Caller.of, live.server.grpc, live.router, self.task.signature(), self.serving.timeout_ms
        )
        return load_test(make, rows.inputs, self.serving.load_clients, self.serving.load_seconds)

    def _record(
        self, draft: Draft, live: Live, rows: dict[str, Rows], outputs: dict[str, np.ndarray], reference: np.ndarray,
        load: LoadResult,
    ) -> None:  # fmt: skip
        from dl_pipelines.evaluation.metrics import with_intervals
        from dl_pipelines.evaluation.test_reads import record_test_read

        record_test_read(self.workspace, "verdict", self.partition, len(rows["test"]))
        given = self.evaluation.resamples, self.evaluation.confidence, self.evaluation.seed
        metrics = {
            split: with_intervals(self.task, outputs[split], found.targets, *given) if len(found) else {}
            for split, found in rows.items()
        }
        same = self.task.parity(reference, outputs["validation"], self.serving.parity_tolerance, exact=True)
        facts = {"rows": same.rows, "agreement": same.agreement, "tolerance": same.tolerance}
        if same.max_difference < float("inf"):
            facts["difference"] = same.max_difference
        draft.gate(Gate("live_parity", same.passed, same.summary, blocking=True, facts=facts))
        told = f"{load.failed} of {load.requests} requests failed" + (f": {load.failure}" if load.failure else "")
        draft.gate(Gate("no_failures", load.failed == 0 and load.requests > 0, told))
        draft.measure(
            parity=facts,
            latency=load.plain(),
            metrics=metrics,
            rows={split: len(found) for split, found in rows.items()},
            load_seconds=round(live.load_seconds, 3),
        )
        _tell(draft, live, load, metrics, self.task)


def _tell(draft: Draft, live: Live, load: LoadResult, metrics: dict[str, Any], task: Task) -> None:
    shown: dict[str, Any] = {"model": live.model, "throughput_rps": round(load.throughput_rps, 1)}
    for name in ("p50_ms", "p95_ms", "p99_ms"):
        value = getattr(load, name)
        if value is not None:
            shown[f"latency_{name}"] = round(value, 3)
    found = metrics["validation"].get(task.primary)
    if found:
        shown[f"validation_{task.primary}"] = found["value"]
    draft.show(**shown, load_seconds=round(live.load_seconds, 2))
