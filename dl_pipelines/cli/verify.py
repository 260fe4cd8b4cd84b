"""What `dlp verify` does and shows: the parity chain of a project's compressed model, with a fault put in on demand."""

from __future__ import annotations

import tempfile
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, cast

from rich.table import Table

from dl_pipelines.cli.partition import find_partition
from dl_pipelines.cli.screen import plain_table
from dl_pipelines.store.home import Home
from dl_pipelines.store.workspace import Workspace

if TYPE_CHECKING:
    from dl_pipelines.brief import Brief
    from dl_pipelines.compression.verify import Verified
    from dl_pipelines.inference.faults import Fault
    from dl_pipelines.inference.parity_chain import Link, LinkName

COLUMNS = ("link", "largest", "mean", "agreement", "off by", "at most", "holds")
"""Differences to the link before, absolute; share of equal decisions; the same in units of the answers' size."""


def verify(
    home: Home, brief: Brief, day: date | None, experiment: str, fault: str | None, at: str | None
) -> Verified:  # fmt: skip
    """The chain; a fault goes `at` the first link when no other is named.

    Raises ValueError (wrong arguments, or nowhere to put that fault) and ArtifactError.
    """
    from dl_pipelines import catalog
    from dl_pipelines.compression.verify import verify_compressed
    from dl_pipelines.inference.faults import FAULTS, FaultError
    from dl_pipelines.inference.parity_chain import LINKS

    if fault is not None and fault not in FAULTS:
        raise ValueError(f"found --inject {fault!r}; expected one of {', '.join(FAULTS)}")
    if at is not None and at not in LINKS:
        raise ValueError(f"found --at {at!r}; expected one of {', '.join(LINKS)}")
    if at is not None and fault is None:
        raise ValueError(f"found --at {at} without --inject; expected the fault that goes there; give --inject too")
    brief = catalog.brief_of(home, brief, experiment)
    workspace = Workspace(home, brief.project)
    partition = find_partition(workspace, day, experiment)
    with tempfile.TemporaryDirectory(prefix="dlp-verify-") as work:
        try:
            return verify_compressed(
                workspace, partition, catalog.task_of(brief), brief.data, Path(work), brief.serving.threads,
                cast("Fault | None", fault), cast("LinkName", at or LINKS[0]),
            )  # fmt: skip
        except FaultError as error:
            raise ValueError(str(error)) from error


def table(found: Verified, project: str) -> Table:
    """One line a link."""
    rows = f"{found.links[0].rows} validation rows"
    title = f"{project} {found.partition.key}, compressed_model {found.artifact.short}, {rows}"
    return plain_table(title, COLUMNS, [_line(link) for link in found.links])


def told(found: Verified) -> list[str]:
    """What was injected, and whether and where the chain breaks."""
    lines, broken = [], found.broken
    if found.injected:
        moved = f"{found.injected.moved:.3g} of their size"
        lines.append(
            f"injected {found.injected.fault} at {found.at}: {found.injected.told}; it moves answers by {moved}"
        )
    if broken is None:
        noticed = ": the fault was not noticed" if found.injected else ""
        served = found.links[-1]
        judged = f"; noise not judged: {served.not_judged}" if served.not_judged else ""
        return [*lines, f"the chain holds from torch to {served.what}{noticed}{judged}"]
    return [*lines, f"the chain breaks at {broken.name}, between {broken.before} and {broken.what}: {broken.told()}"]


def _line(link: Link) -> tuple[str, ...]:
    def number(value: float | None, told: str = ".2e") -> str:
        return "" if value is None else f"{value:{told}}"

    return (
        link.name, number(link.max_difference), number(link.mean_difference),
        f"{link.agreement:.2%}", number(link.noise, ".3g"), number(link.limit, ".3g"), "yes" if link.passed else "NO",
    )  # fmt: skip
