"""From a raw frame to what an encoder of series takes: filled, limited, encoded, scaled. Everything fitted is inside.

The same module trains and serves, so that a client sends raw recent history and what is known of the future. Fitted
statistics are buffers under `statistics.`; they come from `tasks/forecast_fit.py`. N rows, H steps of history, F of the
horizon, L = H + F, C columns.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from dl_pipelines.tasks.forecast_fit import CUT

if TYPE_CHECKING:
    from dl_pipelines.tasks.forecasting import Forecasting

HARMONICS = 6
YEAR = 365.25
AROUND = (-2, -1, 0, 1, 2)
"""Days around a step whose holidays it knows."""
HOLIDAY_SIZE = 4
UNKNOWN_SHARE = 0.02
"""Of the rows in training whose item is hidden, so that a new item has a vector that was trained."""
LAST = 1e30
"""Stands for an unknown value where values are put in order: above all of them."""
LEAST = 0.02
"""The base of a forecast is at least so large, in units of the window's level, unless it may be negative."""


@dataclass(frozen=True)
class Seen:
    """A frame as numbers: `history` [N, H, A], `future` [N, F, B], `static` [N, S], `level` [N, 1, 1] in units.

    `base` [N, F] is the seasonal profile of the window in units of its level. The level is the mean size of the filled
    history.
    """

    history: torch.Tensor
    future: torch.Tensor
    static: torch.Tensor
    level: torch.Tensor
    base: torch.Tensor


class Statistics(nn.Module):
    """The fitted numbers, as buffers."""

    def __init__(self, statistics: Mapping[str, Any], task: Forecasting):
        super().__init__()
        given, items = task.params, statistics["items"]

        def keep(name: str, values: Any, dtype: torch.dtype = torch.float32) -> None:
            self.register_buffer(name, torch.as_tensor(values, dtype=dtype))

        # Whole numbers as such: the mean over workers that floating buffers are given would round them.
        keep("codes", items["codes"] or [-1], torch.int64)
        for place, name in enumerate(self.numbers(task)):
            about, limits = statistics["numbers"][name], statistics["limits"][name]
            count = len(items["codes"])
            keep(f"mean_{place}", [about["mean"], *about["by_item"]])
            keep(f"spread_{place}", about["spread"])
            keep(f"low_{place}", [limits["all"][0], *(limits["low"] or [limits["all"][0]] * count)])
            keep(f"high_{place}", [limits["all"][1], *(limits["high"] or [limits["all"][1]] * count)])
            keep(f"fill_{place}", statistics["imputation"].get(name, [1.0, 0.0, 0.0]))
        for place, name in enumerate(given.categories):
            keep(f"words_{place}", statistics["words"][name] or [-1], torch.int64)
        first, kinds = _calendar(statistics)
        keep("first_day", first, torch.int64)
        keep("kinds", kinds, torch.int64)

    @staticmethod
    def numbers(task: Forecasting) -> tuple[str, ...]:
        """Columns that are numbers, in the frame's order."""
        given = task.params
        return (given.target, *given.observed, *given.known)

    def of(self, name: str) -> torch.Tensor:
        """A buffer."""
        return self.get_buffer(name)


def _calendar(statistics: Mapping[str, Any]) -> tuple[int, list[int]]:
    """The first day, and the kind of holiday (0: none) of it and each day after."""
    days, kinds = statistics["holidays"]["days"], statistics["holidays"]["kinds"]
    if not days:
        return 0, [0] * (2 * max(AROUND) + 1)
    first = days[0] + min(AROUND)
    found = [0] * (days[-1] + max(AROUND) - first + 1)
    for day, kind in zip(days, kinds, strict=True):
        found[day - first] = kind
    return first, found


class Front(nn.Module):
    """frame float32 [N, L, C] -> Seen. `item_size` is the length of an item's vector."""

    def __init__(self, task: Forecasting, statistics: Mapping[str, Any], item_size: int):
        super().__init__()
        self.given, self.statistics = task.params, Statistics(statistics, task)
        self.numbers = Statistics.numbers(task)
        self.fills = [task.missing(name) for name in self.numbers]
        self.flagged = [task.outliers(name) == "flag" for name in self.numbers]
        self.limited = [task.outliers(name) in ("clip", "winsorise") for name in self.numbers]
        self.items = nn.Embedding(len(statistics["items"]["codes"]) + 1, item_size)
        nn.init.normal_(self.items.weight, std=0.05)
        self.words = nn.ModuleList(
            nn.Embedding(len(statistics["words"][name]) + 1, 4) for name in self.given.categories
        )
        # For a warm start: vectors follow their items and words, also when others come or go between them.
        self.tables = {"items.weight": "statistics.codes"} | {
            f"words.{place}.weight": f"statistics.words_{place}" for place in range(len(self.given.categories))
        }
        kinds = len(statistics["holidays"]["names"])
        self.holidays = nn.Embedding(kinds + 1, HOLIDAY_SIZE, padding_idx=0) if kinds else None
        calendar = self.given.season + (HOLIDAY_SIZE * len(AROUND) if kinds else 0)
        known = len(self.given.known) + 4 * len(self.given.categories)
        observed = len(self.given.observed) + sum(self.flagged)
        self.history_size = 3 + observed + known + calendar
        self.future_size = 2 + known + calendar + 2 * HARMONICS
        self.static_size = item_size + 3

    def forward(self, frame: torch.Tensor) -> Seen:
        """See the class."""
        steps, given = given_steps(self.given), self.given
        item = self._item(frame)
        flags, numbers = [], []
        level = base = ratio = known = None
        for place in range(len(self.numbers)):
            whole = place > len(given.observed)  # known of the future too
            values = frame[:, :, 2 + place] if whole else frame[:, : steps[0], 2 + place]
            there = torch.isfinite(values) if place else self._there(frame)
            filled = self._fill(values, there, place, item)
            low, high = self._bounds(place, item)
            if place == 0:
                level = filled.abs().mean(dim=1, keepdim=True).clamp_min(1e-6)
                ratio = filled / level
                if self.flagged[0]:
                    flags.append(((ratio < low) | (ratio > high)).to(ratio.dtype))
                if self.limited[0]:
                    ratio = torch.minimum(torch.maximum(ratio, low), high)
                known = there.to(ratio.dtype)
                base = self._profile(ratio)
                continue
            if self.flagged[place]:
                flags.append(((filled < low) | (filled > high)).to(filled.dtype)[:, : steps[0]])
            if self.limited[place]:
                filled = torch.minimum(torch.maximum(filled, low), high)
            mean, spread = self.statistics.of(f"mean_{place}")[item], self.statistics.of(f"spread_{place}")
            numbers.append(((filled - mean[:, None]) / spread).clamp(-8, 8))
        assert level is not None and base is not None and ratio is not None and known is not None
        calendar, words = self._days(frame[:, :, 0]), [self._word(frame, place) for place in range(len(self.words))]
        observed = [*(column[:, :, None] for column in numbers[: len(given.observed)]),
                    *(flag[:, :, None] for flag in flags)]  # fmt: skip
        ahead = torch.cat([calendar, *(column[:, :, None] for column in numbers[len(given.observed) :]), *words], dim=2)
        past = [(ratio - 1)[:, :, None], self._squashed(ratio)[:, :, None], known[:, :, None]]
        step = torch.linspace(0, 1, steps[1], device=frame.device)[None, :, None].expand(frame.shape[0], -1, 1)
        future = torch.cat([ahead[:, steps[0] :], self._squashed(base)[:, :, None], step], dim=2)
        recent = ratio[:, -given.season :].mean(dim=1, keepdim=True)
        month = ratio[:, -min(4 * given.season, given.history) :].mean(dim=1, keepdim=True)
        about = [self._squashed(recent), self._squashed(month), self._newness(level, item)]
        static = torch.cat([self.items(item), *about], dim=1)
        # The time of the year matters of what is to come; of what was, the values themselves tell it.
        history = torch.cat([*past, *observed, ahead[:, : steps[0], 2 * HARMONICS :]], dim=2)
        return Seen(history, future, static, level[:, :, None], base)

    def _there(self, frame: torch.Tensor) -> torch.Tensor:
        """Where the target's history is known, bool [N, H]: what was cut off (a stock-out) is not."""
        steps = given_steps(self.given)[0]
        there = torch.isfinite(frame[:, :steps, 2])
        if self.given.censored_by is None:
            return there
        cut = frame[:, :steps, 3 + self.given.observed.index(self.given.censored_by)]
        return there & ~((cut > CUT) & torch.isfinite(cut))  # to OpenVINO a NaN is larger than anything

    def _item(self, frame: torch.Tensor) -> torch.Tensor:
        """The place of each row's item among the known ones, from 1; 0 for an unknown one, and for some in training."""
        place = _place(frame[:, -1, 1:2], self.statistics.of("codes"))
        if self.training:
            hidden = torch.rand(len(frame), device=frame.device) < UNKNOWN_SHARE
            place = torch.where(hidden, torch.zeros_like(place), place)
        return place

    def _word(self, frame: torch.Tensor, place: int) -> torch.Tensor:
        column = 2 + len(self.numbers) + place
        values = frame[:, :, column : column + 1]
        return self.words[place](_place(values, self.statistics.of(f"words_{place}")))

    def _bounds(self, place: int, item: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        low, high = self.statistics.of(f"low_{place}")[item], self.statistics.of(f"high_{place}")[item]
        return low[:, None], high[:, None]

    def _newness(self, level: torch.Tensor, item: torch.Tensor) -> torch.Tensor:
        """How far the window's level is from the item's own in training (log, bounded)."""
        usual = self.statistics.of("mean_0")[item][:, None].abs().clamp_min(1e-6)
        return torch.log(level / usual).clamp(-3, 3)

    def _profile(self, ratio: torch.Tensor) -> torch.Tensor:
        """The window's seasonal mean, later seasons counting more, at each step of the horizon [N, F]."""
        steps, season = given_steps(self.given), self.given.season
        folded = ratio.reshape(ratio.shape[0], steps[0] // season, season)
        weight = torch.exp(torch.linspace(-1.5, 0, steps[0] // season, device=ratio.device))
        profile = (folded * (weight / weight.sum())[None, :, None]).sum(dim=1)
        times = -(-steps[1] // season)
        profile = profile.repeat(1, times)[:, : steps[1]]
        return profile if self.given.negative else profile.clamp_min(LEAST)

    def _squashed(self, ratio: torch.Tensor) -> torch.Tensor:
        """The logarithm, where there is one: a ratio that may be negative is bounded instead."""
        return ratio.clamp(-8, 8) if self.given.negative else _log(ratio)

    def _fill(self, values: torch.Tensor, known: torch.Tensor, place: int, item: torch.Tensor) -> torch.Tensor:
        """[N, T] with a number for each value that is not known, as the column's strategy says."""
        some = torch.where(known, values, torch.zeros_like(values))
        count = known.sum(dim=1, keepdim=True)
        usual = self.statistics.of(f"mean_{place}")[item][:, None]
        mean = torch.where(count > 0, some.sum(dim=1, keepdim=True) / count.clamp_min(1), usual)
        how = self.fills[place]
        if how == "drop":
            return torch.where(known, values, mean)
        seasonal = self._seasonal(some, known, mean)
        if how == "seasonal":
            return torch.where(known, values, seasonal)
        between = _interpolated(some, known, mean)
        if how == "interpolate":
            return torch.where(known, values, between)
        weights = self.statistics.of(f"fill_{place}")
        return torch.where(known, values, weights[0] * seasonal + weights[1] * between + weights[2])

    def _seasonal(self, some: torch.Tensor, known: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
        """The median of the known values at the same place of the season, else the mean of the row."""
        season, length = self.given.season, some.shape[1]
        times = -(-length // season)
        pad = times * season - length
        there = nn.functional.pad(known, (0, pad)).reshape(some.shape[0], times, season)
        folded = nn.functional.pad(some, (0, pad)).reshape(some.shape[0], times, season)
        # Unknown values are put last, so that the known ones' middle is found by their number.
        ordered = torch.where(there, folded, torch.full_like(folded, LAST)).sort(dim=1).values
        count = there.sum(dim=1, keepdim=True)
        low, high = ((count - 1).clamp_min(0) // 2, (count // 2).clamp_max(times - 1))
        median = ((ordered.gather(1, low) + ordered.gather(1, high)) / 2).squeeze(1)
        profile = torch.where(count.squeeze(1) > 0, median, mean)
        return profile.repeat(1, times)[:, :length]

    def _days(self, day: torch.Tensor) -> torch.Tensor:
        """Harmonics of the year, place in the season, holidays around: [N, L, K]."""
        # A runtime may multiply by the rounded 1 / divisor: half a step keeps whole numbers away from the jumps.
        season, steps = self.given.season, torch.floor((day + 0.5) / self.given.step_days)
        place = steps - season * torch.floor((steps + 0.5) / season)
        hot = (place[:, :, None] == torch.arange(season, device=day.device)).to(day.dtype)
        turn = torch.remainder(day, YEAR)[:, :, None] * (2 * torch.pi / YEAR)
        turns = turn * torch.arange(1, HARMONICS + 1, device=day.device)
        parts = [torch.sin(turns), torch.cos(turns), hot]
        if self.holidays is not None:
            kinds, first = self.statistics.of("kinds"), self.statistics.of("first_day")
            around = torch.tensor(AROUND, device=day.device)
            at = (day[:, :, None] + around - first).clamp(0, len(kinds) - 1).to(torch.int64)
            parts.append(self.holidays(kinds[at]).flatten(2))
        return torch.cat(parts, dim=2)


def given_steps(given: Any) -> tuple[int, int]:
    """History and horizon."""
    return given.history, given.horizon


def _place(values: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    """Place from 1 of each value [..., 1] among the known ones [K], int64 [...]; 0 where it is none of them.

    Of known ones with the same code the last is meant.
    """
    numbers = torch.arange(1, len(known) + 1, device=values.device)
    return ((values == known).to(torch.int64) * numbers).amax(dim=-1)


def _interpolated(some: torch.Tensor, known: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
    """Between the nearest known values on both sides, the nearest one at the ends, the mean where there is none."""
    length = some.shape[1]
    at = torch.arange(length, device=some.device)
    before = _highest_so_far(torch.where(known, at, -1))
    after = length - 1 - _highest_so_far(torch.where(known, length - 1 - at, -1).flip(1)).flip(1)
    left = torch.where(before >= 0, before, after).clamp(0, length - 1)
    right = torch.where(after < length, after, before).clamp(0, length - 1)
    first, second = some.gather(1, left), some.gather(1, right)
    share = (at - left) / (right - left).clamp_min(1)
    found = first + (second - first) * share.clamp(0, 1)
    return torch.where(known.any(dim=1, keepdim=True), found, mean)


def _highest_so_far(values: torch.Tensor) -> torch.Tensor:
    """The largest of the values [N, T] up to each place; by doubling steps, since ONNX has no running maximum."""
    step = 1
    while step < values.shape[1]:
        values = torch.maximum(values, nn.functional.pad(values[:, :-step], (step, 0), value=-1))
        step *= 2
    return values


def _log(ratio: torch.Tensor) -> torch.Tensor:
    return torch.log(ratio.clamp_min(0) + 0.05)
