"""What is logged of an input instead of the input: a few numbers that drift when the inputs do.

Copied beside the router, so that logged requests and the reference are summarised by the same code: numpy only.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping

import numpy as np

Batch = Callable[[np.ndarray], dict[str, np.ndarray]]


LARGEST_SIDE = 64
"""Pixels along the longer side of an image up to which all are looked at; of larger ones every second, third, ..."""
MOST_ELEMENTS = 4096
"""Elements of a tensor up to which all are looked at."""
_sum, _least, _most = np.add.reduce, np.minimum.reduce, np.maximum.reduce  # a third of the cost of the methods


def summarize_images(images: np.ndarray) -> dict[str, np.ndarray]:
    """Images [N, H, W, C] -> each [N] float64: brightness and contrast in the images' own unit, edges, position, noise.

    `energy_x` and `energy_y` are the mean absolute differences of neighbours along a row and along a column,
    `centre_x` and `centre_y` the centre of mass in 0..1 (0.5 for a black image), `roughness` the mean absolute
    difference from the mean of the four neighbours (noise raises it more than edges do). Of an image with a side above
    LARGEST_SIDE only a grid of pixels is looked at, whose points are each other's neighbours. A number that needs more
    pixels than there are is NaN.
    """
    step = -(-max(images.shape[1], images.shape[2], 1) // LARGEST_SIDE)
    if step > 1:
        images = images[:, ::step, ::step]
    count, height, width, channels = images.shape
    grey = images[..., 0].astype(np.float64)
    for channel in range(1, channels):
        grey += images[..., channel]
    flat = grey.reshape(count, height * width)
    if channels > 1:
        flat /= channels
    raster = _raster(height, width)
    mass, to_right, to_bottom = (flat @ raster.places).T
    mean = mass / raster.pixels
    spread = flat - mean[:, None]
    spread *= spread
    energy_x, energy_y, roughness = raster.mean_sizes(flat)
    if not _least(mass, initial=1.0) > 0:  # no light, no centre
        mass, to_right, to_bottom = np.where(mass > 0, (mass, to_right, to_bottom), ((1.0,), (0.5,), (0.5,)))
    return {
        "mean": mean,
        "std": np.sqrt(_sum(spread, axis=1) / raster.pixels),
        "min": _least(flat, axis=1),
        "max": _most(flat, axis=1),
        "energy_x": energy_x,
        "energy_y": energy_y,
        "centre_x": to_right / mass,
        "centre_y": to_bottom / mass,
        "roughness": roughness,
    }


class _Raster:
    """What depends on the size of an image alone; images are rows of pixels, line after line.

    `places` [pixels, 3]: 1, and where a pixel's middle is along a row and along a column, 0..1.
    """

    def __init__(self, height: int, width: int):
        self.pixels, self._width = height * width, width
        down, across = np.mgrid[0.5:height, 0.5:width]
        ones = np.ones(self.pixels)
        self.places = np.stack([ones, across.ravel() / width, down.ravel() / height], axis=1)
        column = np.arange(self.pixels) % width
        self._across, self._down = self.pixels - 1, max(self.pixels - width, 0)
        inner = column[width + 1 : self.pixels - width - 1]
        kept = [
            column[:-1] < width - 1,  # the last pixel of a line and the first of the next are no neighbours
            np.ones(self._down, bool),
            (inner > 0) & (inner < width - 1),
        ]
        self._weights = np.zeros((sum(map(len, kept)), 3))
        start = 0
        for place, chosen in enumerate(kept):
            size = (1, 1, 4)[place] * int(chosen.sum())
            self._weights[start : start + len(chosen), place] = chosen / max(size, 1)
            start += len(chosen)
        self._lacking = [place for place, chosen in enumerate(kept) if not chosen.any()]

    def mean_sizes(self, flat: np.ndarray) -> np.ndarray:
        """Mean size of differences in a row, in a column, and of a pixel from its neighbours' mean: [3, N].

        All at once: what is no difference of neighbours counts nothing. NaN where there are none.
        """
        width, across, down = self._width, self._across, self._down
        sizes = np.empty((len(flat), len(self._weights)))
        along, below = sizes[:, :across], sizes[:, across : across + down]
        np.subtract(flat[:, 1:], flat[:, :-1], out=along)
        np.subtract(flat[:, width:], flat[:, : self.pixels - width], out=below)
        if sizes.shape[1] > across + down:
            inner = sizes[:, across + down :]
            np.subtract(along[:, width + 1 : across - width], along[:, width : across - width - 1], out=inner)
            inner += below[:, width + 1 : down - 1]
            inner -= below[:, 1 : down - width - 1]
        found = (np.abs(sizes, out=sizes) @ self._weights).T
        if self._lacking:
            found[self._lacking] = np.nan
        return found


_raster = functools.lru_cache(16)(_Raster)


def summarize_tensors(tensors: np.ndarray) -> dict[str, np.ndarray]:
    """Tensors [N, ...] -> `mean`, `std`, `min`, `max` over the elements, each [N] float64; no elements give zeros.

    Of more than MOST_ELEMENTS about so many are looked at, at even distances that meet every place of the last axis.
    """
    flat = tensors.reshape(len(tensors), tensors[:1].size)
    step = -(-flat.shape[1] // MOST_ELEMENTS)
    if step > 1:
        while math.gcd(step, tensors.shape[-1]) > 1:
            step += 1
        flat = flat[:, ::step]
    flat = flat.astype(np.float64) if flat.shape[1] else np.zeros((len(flat), 1))
    mean = _sum(flat, axis=1) / flat.shape[1]
    spread = flat - mean[:, None]
    spread *= spread
    return {
        "mean": mean,
        "std": np.sqrt(_sum(spread, axis=1) / flat.shape[1]),
        "min": _least(flat, axis=1),
        "max": _most(flat, axis=1),
    }


CLUSTER = "cluster"
"""A number of a summary that is not compared: rows with equal or near ones depend on each other (see Task.clusters)."""


def summarize_series(frames: np.ndarray) -> dict[str, np.ndarray]:
    """Frames [N, L, C] (0 day, 1 item, 2 target, then others; NaN is missing) -> each [N] float64, free of scale.

    The wire does not know the horizon: the future is the rows at the end without a target, so that what is missing
    right before it counts as future. Recent is the last quarter of the history, at least a row; the level is the mean
    absolute target of the history. What is not finite is missing, what is not determined is 0. Of the target:
    `recent` (mean of the recent rows) and `variation` (standard deviation) over the level, `roughness` (mean absolute
    difference of neighbours) over the level, `missing` and `zeros` as shares of the history. Of the others: `absent`,
    the share without a value, and for each `column_K` how far its mean in the future (where it has none: recently) is
    from that of its history, as a share of the sum of both, -1..1. CLUSTER is the day of the last row.
    """
    length = frames.shape[1]
    target, there, level = _history(frames[:, :, 2])
    lengths = length - (np.cumprod(~np.isfinite(frames[:, ::-1, 2]), axis=1)).sum(axis=1)
    places = np.arange(length)[None, :]
    history = places < lengths[:, None]
    recent = history & (places >= (lengths - np.maximum(lengths // 4, 1))[:, None])
    mean = _share(target.sum(axis=1), there.sum(axis=1))
    spread = _share((np.where(there, target - mean[:, None], 0) ** 2).sum(axis=1), there.sum(axis=1)) ** 0.5
    pairs = there[:, 1:] & there[:, :-1]
    steps = np.where(pairs, np.abs(np.diff(target, axis=1)), 0).sum(axis=1)
    others = frames[:, :, 3:]
    end = frames[:, -1, 0].astype(np.float64)
    return {
        "recent": _share(_mean(target, there & recent), level),
        "variation": _share(spread, level),
        "roughness": _share(_share(steps, pairs.sum(axis=1)), level),
        "missing": _share((history & ~there).sum(axis=1), lengths),
        "zeros": _share((there & (target == 0)).sum(axis=1), lengths),
        "absent": 1.0 - np.isfinite(others).mean(axis=(1, 2)) if others.size else np.zeros(len(frames)),
        **{f"column_{place}": _change(frames[:, :, place], history, recent) for place in range(3, frames.shape[2])},
        CLUSTER: np.where(np.isfinite(end), end, 0.0),
    }


def _history(column: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Values [N, L] with 0 where there is none, where there is one, and the mean absolute value [N]."""
    there = np.isfinite(column)
    values = np.where(there, column, 0).astype(np.float64)
    return values, there, _mean(np.abs(values), there)


def _change(column: np.ndarray, history: np.ndarray, recent: np.ndarray) -> np.ndarray:
    values, there, _ = _history(column)
    future = there & ~history
    latest = np.where(future.any(axis=1, keepdims=True), future, there & recent)
    before = there & history
    now, then = _mean(values, latest), _mean(values, before)
    known = latest.any(axis=1) & before.any(axis=1)
    return np.where(known, _share(now - then, np.abs(now) + np.abs(then)), 0.0)


def _mean(values: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    return _share(np.where(chosen, values, 0).sum(axis=1), chosen.sum(axis=1))


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Part / whole, 0 where there is no whole."""
    return np.where(whole > 0, part / np.where(whole > 0, whole, 1), 0.0)


BATCHES: Mapping[str, Batch] = {
    "image": summarize_images, "series": summarize_series, "tensor": summarize_tensors,
}  # fmt: skip
"""By the name in a task's signature; each takes a batch [N, ...]."""


def _single(batch: Batch) -> Callable[[np.ndarray], dict[str, float]]:
    def summarize(array: np.ndarray) -> dict[str, float]:
        return {name: float(values[0]) for name, values in batch(array[None]).items()}

    return summarize


SUMMARIES: Mapping[str, Callable[[np.ndarray], dict[str, float]]] = {
    name: _single(batch) for name, batch in BATCHES.items()
}
"""The same for one input without a batch dimension."""
