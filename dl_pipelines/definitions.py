"""What Dagster loads: the assets, jobs, schedule and sensors of every brief. Imports nothing heavy.

Briefs are those of `briefs/` (or the folder that `DLP_BRIEFS` names), and the snapshots in the home of projects that
aren't there: a run of any file is seen in the UI with its assets.
"""

import logging
import os
from collections.abc import Iterable
from pathlib import Path

import dagster as dg
from dagster._utils.warnings import disable_dagster_warnings

from assets.project import project_assets
from dl_pipelines import catalog
from dl_pipelines.brief import Brief, BriefError
from dl_pipelines.store.home import Home
from resources.workspaces import RESOURCE, WorkspaceResource
from sensors.daily import retraining_schedule
from sensors.drift import drift_sensor
from sensors.failures import failure_sensor, lost_runs
from sensors.jobs import daily_job, model_job, promotion_job, rollout_job
from sensors.promotion import promotion_sensor
from sensors.rollout import rollout_sensor
from sensors.training import training_sensor

BRIEFS = "DLP_BRIEFS"
ROOT = Path(__file__).resolve().parent.parent


def brief_files(home: Home) -> list[Path]:
    """Brief files first, then the home's snapshots."""
    folder = Path(os.environ.get(BRIEFS) or ROOT / "briefs")
    return [*sorted(folder.glob("*.yaml")), *sorted(home.briefs.glob("*.yaml"))]


def load_briefs(home: Home) -> dict[str, Brief]:
    """Briefs by project. Raises BriefError for a wrong one of the folder; a wrong snapshot is left out with a warning.

    Raises ValueError when two files of the folder have one project.
    """
    briefs: dict[str, Brief] = {}
    files: dict[str, Path] = {}
    for path in brief_files(home):
        snapshot = path.parent == home.briefs
        try:
            brief = catalog.load_brief(path)
        except BriefError as error:
            if not snapshot:
                raise
            logging.getLogger(__name__).warning("the snapshot is left out: %s", error)
            continue
        if brief.project in files and not snapshot:
            raise ValueError(
                f"found the project {brief.project!r} in {files[brief.project]} and {path}; expected one brief a "
                "project; rename the project of one, or move its file away"
            )
        if brief.project not in files:
            briefs[brief.project], files[brief.project] = brief, path
    return briefs


def build_defs(brief: Brief) -> dg.Definitions:
    """Assets, jobs, schedule and sensors of one brief; resources and executor are shared."""
    with disable_dagster_warnings():
        daily, model = daily_job(brief), model_job(brief)
        promotion, rollout = promotion_job(brief), rollout_job(brief)
        return dg.Definitions(
            assets=project_assets(brief),
            jobs=[daily, model, promotion, rollout],
            schedules=[retraining_schedule(brief)],
            sensors=[
                training_sensor(brief, daily, model),
                drift_sensor(brief, daily),
                promotion_sensor(brief, promotion),
                rollout_sensor(brief, rollout),
            ],
        )


def shared_defs(briefs: Iterable[Brief], workspaces: object) -> dg.Definitions:
    """What all briefs share. In one process: a process a step would import the libraries again each time."""
    return dg.Definitions(
        resources={RESOURCE: workspaces},
        executor=dg.in_process_executor,
        sensors=[failure_sensor({brief.project: brief for brief in briefs}), lost_runs],
    )


@dg.definitions
def defs() -> dg.Definitions:
    """Every brief's definitions."""
    briefs = load_briefs(Home.find()).values()
    return dg.Definitions.merge(shared_defs(briefs, WorkspaceResource()), *[build_defs(brief) for brief in briefs])
