"""A brief of eight days of digits, its home, and an instance of Dagster in memory that materialisations are put on."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml
from dagster._utils.warnings import disable_dagster_warnings

from assets.stage import key_of
from dl_pipelines import catalog
from dl_pipelines.brief import Brief
from dl_pipelines.store.artifacts import Gate
from dl_pipelines.store.home import Home
from dl_pipelines.store.workspace import Partition, Workspace
from resources import results
from resources.workspaces import RESOURCE, WorkspaceResource

ROOT = Path(__file__).parent.parent.parent
NEWEST = date(2026, 1, 8)
"""The last day of arrivals."""


def day(number: int, experiment: str | None = None) -> Partition:
    return Partition(date(2026, 1, number), experiment)


def changed(**sections: dict[str, Any]) -> Brief:
    """The demo's brief with other fields."""
    data = yaml.safe_load((ROOT / "briefs" / "digits.yaml").read_text())
    for name, fields in sections.items():
        data[name] = {**data.get(name, {}), **fields}
    return catalog.read_brief(yaml.safe_dump(data), "digits.yaml")


@pytest.fixture(scope="session")
def brief() -> Brief:
    return changed()


@pytest.fixture(scope="session")
def make_brief():
    return changed


@pytest.fixture
def workspace(tmp_path, brief, monkeypatch) -> Workspace:
    monkeypatch.delenv("DLP_DATABASE_URL", raising=False)
    return Workspace(Home(tmp_path / "home").prepare(), brief.project)


@pytest.fixture(scope="session", autouse=True)
def as_definitions_are_built() -> Iterator[None]:
    """Jobs are defined where Dagster's own deprecations are silent, as in definitions.py."""
    with disable_dagster_warnings():
        yield


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as found:
        yield found


@pytest.fixture
def tick(workspace, instance):
    """A function: one evaluation of a sensor, as the daemon does it."""

    def do(sensor: dg.SensorDefinition, cursor: str | None = None) -> Any:
        context = dg.build_sensor_context(
            instance=instance, cursor=cursor, resources={RESOURCE: WorkspaceResource(home=str(workspace.home.root))}
        )
        return sensor(context)

    return do


def put(workspace: Workspace, stage: str, partition: Partition, content: Any = None, made: int = 0):
    """An artifact with `report.json`; another `made` gives another digest."""

    def build(draft):
        draft.write_json("report.json", content)
        draft.gate(Gate("made", True, "by a test", blocking=True))

    return workspace.make(stage, partition, build, settings={"made": made}, parents={})


def materialise(instance: dg.DagsterInstance, brief: Brief, artifact, partition: Partition) -> None:
    """Record an artifact as an asset of the brief does."""

    @dg.asset(
        key=key_of(brief, artifact.stage),
        partitions_def=dg.StaticPartitionsDefinition([partition.key]),
    )
    def stage():
        return dg.MaterializeResult(metadata=results.metadata(artifact), data_version=results.data_version([artifact]))

    assert dg.materialize([stage], instance=instance, partition_key=partition.key).success
