"""The stage `compressed_model`: export, try every technique on every runtime, keep the best for the objective.

Looks at validation rows only (calibration: original rows of the train split); decides through `ledger`.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dl_pipelines.brief.sections import Compression, Data
from dl_pipelines.compression.base import Technique, Variant
from dl_pipelines.compression.ledger import Estimate, Trial, as_markdown, as_rows, decide
from dl_pipelines.compression.registry import TECHNIQUES
from dl_pipelines.inference.runtimes import MODEL_FILES, RuntimeFileError, Session, open_runtime, save_openvino
from dl_pipelines.store.artifacts import Artifact, Draft, Gate
from dl_pipelines.store.workspace import Partition, Workspace
from dl_pipelines.tasks.base import Parity, Rows, Task

if TYPE_CHECKING:
    import numpy as np

STAGE = "compressed_model"
RESAMPLES, CONFIDENCE, SEED = 1000, 0.95, 0
Key = tuple[str, str]
"""Variant and runtime."""


def make_compressed_model(
    workspace: Workspace, partition: Partition, compression: Compression, data: Data, task: Task
) -> Artifact:
    """The artifact that serves: `model/` for its runtime, `choice.json`, `outputs_validation.npy`; ledger in measured.

    Gates: `parity` (blocking), `accuracy_budget`. Raises ArtifactError when a parent is missing or failed its gates,
    ValueError when the validation split is empty.
    """
    trained = workspace.get("trained_model", partition).require_gates()
    window = workspace.get("training_window", partition.daily).require_gates()

    def build(draft: Draft) -> None:
        _Build(workspace, draft, compression, data, task, trained, window).run()

    settings = {"compression": compression.model_dump(mode="json")}
    parents = {"trained_model": trained, "training_window": window}
    return workspace.make(STAGE, partition, build, settings=settings, parents=parents, version=1)


class _Build:
    """One build of the stage: the rows and the reference once, then export, candidates, trials, choice."""

    def __init__(
        self,
        workspace: Workspace,
        draft: Draft,
        compression: Compression,
        data: Data,
        task: Task,
        trained: Artifact,
        window: Artifact,
    ):
        self.workspace, self.draft, self.compression = workspace, draft, compression
        self.data, self.task, self.trained, self.window = data, task, trained, window
        self.folder = draft.work / "variants"

    def run(self) -> None:
        """Build the artifact. Raises ValueError when there are no validation rows."""
        from dl_pipelines.data.batches import window_rows

        shutil.rmtree(self.folder, ignore_errors=True)
        self.rows: Rows = window_rows(self.workspace, self.window, "validation", self.data, self.task)
        if not len(self.rows):
            raise ValueError("found no validation rows in the window; expected some; raise data.split.validation")
        exported = self._export()
        self.files = self._candidates(exported)
        decided = self.draft.decide_once("ledger", self._measure)
        chosen = next(row for row in decided["rows"] if row["chosen"])
        self._write(chosen, decided["rows"])

    def _say(self, message: str, done: int | None = None, total: int | None = None) -> None:
        self.workspace.progress(STAGE, message, done, total)

    def _export(self) -> Path:
        from dl_pipelines.inference.export import export_onnx
        from dl_pipelines.inference.parity import check_parity, torch_outputs
        from dl_pipelines.models.restore import load_served

        self._say("exporting to ONNX")
        module = load_served(self.trained, self.task)
        path = export_onnx(module, self.task, self.folder / "fp32" / "model.onnx")
        self.reference = torch_outputs(module, self.rows.inputs)
        session = open_runtime("onnxruntime", path, self.compression.threads)
        self.export_parity, _ = check_parity(self.task, self.reference, session, self.rows.inputs)
        return path

    def _candidates(self, exported: Path) -> dict[Key, Variant]:
        """Every variant x runtime, the uncompressed first; files are in the runtime's own format."""
        variants = [Variant("fp32", "none", "fp32", exported)]
        for ref in self.compression.techniques:
            technique: Technique = TECHNIQUES.make(ref)
            self._say(f"trying {technique.name}")
            rows = self._calibration(technique.calibration_rows)
            variants += technique.variants(exported, rows, self.folder / technique.name)
        return {
            (variant.name, runtime): _for_runtime(variant, runtime, self.folder)
            for variant in variants
            for runtime in self.compression.runtimes
        }

    def _calibration(self, count: int) -> np.ndarray:
        """`count` original train rows, spread evenly over the split in the order of their ids."""
        import numpy as np

        from dl_pipelines.data.batches import window_rows

        rows = window_rows(self.workspace, self.window, "train", self.data, self.task)
        order = np.argsort(rows.ids.astype(str), kind="stable")
        return rows.inputs[order[np.unique(np.linspace(0, max(len(order) - 1, 0), count).astype(int))][: len(order)]]

    def _measure(self) -> dict[str, Any]:
        """Try every candidate and decide: the ledger as plain data, replayed when the artifact is built again."""
        trials: dict[Key, Trial] = {}
        sessions: dict[Key, Session] = {}
        for done, (key, variant) in enumerate(self.files.items()):
            self._say(f"scoring {variant.name} on {key[1]}", done, len(self.files))
            trials[key], session = self._score(variant, key[1])
            if session is not None:
                sessions[key] = session
        self._say("timing, interleaved")
        timed = self._time(sessions)
        judged = decide(
            [_with_latency(trial, timed.get(key), timed) for key, trial in trials.items()],
            self.compression.objective,
            self.compression.max_loss,
            self.task.primary,
        )
        return {"rows": as_rows(judged)}

    def _score(self, variant: Variant, runtime: str) -> tuple[Trial, Session | None]:
        from dl_pipelines.evaluation.metrics import with_intervals

        trial = Trial(variant.name, variant.technique, runtime, variant.precision, failure=variant.failure)
        if variant.path is None:
            return trial, None
        try:
            session = open_runtime(runtime, variant.path, self.compression.threads)
            parity, outputs = self._parity(variant, session)
        except (RuntimeFileError, RuntimeError) as error:
            return replace(trial, failure=str(error)[:300]), None
        metrics = with_intervals(self.task, outputs, self.rows.targets, RESAMPLES, CONFIDENCE, SEED)
        scored = replace(
            trial,
            size_mb=sum(path.stat().st_size for path in _served(variant.path)) / 1e6,
            loss=self._loss(outputs),
            metrics=metrics,
            parity_passed=parity.passed,
            parity=parity.summary,
        )
        return scored, session

    def _parity(self, variant: Variant, session: Session) -> tuple[Parity, np.ndarray]:
        from dl_pipelines.inference.parity import check_parity

        exact = variant.precision == "fp32"
        return check_parity(self.task, self.reference, session, self.rows.inputs, exact=exact)

    def _loss(self, outputs: np.ndarray) -> Estimate | None:
        """Paired loss of the primary metric against the trained model, positive is worse."""
        from dl_pipelines.evaluation.metrics import paired_difference

        metric = self.task.primary
        estimate = paired_difference(
            self.task, metric, self.reference, outputs, self.rows.targets, RESAMPLES, CONFIDENCE, SEED
        )
        if self.task.metrics[metric].better == "lower":
            return estimate
        return {"value": -estimate["value"] + 0.0, "low": -estimate["high"] + 0.0, "high": -estimate["low"] + 0.0}

    def _time(self, sessions: Mapping[Key, Session]) -> dict[Key, dict[str, Any]]:
        """Latency of one row at a time, all sessions interleaved."""
        from dl_pipelines.inference.timing import time_interleaved

        one = self.rows.inputs[:1].copy()
        names = {"/".join(key): key for key in sessions}
        calls = {name: (lambda session=sessions[key]: session.run(one)) for name, key in names.items()}
        timed = time_interleaved(calls, self.compression.timing_rounds)
        return {names[name]: value for name, value in timed.items()}

    def _write(self, chosen: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> None:
        import numpy as np

        variant = self.files[chosen["variant"], chosen["runtime"]]
        if variant.path is None:
            raise ValueError(f"found no {variant.name} to serve ({variant.failure}), which was chosen before")
        names = MODEL_FILES[chosen["runtime"]]
        for source, name in zip(_served(variant.path), names, strict=True):
            shutil.copyfile(source, self.draft.file(f"model/{name}"))
        session = open_runtime(chosen["runtime"], self.draft.file(f"model/{names[0]}"), self.compression.threads)
        parity, outputs = self._parity(variant, session)
        np.save(self.draft.file("outputs_validation.npy"), outputs, allow_pickle=False)
        self.draft.write_json("choice.json", self._choice(chosen, names))
        self._gates(parity, chosen)
        self._outcome(chosen, rows)

    def _choice(self, chosen: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
        return {
            "variant": chosen["variant"],
            "technique": chosen["technique"],
            "runtime": chosen["runtime"],
            "precision": chosen["precision"],
            "file": f"model/{names[0]}",
            "size_bytes": sum(self.draft.file(f"model/{name}").stat().st_size for name in names),
            "metrics": chosen["metrics"],
        }

    def _gates(self, parity: Parity, chosen: Mapping[str, Any]) -> None:
        summary = f"torch -> ONNX: {self.export_parity.summary}; {chosen['variant']} on {chosen['runtime']}: "
        facts = {
            "export_difference": _finite(self.export_parity.max_difference),
            "difference": _finite(parity.max_difference),
            "agreement": parity.agreement,
            "rows": parity.rows,
        }
        both = self.export_parity.passed and parity.passed
        self.draft.gate(Gate("parity", both, summary + parity.summary, blocking=True, facts=facts))
        loss, budget = chosen["loss"], self.compression.max_loss
        within = loss is not None and loss["high"] <= budget
        measured = "not measured" if loss is None else f"{loss['value']:.4g} [{loss['low']:.4g}, {loss['high']:.4g}]"
        told = f"loss of {self.task.primary} {measured} on {len(self.rows)} validation rows; budget {budget:g}"
        self.draft.gate(Gate("accuracy_budget", within, told, facts={"budget": budget, **(loss or {})}))

    def _outcome(self, chosen: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> None:
        self.draft.measure(ledger=rows, baseline=rows[0], rows=len(self.rows), threads=self.compression.threads)
        self.draft.show(
            chosen=f"{chosen['variant']} on {chosen['runtime']}",
            size_mb=round(chosen["size_mb"], 4),
            latency_p50_ms=round(chosen["latency_p50_ms"], 4),
            ledger={"md": as_markdown(rows, self.task.primary)},
        )


def _for_runtime(variant: Variant, runtime: str, folder: Path) -> Variant:
    """The variant with a file that the runtime serves, or with the reason why there is none."""
    if variant.path is None or runtime != "openvino":
        return variant
    try:
        xml, _ = save_openvino(variant.path, folder / "openvino" / variant.name / "model.xml")
    except RuntimeFileError as error:
        return replace(variant, path=None, failure=str(error))
    return replace(variant, path=xml)


def _served(path: Path) -> list[Path]:
    return [path, path.with_suffix(".bin")] if path.suffix == ".xml" else [path]


def _with_latency(trial: Trial, timed: Mapping[str, Any] | None, everything: Mapping[Key, Mapping[str, Any]]) -> Trial:
    """The trial with its latency and its speed-up over the first, the baseline."""
    from dl_pipelines.inference.timing import speed_up

    if timed is None:
        return trial
    baseline = next(iter(everything.values()))["samples"]
    latency = {name: timed[name] for name in ("p50_ms", "low", "high")}
    return replace(trial, latency=latency, speed_up=speed_up(baseline, timed["samples"]))


def _finite(value: float) -> float | None:
    return value if abs(value) < float("inf") else None
