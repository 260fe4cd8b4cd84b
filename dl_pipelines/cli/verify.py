"""What `dlp verify` does and shows: the parity chain of a project's compressed model, with a fault put in on demand."""

from __future__ import annotations

import tempfile
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, cast

from rich.table import Table

from dl_pipelines.cli.screen import plain_table
from dl_pipelines.store.home import Home
from dl_pipelines.store.workspace import Partition, Workspace

if TYPE_CHECKING:
    from dl_pipelines.brief import Brief
    from dl_pipelines.compression.verify import Verified
    from dl_pipelines.inference.faults import Fault
    from dl_pipelines.inference.parity_chain import Link, LinkName

COLUMNS = ("link", "largest", "mean", "agreement", "off by", "at most", "holds")
"""Differences to the link before, absolute; share of equal decisions; the same in units of the answers' size."""


def find_partition(workspace: Workspace, day: date | None, experiment: str) -> Partition:
    """Of that day, else what serves (of that experiment), else the newest. Raises ValueError when there is none."""
    from dl_pipelines.serving.champion import champion

    known = [item for item in workspace.partitions("compressed_model") if item.experiment == experiment]
    serves = champion(workspace)
    if day is not None:
        found = next((item for item in known if item.day == day), None)
    else:
        newest = known[-1] if known else None
        found = next((item for item in known if serves and item.key == serves.partition), newest)
    if found is None:
        told = ", ".join(str(item.day) for item in known) or "none yet"
        raise ValueError(
            f"found no compressed model of {workspace.project} for {day or 'any day'} and {experiment}; expected one "
            f"of {told}; run `dlp run` for its brief"
        )
    return found


def verify(home: Home, brief: Brief, day: date | None, experiment: str, fault: str | None, at: str) -> Verified:
    """The chain. Raises ValueError (wrong arguments, or nowhere to put that fault) and ArtifactError."""
    from dl_pipelines import catalog
    from dl_pipelines.compression.verify import verify_compressed
    from dl_pipelines.inference.faults import FAULTS, FaultError
    from dl_pipelines.inference.parity_chain import LINKS

    if fault is not None and fault not in FAULTS:
        raise ValueError(f"found --inject {fault!r}; expected one of {', '.join(FAULTS)}")
    if at not in LINKS:
        raise ValueError(f"found --at {at!r}; expected one of {', '.join(LINKS)}")
    workspace = Workspace(home, brief.project)
    partition = find_partition(workspace, day, experiment)
    with tempfile.TemporaryDirectory(prefix="dlp-verify-") as work:
        try:
            return verify_compressed(
                workspace, partition, catalog.task_of(brief), brief.data, Path(work), brief.serving.threads,
                cast("Fault | None", fault), cast("LinkName", at),
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
        return [*lines, f"the chain holds from torch to {found.links[-1].what}{noticed}"]
    return [*lines, f"the chain breaks at {broken.name}, between {broken.before} and {broken.what}: {broken.told()}"]


def _line(link: Link) -> tuple[str, ...]:
    def number(value: float | None, told: str = ".2e") -> str:
        return "" if value is None else f"{value:{told}}"

    return (
        link.name, number(link.max_difference), number(link.mean_difference),
        f"{link.agreement:.2%}", number(link.noise, ".3g"), number(link.limit, ".3g"), "yes" if link.passed else "NO",
    )  # fmt: skip
