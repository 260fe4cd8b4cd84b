"""The whole line on a small slice: two Horovod workers, a real Triton, a real daemon that retrains once for drift."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import dagster as dg
import psutil
import pytest

from dl_pipelines import catalog
from dl_pipelines.brief import Brief
from dl_pipelines.cli.run import STAGES, Ran, line, retraining
from dl_pipelines.cli.ui import prepare_ui
from dl_pipelines.definitions import BRIEFS
from dl_pipelines.serving.champion import champion
from dl_pipelines.serving.server import TritonServer
from dl_pipelines.store.database import Database
from dl_pipelines.store.home import Home
from dl_pipelines.store.tables import promotion_evidence, retraining_requests, served_ledger
from dl_pipelines.store.workspace import Partition, Workspace
from dl_pipelines.tasks.image_classification import ImageClassification
from resources.instance import open_instance
from resources.workspaces import RESOURCE, Nobody, Workspaces
from sensors.drift import drift_sensor
from sensors.jobs import PROJECT, RETRAIN, daily_job
from tests.small import small, write

ROOT = Path(__file__).resolve().parent.parent
HAS = sorted(stage for stage in STAGES if stage not in ImageClassification.not_applicable)
FIRST, NEWEST = Partition(date(2026, 1, 1), "base"), Partition(date(2026, 1, 2), "base")
BRIEF = small(
    data={"source": {"name": "digits", "params": {"first_records": 900, "per_day": 600, "live_records": 297}}},
    distributed={"communicator": "horovod", "workers": 2},
    compression={"techniques": ["static_int8"]},
    lifecycle={"promotion": "manual"},
)
"""Two days of arrivals. The daemon promotes nothing: what it does in the test's time is the retraining alone."""
PATIENCE = 240.0
"""Seconds for the daemon's two runs; they take 60 on an idle machine."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(420)]


@dataclass(frozen=True)
class Through:
    """A home that the line has gone through, and what it came to."""

    home: Home
    brief: Brief
    folder: Path
    ran: Ran

    @property
    def workspace(self) -> Workspace:
        """Its only project's."""
        return Workspace(self.home, self.brief.project)

    def rows(self, table):
        """Of one of our tables."""
        with contextlib.closing(Database.of(self.home)) as database:
            return database.rows(table, project=self.brief.project)


@pytest.fixture(scope="module")
def through(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Through]:
    """The line of the first day, as `dlp run` runs it."""
    place, before = tmp_path_factory.mktemp("end_to_end"), dict(os.environ)
    home, path = Home(place / "home").prepare(), write(place / "briefs", BRIEF)
    os.environ["DLP_HOME"] = str(home.root)
    brief = catalog.load_brief(path)
    try:
        with line(home, brief, Nobody(), [], False) as ready:
            ran = ready.run(FIRST.day)
        yield Through(home, brief, path.parent, ran)
    finally:
        os.environ.clear()
        os.environ.update(before)


def test_every_stage_is_made_and_the_report_is_complete(through):
    ran = through.ran
    assert ran.failures == []
    assert sorted(end.stage for end in ran.stages) == HAS and len(HAS) == 17
    assert all(end.made and end.artifact is not None for end in ran.stages)
    gates = {(end.stage, gate.name): gate.passed for end in ran.stages for gate in end.artifact.gates if gate.blocking}
    assert ("implementation_report", "complete") in gates and set(gates.values()) == {True}
    assert ran.report.read_json("verdict.json")["verdict"] == "met"
    folder = through.home.reports / "small" / FIRST.slug
    assert {"report.html", "report.md", "report.json"} <= {path.name for path in folder.iterdir()}
    assert "not measured:" in (folder / "report.md").read_text(), "what can't be known yet is said with its reason"


def test_two_horovod_workers_trained_what_triton_serves(through):
    trained = through.workspace.get("trained_model", FIRST)
    assert trained.read_json("model.json")["communicator"] == "horovod"
    assert trained.read_json("model.json")["workers"] == 2 and len(trained.measured["peak_memory_mb"]) == 2
    published = through.workspace.get("triton_repository", FIRST)
    assert champion(through.workspace).model == published.read_json("model.json")["model"]
    latency = published.measured["latency"]
    assert latency["failed"] == 0 and 0 < latency["p50_ms"] <= latency["p95_ms"] <= latency["p99_ms"]
    assert published.measured["parity"]["rows"] > 50
    assert TritonServer(through.home).state() is None, "what the run started has ended"


def test_the_instance_has_the_runs_and_every_blocking_check_passed(through):
    with open_instance(through.home) as instance:
        runs = instance.get_runs()
        assert [run.status for run in runs] == [dg.DagsterRunStatus.SUCCESS] * 3
        assert {run.tags[PROJECT] for run in runs} == {"small"}
        checks = [
            event.dagster_event.event_specific_data
            for run in runs
            for event in instance.all_logs(run.run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION)
        ]
        blocking = {(check.asset_key.path[-1], check.check_name): check.passed for check in checks if check.blocking}
        made = {stage: instance.get_latest_materialization_event(dg.AssetKey(["small", stage])) for stage in HAS}
    assert set(blocking.values()) == {True}
    expected = {(end.stage, gate.name) for end in through.ran.stages for gate in end.artifact.gates if gate.blocking}
    assert set(blocking) == expected
    (shifted,) = (check for check in checks if check.check_name == "drift_shifted")
    assert not shifted.passed and not shifted.blocking and shifted.severity == dg.AssetCheckSeverity.WARN
    assert all(event is not None for event in made.values())


def test_the_calm_window_is_quiet_and_the_shifted_one_alarms(through):
    report = through.workspace.get("drift_report", FIRST).read_json("report.json")
    assert {item["name"]: item["decision"] for item in report["windows"]} == {"calm": "quiet", "shifted": "alarm"}
    assert {item["records"] for item in report["windows"]} == {120}


@contextlib.contextmanager
def daemon(through: Through, log: Path) -> Iterator[psutil.Process]:
    """Dagster's daemon with its code server on that home, as `dlp ui` prepares it; ended by its own process."""
    environment = {**prepare_ui(through.home), BRIEFS: str(through.folder)}
    command = [str(Path(sys.executable).parent / "dagster-daemon"), "run", "-w", "workspace.yaml"]
    with log.open("wb") as sink:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=sink, stderr=sink)
    watched = psutil.Process(process.pid)
    try:
        yield watched
    finally:
        below = watched.children(recursive=True)
        process.terminate()
        process.wait(40)
        _, left = psutil.wait_procs(below, timeout=15)
        for child in left:
            child.kill()
        assert left == [], "the daemon left processes behind"


def wait(watched: psutil.Process, log: Path, met: Callable[[], bool]) -> None:
    """Until it is so."""
    end = time.monotonic() + PATIENCE
    while not met():
        assert watched.is_running() and time.monotonic() < end, log.read_text()[-4000:]
        time.sleep(0.5)


def listening(watched: psutil.Process) -> set[str]:
    """Addresses on which the daemon's processes listen."""
    found: set[str] = set()
    for process in [watched, *watched.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            found |= {item.laddr.ip for item in process.net_connections("tcp") if item.status == psutil.CONN_LISTEN}
    return {address.removeprefix("::ffff:") for address in found}


def test_a_daemon_retrains_once_for_the_drift(through, tmp_path):
    asked, log = retraining(through.home, through.brief, FIRST), tmp_path / "daemon.log"
    assert asked is not None and asked.partition == NEWEST
    with open_instance(through.home) as instance:
        assert instance.get_runs_count() == 3, "asked for, not executed"

        def runs(job: str, *statuses: dg.DagsterRunStatus) -> list[dg.DagsterRun]:
            found = instance.get_runs(dg.RunsFilter(job_name=job))
            assert not any(run.status == dg.DagsterRunStatus.FAILURE for run in found), log.read_text()[-4000:]
            return [run for run in found if not statuses or run.status in statuses]

        def ticks() -> list:
            (state,) = (item for item in instance.all_instigator_state() if item.name == "small_drift")
            return instance.get_ticks(state.instigator_origin_id, state.selector_id)

        with daemon(through, log) as watched:
            wait(watched, log, lambda: bool(runs("small_model", dg.DagsterRunStatus.STARTED)))
            heard = listening(watched)
            wait(watched, log, lambda: bool(runs("small_model", dg.DagsterRunStatus.SUCCESS)))
            wait(watched, log, lambda: len(ticks()) > 1)
        assert heard <= {"127.0.0.1", "::1"}
        (daily,), (model,) = runs("small_daily"), runs("small_model")
        assert daily.tags[RETRAIN] == NEWEST.key and daily.tags["dagster/run_key"] == asked.key
        assert model.tags["dagster/partition"] == NEWEST.key
        found = ticks()
        assert [len(tick.run_ids) for tick in found if tick.run_ids] == [1], "one tick asked, the others did not"
        assert instance.get_runs_count() == 5

        workspaces = Workspaces(through.home)
        context = dg.build_sensor_context(
            instance, cursor=found[0].cursor, resources={RESOURCE: workspaces}, sensor_name="small_drift"
        )
        last = drift_sensor(through.brief, daily_job(through.brief))(context)
    assert getattr(last, "run_requests", None) in (None, []), "the new model's report has no window that alarms"
    through.workspace.get("implementation_report", NEWEST).require_gates()
    assert through.workspace.get("training_window", NEWEST.daily).read_json("window.json")["splits"]["train"] > 700
    (evidence,) = through.rows(promotion_evidence)
    published = through.workspace.get("triton_repository", NEWEST).read_json("model.json")["model"]
    assert (evidence["champion"], evidence["challenger"]) == (champion(through.workspace).model, published)
    assert evidence["low"] <= evidence["difference"] <= evidence["high"] and evidence["rows"] > 100
    assert [row["key"] for row in through.rows(retraining_requests)] == [asked.key]
    assert len(through.rows(served_ledger)) == 2, "the retraining took no traffic"
