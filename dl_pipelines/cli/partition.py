"""Which compressed model a command is about: of a day, else what serves, else the newest. It opens nothing."""

from __future__ import annotations

from datetime import date

from dl_pipelines.store.workspace import Partition, Workspace

STAGE = "compressed_model"


def find_partition(workspace: Workspace, day: date | None, experiment: str) -> Partition:
    """Of that day, else what serves (of that experiment), else the newest. Raises ValueError when there is none."""
    from dl_pipelines.serving.champion import champion

    known = workspace.partitions(STAGE)
    fitting = [item for item in known if item.experiment == experiment and day in (None, item.day)]
    if not fitting:
        raise ValueError(
            f"found no compressed model of {workspace.project} for {day or 'any day'} and {experiment}; expected one "
            f"of {', '.join(item.key for item in known) or 'none yet'}; run `dlp run` for its brief"
        )
    serves = champion(workspace) if day is None else None
    return next((item for item in fitting if serves and item.key == serves.partition), fitting[-1])
