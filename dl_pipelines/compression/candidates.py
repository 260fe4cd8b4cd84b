"""What is tried: every technique's variants of an exported model, each in the format of every allowed runtime."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from dl_pipelines.brief.sections import Compression
from dl_pipelines.compression.base import Technique, Variant
from dl_pipelines.compression.registry import TECHNIQUES
from dl_pipelines.inference.runtimes import RuntimeFileError, save_openvino

if TYPE_CHECKING:
    import numpy as np

    from dl_pipelines.tasks.base import Rows

Key = tuple[str, str]
"""Variant and runtime."""


def make_candidates(
    exported: Path, compression: Compression, calibrate: Callable[[int], np.ndarray], folder: Path
) -> dict[Key, Variant]:
    """Every variant x runtime, the uncompressed first; a file is in its runtime's own format.

    `calibrate(count)` gives up to `count` inputs of the train split; `folder` takes the files.
    """
    variants = [Variant("fp32", "none", "fp32", exported)]
    for ref in compression.techniques:
        technique: Technique = TECHNIQUES.make(ref)
        variants += technique.variants(exported, calibrate(technique.calibration_rows), folder / technique.name)
    return {
        (variant.name, runtime): _for_runtime(variant, runtime, folder)
        for variant in variants
        for runtime in compression.runtimes
    }


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
    if variant.path is None or runtime != "openvino":
        return variant
    try:
        xml, _ = save_openvino(variant.path, folder / "openvino" / variant.name / "model.xml")
    except RuntimeFileError as error:
        return replace(variant, path=None, failure=str(error))
    return replace(variant, path=xml)
