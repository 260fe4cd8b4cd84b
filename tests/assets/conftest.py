"""A little brief whose three days of digits take seconds, and its assets run in this process on a home of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from assets.stage import key_of
from dl_pipelines import catalog
from dl_pipelines.brief import Brief
from dl_pipelines.cli.run import Line, line
from dl_pipelines.store.artifacts import Artifact
from dl_pipelines.store.home import Home
from dl_pipelines.store.workspace import Partition, Workspace
from resources.workspaces import Finished, Nobody
from sensors.jobs import RANGE

if TYPE_CHECKING:
    from dagster import ExecuteInProcessResult

DATA = ("raw_data", "validated_data", "augmented_dataset")
ARRIVALS = {"name": "digits", "params": {"first_records": 60, "per_day": 20, "live_records": 1697}}


@pytest.fixture(scope="session")
def little() -> Callable[..., Brief]:
    """A function: a brief of three days of digits (60 records, then 20 a day); `data` replaces its fields."""

    def make(**data: Any) -> Brief:
        task = {"name": "image_classification", "params": {"classes": list(range(10))}}
        given = {"project": "little", "problem": {"task": task}, "data": {"source": ARRIVALS, **data}}
        return catalog.read_brief(yaml.safe_dump(given), "little.yaml")

    return make


@dataclass
class Runner:
    """A brief's assets, run in this process on the home's persistent instance. `ends` is how partitions ended."""

    line: Line
    ends: list[Finished]

    def run(self, stages: Sequence[str], first: str, last: str | None = None, **tags: str) -> ExecuteInProcessResult:
        """Stages for one partition, or for a range of days in one run."""
        within = dict(zip(RANGE, (first, last), strict=True)) if last else {}
        return self.line.job.execute_in_process(
            instance=self.line.instance,
            asset_selection=[key_of(self.line.brief, stage) for stage in stages],
            partition_key=None if last else first,
            raise_on_error=False,
            run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
            tags={**within, **tags},
        )

    def artifact(self, stage: str, partition: str) -> Artifact:
        """What the partition's artifact is now."""
        return Workspace(self.line.home, self.line.brief.project).get(stage, Partition.parse(partition))


@contextmanager
def runner(folder: Path, brief: Brief) -> Iterator[Runner]:
    """The assets of a brief on the home in `folder`; what this puts into the environment is taken back."""
    ends: list[Finished] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("DLP_DATABASE_URL", raising=False)
        patch.setenv("DAGSTER_HOME", str(folder))
        with line(Home(folder).prepare(), brief, Nobody(), ends, keep=False) as opened:
            yield Runner(opened, ends)


@pytest.fixture(scope="module")
def three_days(tmp_path_factory: pytest.TempPathFactory, little: Callable[..., Brief]) -> Iterator[Runner]:
    """A home in which the first stages have run, in one run from the first day to two days after the last records."""
    with runner(tmp_path_factory.mktemp("home"), little()) as found:
        assert found.run(DATA, "2026-01-01", "2026-01-05").success
        yield found
