"""`dlp ab simulate`: what the rules of live experiments would do with imagined challengers, before a real one comes."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dl_pipelines.cli.frame import HomeOption, JsonOption, brief_of, command, home_of, output

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

HARMS = {"errors": 0.2, "latency": 200.0, "accuracy": 0.03}
"""What `--harm` does to the challenger, and how much when no `--size` is given: share, milliseconds, share."""


@command
def simulate(
    project: Annotated[
        str | None, typer.Argument(help="Whose rules to go by; default: those of an empty brief")
    ] = None,
    runs: Annotated[int, typer.Option(min=1, help="Rollouts")] = 1000,
    alike: Annotated[bool, typer.Option("--aa", help="The challenger is as good as the champion")] = False,
    effect: Annotated[float | None, typer.Option(help="The challenger's accuracy less the champion's")] = None,
    harm: Annotated[str | None, typer.Option(help=f"A harmful challenger: {', '.join(HARMS)}")] = None,
    size: Annotated[float | None, typer.Option(help="Of the harm: share of failures, added ms, lost accuracy")] = None,
    accuracy: Annotated[float, typer.Option(help="The champion's")] = 0.97,
    correlation: Annotated[float, typer.Option(help="Of the two models' mistakes")] = 0.5,
    failures: Annotated[float, typer.Option(help="Share of requests on which the champion fails")] = 0.001,
    latency: Annotated[float, typer.Option(help="Median of an answer's time, ms")] = 20,
    spread: Annotated[float, typer.Option(help="Standard deviation of that time's logarithm")] = 0.4,
    batch: Annotated[int, typer.Option(min=1, help="Requests between two looks")] = 50,
    label_delay: Annotated[int, typer.Option(min=0, help="Requests until a label comes")] = 0,
    rate: Annotated[float, typer.Option(help="Requests a second: a slow shadow is shown a part; 0: it keeps up")] = 0,
    max_units: Annotated[int | None, typer.Option(min=100, help="In place of the rules' own")] = None,
    margin: Annotated[float | None, typer.Option(min=0, help="In place of lifecycle.margin")] = None,
    processes: Annotated[int | None, typer.Option(min=1, help="Default: one a core")] = None,
    seed: Annotated[int, typer.Option(help="The same seed gives the same runs")] = 0,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run whole rollouts on imagined traffic through the decision itself, and count what it gets wrong."""
    from dl_pipelines.brief.live import Lifecycle, Router
    from dl_pipelines.cli.screen import console
    from dl_pipelines.lifecycle.imagined import Scenario
    from dl_pipelines.lifecycle.simulate import simulate as run
    from dl_pipelines.lifecycle.simulate import summary

    with output(as_json) as put:
        brief = brief_of(home_of(home), project) if project else None
        lifecycle, router = (brief.lifecycle, brief.serving.router) if brief else (Lifecycle(), Router())
        scenario = Scenario(
            accuracy=accuracy, correlation=correlation, failures=failures, median_ms=latency, spread=spread,
            batch=batch, label_delay=label_delay, timeout_ms=router.timeout_ms, breaker=router.breaker, rate=rate,
            **_difference(alike, effect, harm, size),
        )  # fmt: skip
        rules = lifecycle.rollout.model_copy(update={"max_units": max_units} if max_units else {})
        allowed = lifecycle.margin if margin is None else margin
        with _progress(console(), runs) as done:
            found = run(scenario, rules, allowed, runs, seed, processes or os.cpu_count() or 1, done)
        told = {**summary(found, scenario, rules, allowed), "seed": seed}
        if not as_json:
            console(False).print(_table(told))
        put(told)


def _difference(alike: bool, effect: float | None, harm: str | None, size: float | None) -> dict[str, float]:
    """What is different about the challenger. Raises ValueError."""
    given = [name for name, found in (("--aa", alike), ("--effect", effect is not None), ("--harm", harm)) if found]
    if len(given) != 1:
        raise ValueError(f"found {' and '.join(given) or 'none'}; expected one of --aa, --effect, --harm")
    if harm is None:
        if size is not None:
            raise ValueError("found --size without --harm; expected --harm with it")
        return {"effect": effect or 0.0}
    if harm not in HARMS:
        raise ValueError(f"found --harm {harm}; expected one of {', '.join(HARMS)}")
    amount = HARMS[harm] if size is None else size
    if amount <= 0:
        raise ValueError(f"found --size {amount:g}; expected above 0")
    return {"errors": {"more_failures": amount}, "latency": {"added_ms": amount}, "accuracy": {"effect": -amount}}[harm]


@contextlib.contextmanager
def _progress(screen: Console, runs: int) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal, else a line for every tenth part."""
    from rich.progress import Progress

    with Progress(console=screen, disable=not screen.is_terminal) as bars:
        bar, said = bars.add_task("rollouts", total=runs), [0]

        def done(count: int) -> None:
            bars.update(bar, completed=count)
            if not screen.is_terminal and count * 10 // runs > said[0]:
                said[0] = count * 10 // runs
                screen.print(f"  {count}/{runs} rollouts", style="dim", markup=False)

        yield done


def _table(told: Mapping[str, Any]) -> Table:
    from rich.table import Table

    table = Table(title=f"{told['runs']} imagined rollouts, seed {told['seed']}; bounds: 95 % each")
    for name in ("", "figure"):
        table.add_column(name)
    table.add_row("how they ended", ", ".join(f"{count} {name}" for name, count in told["actions"].items()))
    for name in ("false_promotions", "power", "detected", "false_rollbacks", "false_mismatches"):
        if rate := told[name]:
            text = f"{rate['count']}: {rate['rate']:.2%} [{rate['lower_95']:.3%}, {rate['upper_95']:.3%}]"
            table.add_row(name.replace("_", " "), text)
    for name in ("requests_until_rollback", "bad_answers_before_rollback", "requests_until_the_end"):
        if spread := told[name]:
            text = f"median {spread['median']:g}, 95 % by {spread['p95']:g}, at most {spread['max']:g}"
            table.add_row(name.replace("_", " "), text)
    return table
