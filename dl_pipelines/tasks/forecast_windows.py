"""From a panel of series to the windows that are trained and measured on; what makes a window unfair or impossible."""

from __future__ import annotations

import math
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from dl_pipelines.tasks.base import SPLITS, Rows
from dl_pipelines.tasks.series import EXTRA, Panel, code, days_of

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    from dl_pipelines.tasks.forecasting import Forecasting

EPOCH = date(1970, 1, 1)
LEAST_KNOWN = 2
"""Seasons of known values that a history needs to be trained or measured on; the server answers shorter ones too."""
TELLING = 0.95
"""A column tells of the future when its seasonal differences correlate so with the target's of that day or later."""
LEAST_PAIRS = 30
LEAST_SCALE = 1e-3
"""Share of a series' whole level that stands in for the level of a history of zeros."""


def windows(panel: Panel, task: Forecasting, training: bool) -> Rows:
    """Every origin of an item whose horizon lies in the chosen days, `stride` (or `train_stride`) steps apart.

    Frames float32 [N, history + horizon, 2 + columns], by origin, then item; an origin's place does not depend on the
    first day of the panel. A history with fewer than two seasons of known values is left out, and so is a horizon
    without any.
    """
    import numpy as np

    given = task.params
    origins = _origins(panel, task, given.train_stride if training else given.stride)
    empty = np.zeros((len(panel.items), given.history, len(panel.columns))) + np.nan
    values = np.concatenate([empty, panel.values], axis=1)  # a history may begin before the first day
    target = values[..., 0]
    known = np.concatenate([np.zeros((len(target), 1)), np.isfinite(target).cumsum(axis=1)], axis=1)
    places = origins + given.history
    enough = known[:, places] - known[:, places - given.history] >= min(LEAST_KNOWN * given.season, given.history)
    enough &= known[:, np.minimum(places + given.horizon, target.shape[1])] > known[:, places]
    if training:
        enough &= _complete(panel, values, places, task)
    row, item = np.nonzero(enough.T)  # by origin, then item
    at = places[row]
    frames = _frames(panel, values, item, at, given.history, given.horizon)
    frames[:, given.history :, 2 : 3 + len(given.observed)] = np.nan
    targets = _targets(panel, values[..., 0], item, at, task)
    days = panel.days[origins][row]
    names = np.array(panel.items, dtype=object)[item] if len(item) else np.zeros(0, object)
    ids = np.array([f"{name}|{_text(day)}" for name, day in zip(names, days, strict=True)], dtype=object)
    slices = {f"item:{name}": names == name for name in panel.items}
    return Rows(frames, targets, ids, slices)


def _origins(panel: Panel, task: Forecasting, stride: int) -> np.ndarray:
    """Places of the first forecast step, such that every step of the horizon is chosen and there is a history."""
    import numpy as np

    given = task.params
    chosen = np.concatenate([[0], np.cumsum(panel.chosen)])
    places = np.arange(1, len(panel.days) - given.horizon + 1)
    if not len(places):
        return places
    # A step without any record (a closed day) is in no split; between two chosen ones it belongs to theirs.
    first, last = np.flatnonzero(panel.chosen)[[0, -1]] if panel.chosen.any() else (1, 0)
    inside = (places >= first) & (places + given.horizon - 1 <= last)
    inside &= chosen[places + given.horizon] > chosen[places]
    others = np.asarray(np.isfinite(panel.values).any(axis=(0, 2))) & ~panel.chosen
    others = np.concatenate([[0], np.cumsum(others)])
    inside &= others[places + given.horizon] == others[places]
    return places[inside & (panel.days[places] // given.step_days % stride == 0)]


def _complete(panel: Panel, values: np.ndarray, places: np.ndarray, task: Forecasting) -> np.ndarray:
    """Whether each item's window at each place has every value of the columns whose strategy is `drop`, bool."""
    import numpy as np

    given, fine = task.params, np.ones((len(values), len(places)), bool)
    for position, name in enumerate(panel.columns):
        if task.missing(name) != "drop":
            continue
        gaps = np.pad(np.cumsum(~np.isfinite(values[..., position]), axis=1), ((0, 0), (1, 0)))
        known = name not in (given.target, *given.observed)
        ends = places + given.horizon if known else places
        fine &= gaps[:, ends] == gaps[:, places - given.history]
    return fine


def _frames(
    panel: Panel, values: np.ndarray, item: np.ndarray, at: np.ndarray, history: int, horizon: int
) -> np.ndarray:
    import numpy as np

    steps = at[:, None] + np.arange(-history, horizon)
    step = int(panel.days[1] - panel.days[0]) if len(panel.days) > 1 else 1
    first = int(panel.days[0]) - history * step if len(panel.days) else 0
    frames = np.empty((len(item), history + horizon, 2 + len(panel.columns)), np.float32)
    frames[:, :, 0] = first + step * steps
    frames[:, :, 1] = np.array([code(name) for name in panel.items], np.float32)[item][:, None] if len(item) else 0
    for start in range(0, len(item), 4096):  # float64 copies of a part only
        part = slice(start, start + 4096)
        frames[part, :, 2:] = values[item[part, None], steps[part]]
    return frames


def _targets(panel: Panel, target: np.ndarray, item: np.ndarray, at: np.ndarray, task: Forecasting) -> np.ndarray:
    """The horizon's values, the day of the origin, the item, the scale of MASE, the level of the history.

    The level is the mean of the known values, of their sizes where the target may be negative.
    """
    import numpy as np

    given = task.params
    history, steps = given.history, at[:, None] + np.arange(given.horizon)
    found = np.empty((len(item), given.horizon + EXTRA))
    found[:, : given.horizon] = target[item[:, None], steps]
    found[:, -4] = panel.days[at - history]
    found[:, -3] = np.array([code(name) for name in panel.items], np.float64)[item] if len(item) else 0
    # Hyndman and Koehler (2006): the error of the seasonal naive forecast on everything before the origin.
    apart = np.abs(target - np.concatenate([np.full((len(target), given.season), np.nan), target], axis=1)[
        :, : target.shape[1]])  # fmt: skip
    found[:, -2] = mean_before(apart, target.shape[1])[item, at]
    size = np.abs(target) if given.negative else target
    whole = np.abs(mean_before(size, target.shape[1])[item, at])
    level = np.abs(mean_before(size, history)[item, at])
    found[:, -1] = np.maximum(np.nan_to_num(level), np.maximum(LEAST_SCALE * np.nan_to_num(whole), 1e-6))
    return found.astype(np.float32)


def mean_before(values: np.ndarray, length: int) -> np.ndarray:
    """Mean of the known values among the `length` before each place, [items, T + 1]; NaN where there are none."""
    import numpy as np

    known = np.isfinite(values)
    sums = np.pad(np.where(known, values, 0).cumsum(axis=1), ((0, 0), (1, 0)))
    counts = np.pad(known.cumsum(axis=1), ((0, 0), (1, 0)))
    start = np.maximum(np.arange(values.shape[1] + 1) - length, 0)
    total, count = sums - sums[:, start], counts - counts[:, start]
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def leaks(panel: Panel, table: pa.Table, splits: np.ndarray, task: Forecasting) -> list[str]:
    """Days that are in more than one split, and columns that tell of the target of a day that is not known yet.

    An observed column may not repeat the target of a later day; a known one neither that of a later day nor of its own
    or one before it within the horizon, which its future part would tell. Judged on train records only, by the
    correlation of seasonal differences, so that a common trend or season is no leak; and a column that is at least as
    like the target of a day that it may know has it from there: the target is like its own past.
    """
    import numpy as np

    found, days = [], days_of(table)
    groups = [set(days[splits == split].tolist()) for split in SPLITS]
    shared = sorted((groups[0] & groups[1]) | (groups[0] & groups[2]) | (groups[1] & groups[2]))
    if shared:
        found.append(f"{len(shared)} days are in more than one split ({_text(shared[0])}): run validated_data again")
    given = task.params
    apart = panel.values[:, given.season :] - panel.values[:, : -given.season]
    trains = panel.chosen[given.season :]
    apart = _by_deviation(np.where(trains[None, :, None], apart, np.nan), panel.values)
    for position, name in enumerate(panel.columns[1 : 1 + len(given.observed) + len(given.known)], 1):
        last = 0 if name in given.observed else -given.horizon  # the latest day of the target that it may tell of
        worst, step = _most_like(apart, position, range(last + 1, given.horizon + 1))
        if worst >= TELLING and worst > _most_like(apart, position, range(last - given.season, last + 1))[0]:
            when = f"{abs(step)} steps {'later' if step > 0 else 'before, which is in the horizon'}"
            found.append(
                f"found that {name} tells {given.target} {when if step else 'on the same day'} (correlation "
                f"{worst:.3f} of seasonal differences); expected a column that is known before the day; remove it from "
                "problem.task.params"
            )
    return found


def _by_deviation(apart: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Differences [items, days, columns] by their item's deviation; NaN where that is no more than rounding."""
    import numpy as np

    known, size = np.isfinite(apart), np.abs(np.where(np.isfinite(values), values, 0)).max(axis=1, initial=0)
    count = np.maximum(known.sum(axis=1), 1)
    mean = np.where(known, apart, 0).sum(axis=1) / count
    spread = np.sqrt((np.where(known, apart - mean[:, None], 0) ** 2).sum(axis=1) / count)
    return np.where((spread > 1e-9 * size)[:, None], apart / np.where(spread > 0, spread, 1)[:, None], np.nan)


def _most_like(apart: np.ndarray, position: int, steps: range) -> tuple[float, int]:
    """The largest likeness of a column with the target so many steps later (before, where below 0), and the step."""
    return max((_likeness(apart[..., position], apart[..., 0], step), step) for step in steps)


def _likeness(column: np.ndarray, target: np.ndarray, ahead: int) -> float:
    """Absolute correlation of a column with the target `ahead` steps later, over all items; 0 for too few pairs."""
    import numpy as np

    if ahead < 0:
        return _likeness(target, column, -ahead)
    first, later = column[:, : max(column.shape[1] - ahead, 0)], target[:, ahead:]
    known = np.isfinite(first) & np.isfinite(later)
    if known.sum() < LEAST_PAIRS:
        return 0.0
    a, b = first[known], later[known]
    if a.std() == 0 or b.std() == 0:
        return 0.0
    return float(abs(np.corrcoef(a, b)[0, 1]))


def too_short(days: np.ndarray, splits: np.ndarray, task: Forecasting) -> str | None:
    """Why no forecast can be trained or measured on days [N] with these splits, or None."""
    given = task.params
    for split in SPLITS:
        mine = days[splits == split]
        span = (int(mine.max()) - int(mine.min())) // given.step_days + 1 if len(mine) else 0
        # Origins lie on a grid that is the same for any window: the first one may be almost a stride into the split.
        stride = given.train_stride if split == "train" else given.stride
        history = min(LEAST_KNOWN * given.season, given.history) if split == "train" else 0
        least = given.horizon + stride - 1 + history
        if span < least:
            told = f", {history} of history" if history else ""
            return (
                f"found {span} steps in the {split} split; expected at least {least} for a horizon of "
                f"{given.horizon}{told} and an origin every {stride}: bring more days, a shorter horizon or gap, or "
                "another data.split"
            )
    return None


def read_frame(path: Path, task: Forecasting) -> np.ndarray:
    """A CSV of one item as a frame [history + horizon, columns]: a line a step with `date`, `item` and the columns.

    The last `horizon` lines are the future; what is not known is left empty. Fewer lines of history are filled up with
    missing values. Raises ValueError saying what is wrong with the file.
    """
    import csv

    import numpy as np

    given, names = task.params, task.signature().columns
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"found {path}: {error}; expected a CSV file with a header; give another") from error
    wanted = ["date", "item", *names[2:]]
    absent = [name for name in wanted if not lines or name not in lines[0]]
    if absent:
        raise ValueError(f"found no column {', '.join(absent)} in {path}; expected the columns {', '.join(wanted)}")
    lines.sort(key=lambda line: _number(line, "day", path, task))
    items = sorted({line["item"] or "" for line in lines} - {""})
    if len(items) > 1:
        raise ValueError(f"found {len(items)} items ({', '.join(items[:3])}) in {path}; expected the days of one item")
    total = given.history + given.horizon
    if len(lines) < given.horizon + 1:
        raise ValueError(f"found {len(lines)} lines in {path}; expected {total}: {given.history} of history and the "
                         f"{given.horizon} of the horizon")  # fmt: skip
    lines = lines[-total:]
    frame = np.full((total, len(names)), np.nan, np.float32)
    for row, line in enumerate(lines, total - len(lines)):
        frame[row] = [_number(line, name, path, task) for name in names]
    step = given.step_days
    frame[:, 0] = frame[-1, 0] + step * np.arange(1 - total, 1)
    found = [_number(line, "day", path, task) for line in lines]
    if found != frame[total - len(lines) :, 0].tolist():
        raise ValueError(f"found days that are not {step} apart in {path}; expected a line for each, with empty values")
    frame[:, 1] = code(items[0]) if items else np.nan
    frame[given.history :, 2 : 3 + len(given.observed)] = np.nan
    return frame


def _number(line: dict[str, str], name: str, path: Path, task: Forecasting) -> float:
    text = (line["date" if name == "day" else name] or "").strip()
    try:
        if name == "day":
            return float((date.fromisoformat(text[:10]) - EPOCH).days)
        if name == "item" or name in task.params.categories:
            return float(code(text)) if text else float("nan")
        number = float(text) if text else float("nan")
        if math.isinf(number):
            raise ValueError
        return number
    except ValueError:
        raise ValueError(f"found {text!r} as {name} in {path}; expected a number, or a date as 2026-01-31") from None


def _text(day: int) -> str:
    return (EPOCH + timedelta(days=int(day))).isoformat()
