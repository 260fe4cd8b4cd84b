"""What is logged of an input instead of the input: a few numbers that drift when the inputs do.

Copied beside the router, so that logged requests and the reference are summarised by the same code: numpy only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

Batch = Callable[[np.ndarray], dict[str, np.ndarray]]


def summarize_images(images: np.ndarray) -> dict[str, np.ndarray]:
    """Images [N, H, W, C] -> each [N] float64: brightness and contrast in the images' own unit, edges, position, noise.

    `energy_x` and `energy_y` are the mean absolute differences of neighbours along a row and along a column,
    `centre_x` and `centre_y` the centre of mass in 0..1 (0.5 for a black image), `roughness` the mean absolute
    difference from the mean of the four neighbours (noise raises it more than edges do).
    """
    grey = images.astype(np.float64)
    grey = grey.mean(axis=3) if grey.shape[3] > 1 else grey[..., 0]
    count, height, width = grey.shape
    flat = grey.reshape(count, -1)
    mass = flat.sum(axis=1)
    safe = np.where(mass > 0, mass, 1.0)
    across, down = grey.sum(axis=1), grey.sum(axis=2)
    inner = grey[:, 1:-1, 1:-1]
    around = (grey[:, :-2, 1:-1] + grey[:, 2:, 1:-1] + grey[:, 1:-1, :-2] + grey[:, 1:-1, 2:]) / 4
    return {
        "mean": flat.mean(axis=1),
        "std": flat.std(axis=1),
        "min": flat.min(axis=1),
        "max": flat.max(axis=1),
        "energy_x": np.abs(grey[:, :, 1:] - grey[:, :, :-1]).mean(axis=(1, 2)),
        "energy_y": np.abs(grey[:, 1:] - grey[:, :-1]).mean(axis=(1, 2)),
        "centre_x": np.where(mass > 0, across @ ((np.arange(width) + 0.5) / width) / safe, 0.5),
        "centre_y": np.where(mass > 0, down @ ((np.arange(height) + 0.5) / height) / safe, 0.5),
        "roughness": np.abs(inner - around).mean(axis=(1, 2)),
    }


def summarize_tensors(tensors: np.ndarray) -> dict[str, np.ndarray]:
    """Tensors [N, ...] -> `mean`, `std`, `min`, `max` over the elements, each [N] float64; no elements give zeros."""
    flat = tensors.reshape(len(tensors), -1).astype(np.float64)
    if flat.shape[1] == 0:
        flat = np.zeros((len(flat), 1))
    return {"mean": flat.mean(axis=1), "std": flat.std(axis=1), "min": flat.min(axis=1), "max": flat.max(axis=1)}


BATCHES: Mapping[str, Batch] = {"image": summarize_images, "tensor": summarize_tensors}
"""By the name in a task's signature; each takes a batch [N, ...]."""


def _single(batch: Batch) -> Callable[[np.ndarray], dict[str, float]]:
    def summarize(array: np.ndarray) -> dict[str, float]:
        return {name: float(values[0]) for name, values in batch(array[None]).items()}

    return summarize


SUMMARIES: Mapping[str, Callable[[np.ndarray], dict[str, float]]] = {
    name: _single(batch) for name, batch in BATCHES.items()
}
"""The same for one input without a batch dimension."""
