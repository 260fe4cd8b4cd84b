"""Variants as runtimes open them: each in the format of every runtime that may serve it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from dl_pipelines.compression.base import Variant
from dl_pipelines.inference.runtimes import RuntimeFileError, save_openvino

if TYPE_CHECKING:
    import numpy as np

    from dl_pipelines.compression.trials import Candidate
    from dl_pipelines.tasks.base import Rows


def on_runtimes(variants: Sequence[Variant], runtimes: Sequence[str], folder: Path) -> list[Candidate]:
    """Every variant x runtime, in order; `folder` takes converted files. What can't be opened has a failure."""
    from dl_pipelines.compression.trials import Candidate

    return [
        Candidate(_for_runtime(variant, runtime, folder), runtime)
        for variant in variants
        for runtime in runtimes
        if variant.runtimes is None or runtime in variant.runtimes
    ]


def spread(rows: Rows, count: int) -> np.ndarray:
    """Up to `count` inputs, taken evenly over the rows in the order of their ids: the same for the same rows."""
    import numpy as np

    order = np.argsort(rows.ids.astype(str), kind="stable")
    places = np.unique(np.linspace(0, max(len(order) - 1, 0), min(count, len(order))).astype(int))
    return rows.inputs[order[places]]


def served_files(path: Path) -> list[Path]:
    """The files that make up a model, in the order of `runtimes.MODEL_FILES`."""
    return [path, path.with_suffix(".bin")] if path.suffix == ".xml" else [path]


def _for_runtime(variant: Variant, runtime: str, folder: Path) -> Variant:
    """The variant with a file that the runtime serves, or with the reason why there is none."""
    if variant.path is None or runtime != "openvino" or variant.path.suffix == ".xml":
        return variant
    try:
        xml, _ = save_openvino(variant.path, folder / "openvino" / variant.name / "model.xml")
    except RuntimeFileError as error:
        return replace(variant, path=None, failure=str(error))
    return replace(variant, path=xml)
