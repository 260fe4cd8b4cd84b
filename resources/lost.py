"""Runs whose process was killed: Dagster would leave them as started for ever, and the one place of its queue taken.

A run carries the process that it is in as tags, so that anyone can see whether that is still there.
"""

import os

import dagster as dg

from dl_pipelines.serving.process import birth
from resources.machine import free_finished

PID, BORN = "dlp/pid", "dlp/born"
_OPEN = [dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.NOT_STARTED]


def process_tags() -> dict[str, str]:
    """This process, as tags of a run in it."""
    pid = os.getpid()
    return {PID: str(pid), BORN: birth(pid) or ""}


def mark(instance: dg.DagsterInstance, run: dg.DagsterRun) -> None:
    """Say that a run is in this process, unless whoever made it has."""
    if PID not in run.tags:
        instance.add_run_tags(run.run_id, process_tags())


def reap(instance: dg.DagsterInstance) -> list[str]:
    """Mark runs as failed whose process is gone, and give the machine back; their ids."""
    gone = []
    for run in instance.get_runs(filters=dg.RunsFilter(statuses=_OPEN)):
        pid, born = run.tags.get(PID), run.tags.get(BORN)
        # Runs in this process come one after the other: one that is still open could not write its own end.
        if pid and (int(pid) == os.getpid() or birth(int(pid)) != born):
            instance.report_run_failed(run, f"its process {pid} is gone")
            gone.append(run.run_id)
    free_finished(instance)
    return gone
