"""Simulated daily demand, and all that made it: the parameters below were fixed before any model was trained on it.

Demand is Poisson around level * exp(trend + week + year + holidays + Christmas + promotion + price + regimes + noise).
Plain numpy and seeded; counts and cents are whole, so that the last bit of an `exp` moves nothing between machines.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from datetime import date, timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

CATEGORIES = ("groceries", "drinks", "household", "garden", "toys")
COUNTRY = "DE"
WEEK = (
    (-0.06, -0.10, -0.06, 0.02, 0.16, 0.22, -0.40),
    (-0.12, -0.12, -0.06, 0.04, 0.24, 0.26, -0.38),
    (0.02, 0.00, -0.02, 0.00, 0.08, 0.14, -0.30),
    (-0.08, -0.10, -0.08, -0.02, 0.16, 0.34, -0.30),
    (-0.04, -0.04, 0.00, 0.02, 0.08, 0.20, -0.28),
)
"""Log effect of Monday to Sunday by category; each item differs by WEEK_SD."""
YEAR = (
    (0.02, -0.03, 0.01, 0.02),
    (-0.04, -0.22, 0.03, 0.02),
    (0.03, 0.04, -0.02, 0.01),
    (0.14, -0.34, -0.08, -0.06),
    (-0.06, 0.08, 0.03, 0.04),
)
"""Coefficients of sin, cos of the year and of the half year by category."""
HOLIDAY = (-0.55, -0.40, -0.50, -0.25, -0.35)
BEFORE_HOLIDAY = (0.28, 0.30, 0.12, 0.08, 0.10)
CHRISTMAS = (0.20, 0.22, 0.08, -0.10, 0.60)
CHRISTMAS_PEAK, CHRISTMAS_DAYS = (12, 17), 11.0
"""A smooth rise around 17 December, this wide (standard deviation in days)."""
WEEK_SD, YEAR_SD = 0.04, 0.03
LEVEL, INTERMITTENT_LEVEL = (20.0, 400.0), (0.4, 2.0)
"""Units a day: the middle 95 % of a lognormal; one item in INTERMITTENT_EVERY sells only now and then."""
INTERMITTENT_EVERY, LATE_EVERY = 12, 25
"""One item in LATE_EVERY enters the assortment in the second year."""
TREND = (-0.04, 0.10)
PRICE, ELASTICITY, UPLIFT = (2.0, 40.0), (-1.6, -0.8), (0.10, 0.40)
"""Euros; log demand by log price; log demand by promotion beyond its price."""
PRICE_CHANGES, PRICE_STEP = 1 / 240, (-0.03, 0.07)
DISCOUNTS = (0.10, 0.15, 0.20)
CAMPAIGNS = ((1, 24), (3, 24), (5, 18), (7, 18), (9, 12), (11, 20))
"""Start (month, day) of each year's common campaigns, moved by up to CAMPAIGN_JITTER days; RANDOM_CAMPAIGNS more."""
CAMPAIGN_JITTER, CAMPAIGN_DAYS, RANDOM_CAMPAIGNS, CAMPAIGN_SHARE = 5, (7, 11), 2, 0.50
PROMOTION_STARTS, PROMOTION_DAYS = 1 / 90, 7
ITEM_REGIME, COMMON_REGIME = (0.10, 120.0), (0.022, 120.0)
"""Mean-reverting log level: stationary standard deviation, days in which it forgets."""
COMMON_SHOCK, ITEM_NOISE = 0.034, 0.11
"""Standard deviations of log demand, drawn anew each day: nobody can know them."""
STOCK_OUT_STARTS, STOCK_OUT_STAYS, STOCK_OUT_LEFT = 0.002, 0.5, 0.05
"""Chance a day that a stock-out begins, that it goes on, the share of demand still met in it."""
OUTLIERS, OUTLIER_FACTOR = 0.0005, 5
NO_TARGET, NO_RECORD, NO_PRICE = 0.004, 0.003, 0.002
HELD_BACK = 460
"""Days that are always generated beyond the last arrival, for live traffic and what it foretells."""


@dataclass(frozen=True)
class Truth:
    """All that the generator knows, arrays [days] or [days, items]; what is recorded is below `demand`.

    `expected` [days, items] is log demand without regimes and noise; regimes are log levels.
    """

    first: date
    items: tuple[str, ...]
    categories: tuple[str, ...]
    expected: np.ndarray
    item_regime: np.ndarray
    common_regime: np.ndarray
    started: np.ndarray
    demand: np.ndarray
    """Recorded units, NaN where they were not recorded."""
    stock_out: np.ndarray
    price: np.ndarray
    promotion: np.ndarray
    recorded: np.ndarray


@functools.cache
def generate(items: int, first: date, days: int, seed: int) -> Truth:
    """Demand of `items` items on `days` days and HELD_BACK more; later days don't change earlier ones."""
    import numpy as np

    total = days + HELD_BACK
    draw = functools.partial(_stream, seed)
    category = np.arange(items) % len(CATEGORIES)
    level = _levels(items, draw("level"))
    promotion, discount = _promotions(items, first, total, seed)
    price = _prices(items, total, discount, draw("price"))
    own = draw("effects")
    elasticity, uplift = own.uniform(*ELASTICITY, items), own.uniform(*UPLIFT, items)
    trend = own.uniform(*TREND, items)
    usual = np.log(price[0] / (1 - discount[0]))
    expected = (
        np.log(level)
        + trend * np.arange(total)[:, None] / 365.25
        + _calendar(items, category, first, total, draw("calendar"))
        + uplift * promotion
        + elasticity * (np.log(price) - usual)
    )
    regime, common = _regime(total, items, ITEM_REGIME, draw("regime")), _regime(total, 1, COMMON_REGIME, draw("tide"))
    stock_out = _stock_outs(total, items, draw("stock-out"))
    noise = draw("noise")
    shock, own_noise = COMMON_SHOCK * draw("shock").standard_normal((total, 1)), noise.standard_normal((total, items))
    rate = np.exp(expected + regime + common + shock + ITEM_NOISE * own_noise) * np.where(stock_out, STOCK_OUT_LEFT, 1)
    demand = draw("demand").poisson(np.round(rate, 6)).astype(np.float64)
    wrong, luck = draw("outliers").random((total, items)), draw("missing").random((total, items, 3))
    demand[wrong < OUTLIERS] *= OUTLIER_FACTOR
    demand[luck[:, :, 0] < NO_TARGET] = np.nan
    started = _started(items, total, draw("late"))
    return Truth(
        first=first,
        items=tuple(f"item-{number:03d}" for number in range(1, items + 1)),
        categories=tuple(CATEGORIES[place] for place in category),
        expected=expected,
        item_regime=regime,
        common_regime=common[:, 0],
        started=started,
        demand=demand,
        stock_out=stock_out.astype(np.float64),
        price=np.where(luck[:, :, 2] < NO_PRICE, np.nan, price),
        promotion=promotion.astype(np.float64),
        recorded=started & (luck[:, :, 1] >= NO_RECORD),
    )


def holidays_of(first: date, days: int) -> tuple[np.ndarray, np.ndarray]:
    """Whether each day is a public holiday in COUNTRY, and whether it is the day before one; bool [days] each."""
    import holidays
    import numpy as np

    years = range(first.year, (first + timedelta(days=days)).year + 1)
    free = set(holidays.country_holidays(COUNTRY, years=years))
    there = np.array([first + timedelta(days=number) in free for number in range(days + 1)])
    return there[:-1], there[1:] & ~there[:-1]


def _stream(seed: int, name: str) -> np.random.Generator:
    """A generator of its own for each ingredient, so that one changes no other."""
    import zlib

    import numpy as np

    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, zlib.crc32(name.encode())])))


def _levels(items: int, draw: np.random.Generator) -> np.ndarray:
    import numpy as np

    low, high = np.log(LEVEL)
    level = np.exp((low + high) / 2 + (high - low) / 4 * np.clip(draw.standard_normal(items), -2, 2))
    least, most = np.log(INTERMITTENT_LEVEL)
    rare = draw.uniform(least, most, items)
    return np.where(np.arange(items) % INTERMITTENT_EVERY == INTERMITTENT_EVERY - 1, np.exp(rare), level)


def _calendar(
    items: int, category: np.ndarray, first: date, total: int, draw: np.random.Generator
) -> np.ndarray:  # fmt: skip
    """Log effects of weekday, season, holidays and Christmas, [days, items]."""
    import numpy as np

    dates = [first + timedelta(days=number) for number in range(total)]
    weekday = np.array([day.weekday() for day in dates])
    turn = 2 * np.pi * np.array([day.timetuple().tm_yday for day in dates]) / 365.25
    waves = np.stack([np.sin(turn), np.cos(turn), np.sin(2 * turn), np.cos(2 * turn)], axis=1)
    week = np.array(WEEK)[category] + WEEK_SD * draw.standard_normal((items, 7))
    year = np.array(YEAR)[category] + YEAR_SD * draw.standard_normal((items, 4))
    holiday, before = holidays_of(first, total)
    away = np.array([(day - date(day.year, *CHRISTMAS_PEAK)).days for day in dates])
    rise = np.exp(-((away / CHRISTMAS_DAYS) ** 2) / 2)
    return (
        week.T[weekday]
        + waves @ year.T
        + holiday[:, None] * np.array(HOLIDAY)[category]
        + before[:, None] * np.array(BEFORE_HOLIDAY)[category]
        + rise[:, None] * np.array(CHRISTMAS)[category]
    )


def _promotions(items: int, first: date, total: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Whether an item is promoted, bool [days, items], and the share that its price is cut by."""
    import numpy as np

    discount = np.zeros((total, items))
    luck = _stream(seed, "promotions").random((total, items, 2))
    cut = np.array(DISCOUNTS)[(luck[:, :, 1] * len(DISCOUNTS)).astype(int)]
    for day, item in zip(*np.nonzero(luck[:, :, 0] < PROMOTION_STARTS), strict=True):
        discount[day : day + PROMOTION_DAYS, item] = cut[day, item]
    for year in range(first.year, (first + timedelta(days=total)).year + 1):
        draw = _stream(seed, f"campaigns of {year}")
        begin = [date(year, *place).toordinal() for place in CAMPAIGNS]
        begin = [day + int(draw.integers(-CAMPAIGN_JITTER, CAMPAIGN_JITTER + 1)) for day in begin]
        begin += [date(year, 1, 1).toordinal() + int(draw.integers(0, 350)) for _ in range(RANDOM_CAMPAIGNS)]
        for ordinal in begin:
            length, percent = int(draw.integers(*CAMPAIGN_DAYS)), draw.choice(DISCOUNTS)
            joins = draw.random(items) < CAMPAIGN_SHARE
            start = ordinal - first.toordinal()
            discount[max(start, 0) : max(start + length, 0), joins] = percent
    return discount > 0, discount


def _prices(items: int, total: int, discount: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """Euros and cents, [days, items]: steps now and then, less the discount."""
    import numpy as np

    least, most = np.log(PRICE)
    usual = np.exp(draw.uniform(least, most, items))
    luck, (low, high) = draw.random((total, items, 2)), PRICE_STEP
    steps = np.where(luck[:, :, 0] < PRICE_CHANGES, low + (high - low) * luck[:, :, 1], 0.0)
    return np.round(usual * np.exp(np.cumsum(steps, axis=0)) * (1 - discount), 2)


def _regime(total: int, items: int, about: tuple[float, float], draw: np.random.Generator) -> np.ndarray:
    import numpy as np

    spread, memory = about
    keep = np.exp(-1 / memory)
    values = spread * draw.standard_normal((total, items))
    for day in range(1, total):
        values[day] = keep * values[day - 1] + np.sqrt(1 - keep**2) * values[day]
    return values


def _stock_outs(total: int, items: int, draw: np.random.Generator) -> np.ndarray:
    import numpy as np

    chance = draw.random((total, items))
    out = np.zeros((total, items), bool)
    for day in range(1, total):
        out[day] = chance[day] < np.where(out[day - 1], STOCK_OUT_STAYS, STOCK_OUT_STARTS)
    return out


def _started(items: int, total: int, draw: np.random.Generator) -> np.ndarray:
    """Whether an item is in the assortment, bool [days, items]."""
    import numpy as np

    enters = np.where(np.arange(items) % LATE_EVERY == LATE_EVERY - 1, draw.integers(400, 700, items), 0)
    return np.arange(total)[:, None] >= enters
