"""The stage `compressed_model`: export, try every technique on every runtime, keep the best for the objective.

Looks at validation rows only (calibration: original rows of the train split); decides through `ledger`.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dl_pipelines.brief.sections import Compression, Data
from dl_pipelines.compression.base import Variant
from dl_pipelines.compression.candidates import make_candidates, served_files, spread
from dl_pipelines.compression.ledger import as_markdown, as_rows, decide
from dl_pipelines.compression.trials import Bench
from dl_pipelines.inference.runtimes import MODEL_FILES, open_runtime
from dl_pipelines.store.artifacts import Artifact, Draft, Gate
from dl_pipelines.store.workspace import Partition, Workspace
from dl_pipelines.tasks.base import Parity, Task

STAGE = "compressed_model"
Row = Mapping[str, Any]
"""One row of the ledger as plain data."""


def make_compressed_model(
    workspace: Workspace, partition: Partition, compression: Compression, data: Data, task: Task
) -> Artifact:
    """The artifact that serves: `model/` for its runtime, `choice.json`, `outputs_validation.npy`.

    The ledger is `measured["ledger"]`, its first row `measured["baseline"]`. Gates: `parity` (blocking),
    `accuracy_budget`. Raises ArtifactError when a parent is missing or failed its gates, ExportError, ValueError
    when the validation split is empty.
    """
    trained = workspace.get("trained_model", partition).require_gates()
    window = workspace.get("training_window", partition.daily).require_gates()
    stage = _Stage(workspace, compression, data, task, trained, window)
    return workspace.make(
        STAGE,
        partition,
        stage.build,
        settings={"compression": compression.model_dump(mode="json")},
        parents={"trained_model": trained, "training_window": window},
        version=1,
    )


@dataclass(frozen=True)
class _Stage:
    """What one build of the stage works with."""

    workspace: Workspace
    compression: Compression
    data: Data
    task: Task
    trained: Artifact
    window: Artifact

    def build(self, draft: Draft) -> None:
        """Write the artifact. What was measured is decided once: a second build replays the ledger."""
        from dl_pipelines.data.batches import window_rows

        folder = draft.work / "variants"
        shutil.rmtree(folder, ignore_errors=True)
        validation = window_rows(self.workspace, self.window, "validation", self.data, self.task)
        if not len(validation):
            raise ValueError("found no validation rows in the window; expected some; raise data.split.validation")
        train = window_rows(self.workspace, self.window, "train", self.data, self.task)
        self._say("exporting to ONNX")
        bench, exported = self._export(validation, folder)
        self._say("compressing")
        candidates = make_candidates(exported, self.compression, lambda count: spread(train, count), folder)

        def measure() -> list[dict[str, Any]]:
            trials = bench.run(candidates, lambda message, done: self._say(message, done, len(candidates)))
            return as_rows(decide(trials, self.compression.objective, self.compression.max_loss, self.task.primary))

        rows = draft.decide_once("ledger", measure)
        chosen = next(row for row in rows if row["chosen"])
        variant = candidates[chosen["variant"], chosen["runtime"]]
        served = self._write(draft, bench, variant, chosen)
        _gates(draft, bench, exported, served, chosen, self.compression.max_loss)
        _tell(draft, bench, chosen, rows)

    def _say(self, message: str, done: int | None = None, total: int | None = None) -> None:
        self.workspace.progress(STAGE, message, done, total)

    def _export(self, validation: Any, folder: Path) -> tuple[Bench, Path]:
        from dl_pipelines.inference.export import export_onnx
        from dl_pipelines.inference.parity import torch_outputs
        from dl_pipelines.models.restore import load_served

        module = load_served(self.trained, self.task)
        path = export_onnx(module, self.task, folder / "fp32" / "model.onnx")
        reference = torch_outputs(module, validation.inputs)
        threads, rounds = self.compression.threads, self.compression.timing_rounds
        return Bench(self.task, validation, reference, threads, rounds), path

    def _write(self, draft: Draft, bench: Bench, variant: Variant, chosen: Row) -> Parity:
        """The model's files, the choice, the outputs; returns the parity of the files as they are served."""
        import numpy as np

        if variant.path is None:
            raise ValueError(
                f"found no {variant.name} for {chosen['runtime']} ({variant.failure}), which an earlier build chose; "
                "expected the same inputs to make it again; check that the libraries are those of requirements.lock"
            )
        names = MODEL_FILES[chosen["runtime"]]
        for source, name in zip(served_files(variant.path), names, strict=True):
            shutil.copyfile(source, draft.file(f"model/{name}"))
        main = draft.file(f"model/{names[0]}")
        parity, outputs = bench.parity(variant, open_runtime(chosen["runtime"], main, bench.threads))
        np.save(draft.file("outputs_validation.npy"), outputs, allow_pickle=False)
        choice = {key: chosen[key] for key in ("variant", "technique", "runtime", "precision", "metrics")}
        size = sum(draft.file(f"model/{name}").stat().st_size for name in names)
        draft.write_json("choice.json", {**choice, "file": f"model/{names[0]}", "size_bytes": size})
        return parity


def _gates(draft: Draft, bench: Bench, exported: Path, served: Parity, chosen: Row, budget: float) -> None:
    """`parity`: torch -> ONNX exactly, then the served files by the task's rule. `accuracy_budget`: as the ledger."""
    uncompressed = Variant("fp32", "none", "fp32", exported)
    first, _ = bench.parity(uncompressed, open_runtime("onnxruntime", exported, bench.threads))
    facts = {
        "export_difference": first.max_difference if math.isfinite(first.max_difference) else None,
        "difference": served.max_difference if math.isfinite(served.max_difference) else None,
        "agreement": served.agreement,
        "rows": served.rows,
    }
    summary = f"torch -> ONNX: {first.summary}; {chosen['variant']} on {chosen['runtime']}: {served.summary}"
    draft.gate(Gate("parity", first.passed and served.passed, summary, blocking=True, facts=facts))
    loss = chosen["loss"]
    told = f"{loss['value']:.4g} [{loss['low']:.4g}, {loss['high']:.4g}]"
    summary = f"loss of {bench.task.primary} {told} on {len(bench.rows)} validation rows; budget {budget:g}"
    draft.gate(Gate("accuracy_budget", loss["high"] <= budget, summary, facts={"budget": budget, **loss}))


def _tell(draft: Draft, bench: Bench, chosen: Row, rows: Sequence[Row]) -> None:
    draft.measure(ledger=rows, baseline=rows[0], rows=len(bench.rows), threads=bench.threads)
    draft.show(
        chosen=f"{chosen['variant']} on {chosen['runtime']}",
        size_mb=round(chosen["size_mb"], 4),
        latency_p50_ms=round(chosen["latency_p50_ms"], 4),
        ledger={"md": as_markdown(rows, bench.task.primary)},
    )
