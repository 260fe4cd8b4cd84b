"""6. This model against what it has to beat, and against the floor where the data has one."""

from __future__ import annotations

from dl_pipelines.report.cells import Extra
from dl_pipelines.report.collect import Facts


def against(facts: Facts) -> list[Extra]:
    """Nothing yet."""
    return []
