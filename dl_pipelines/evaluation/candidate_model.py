"""One candidate's trained networks: how they answer the validation rows, and the file that is timed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dl_pipelines.evaluation.metrics import Estimate, estimate, over_seeds
from dl_pipelines.models.registry import FAMILIES
from dl_pipelines.store import durable
from dl_pipelines.training.job import FINAL, RESULT

if TYPE_CHECKING:
    import numpy as np
    import torch

    from dl_pipelines.evaluation.candidates import Bench, Candidate
    from dl_pipelines.inference.runtimes import Session

MOST_DRAWS = 400
"""Resamples of the rows: beside what the seeds differ by, more would cost seconds a candidate and change nothing."""


class Unable(ValueError):
    """Why a candidate has no figures."""


class Model:
    """The trained networks of a candidate, a seed each: how they answer the validation rows; the first one's file."""

    def __init__(self, bench: Bench, candidate: Candidate):
        from dl_pipelines.evaluation.evaluate import answer
        from dl_pipelines.models.layers import count_parameters

        self.bench, task, rows, given = bench, bench.task, bench.validation, bench.evaluation
        self.metrics: list[dict[str, float]] = []
        self.drawn: list[np.ndarray] = []
        self.seconds: list[float] = []
        draws = min(given.resamples, MOST_DRAWS)
        for seed in range(bench.seeds):
            folder = bench.job_of(candidate, seed).folder
            network = _network(bench, candidate, folder)
            outputs = answer(network, rows.inputs)
            self.metrics.append(task.measure(outputs, rows.targets))
            if task.primary not in self.metrics[-1]:
                raise Unable(f"{task.primary} can't be measured on its answers to the validation rows")
            self.drawn.append(task.resampled(outputs, rows.targets, draws, given.seed)[task.primary])
            self.seconds.append(sum(line["seconds"] for line in durable.read_json(folder / RESULT)["curves"]))
            if not seed:
                self.parameters = count_parameters(network)
                self.path, self.session = _exported(bench, candidate, network)

    @property
    def values(self) -> list[float]:
        """The primary metric of each seed."""
        return [found[self.bench.task.primary] for found in self.metrics]

    @property
    def mean(self) -> float:
        """Over the seeds."""
        return sum(self.values) / len(self.values)

    def figures(self, best: Model | None) -> dict[str, Any]:
        """What is told of it; how far it is `behind` the best is of the same rows and seeds."""
        import numpy as np

        assert best is not None
        task, given = self.bench.task, self.bench.evaluation
        metric = task.metrics[task.primary]
        sign = 1.0 if metric.better == "higher" else -1.0
        apart = [sign * (a - b) for a, b in zip(best.values, self.values, strict=True)]
        drawn = [sign * (a - b) for a, b in zip(best.drawn, self.drawn, strict=True)]
        found = over_seeds(self.values, self.drawn, given.confidence, given.seed)
        behind = over_seeds(apart, drawn, given.confidence, given.seed)
        names = [name for name in task.metrics if all(name in item for item in self.metrics)]
        return {
            "parameters": self.parameters,
            "metric": _inside(found) if metric.unit == "share" else found,
            "values": [round(value, 6) for value in self.values],
            "metrics": {name: round(sum(item[name] for item in self.metrics) / len(self.metrics), 6) for name in names},
            "behind": _inside(behind, -1.0) if metric.unit == "share" else behind,
            "behind_rows": estimate(sum(apart) / len(apart), np.mean(drawn, axis=0), given.confidence),
            "size_mb": self.path.stat().st_size / 1e6,
            "train_seconds": _seconds(self.seconds, given.confidence),
        }


def _network(bench: Bench, candidate: Candidate, folder: Path) -> torch.nn.Module:
    from safetensors.torch import load_file

    network = FAMILIES.make(candidate.family).network(bench.task, bench.job.statistics)
    network.load_state_dict(load_file(folder / FINAL))
    return network.eval()


def _exported(bench: Bench, candidate: Candidate, network: torch.nn.Module) -> tuple[Path, Session]:
    """As a file that serves, opened. Raises Unable."""
    from dl_pipelines.inference.export import ExportError, export_onnx
    from dl_pipelines.inference.runtimes import ModelRunError, RuntimeFileError, open_runtime

    try:
        path = export_onnx(network, bench.task, bench.job.folder / f"{candidate.key}.onnx")
        session = open_runtime("onnxruntime", path, bench.threads)
        session.run(bench.validation.inputs[:1].copy())
    except (ExportError, RuntimeFileError, ModelRunError) as error:
        raise Unable(f"it can't be served: {first_line(str(error))}") from error
    return path, session


def _seconds(values: Sequence[float], confidence: float) -> Estimate:
    """Mean and Student's interval over the seeds, at least 0."""
    import numpy as np

    found = over_seeds(values, [np.full(10_000, value) for value in values], confidence, 0)
    return {name: max(0.0, value) for name, value in found.items()}


def _inside(found: Estimate, least: float = 0.0) -> Estimate:
    """A share can't leave 0 to 1, nor a difference of two -1 to 1; Student's interval of a few seeds may."""
    return {name: min(1.0, max(least, value)) for name, value in found.items()}


def first_line(text: str) -> str:
    """The first line of a text that says anything."""
    return next((line for line in text.splitlines() if line.strip()), "")
