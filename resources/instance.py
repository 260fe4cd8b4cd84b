"""Dagster's own storage in the home: SQLite, or the Postgres of `DLP_DATABASE_URL`; one run and one training at a time.

Our tables are apart from Dagster's (schema `dlp`, see store/); only the server is shared.
"""

import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import dagster as dg
import yaml
from dagster._core.instance.ref import InstanceRef
from dagster._core.storage.dagster_run import FINISHED_STATUSES

from dl_pipelines.store import durable
from dl_pipelines.store.database import Database
from dl_pipelines.store.home import DATABASE_URL, Home
from resources.events import BATCH, event_log

DAGSTER_URL = "DLP_DAGSTER_DATABASE_URL"
"""Set by us for Dagster, which reads it by name: the URL with its password is never written to a file."""

POOL = "machine"
"""Every stage that computes takes it: one training a machine, nothing beside a measurement of latency."""

_SILENT = {
    "compute_logs": {"module": "dagster._core.storage.noop_compute_log_manager", "class": "NoOpComputeLogManager"}
}
"""Dagster's capture turns this process's own stdout into a file: not while the terminal shows progress."""


def on_postgres() -> bool:
    """Whether Dagster's storage is Postgres; otherwise it is SQLite in the home."""
    return os.environ.get(DATABASE_URL, "").startswith("postgres")


def dagster_url() -> str:
    """The Postgres URL for Dagster. Its tables go to `public`, also for a user whose name is that of our schema."""
    import sqlalchemy as sa

    from dl_pipelines.store.tables import SCHEMA

    url = sa.make_url(Database(os.environ[DATABASE_URL]).url)
    if url.username == SCHEMA and "options" not in url.query:
        # Postgres looks into the schema called as the user first: Dagster would lose sight of tables it made before.
        url = url.update_query_dict({"options": "-csearch_path=public"})
    return url.render_as_string(hide_password=False)


def settings() -> dict[str, Any]:
    """`dagster.yaml`: what is the same for every command and for the UI."""
    plain: dict[str, Any] = {
        "telemetry": {"enabled": False},
        "nux": {"enabled": False},  # no invitation to a newsletter over the graph
        # A run that was killed keeps the slot of its pool, and every later step waits: the daemon gives it back.
        "run_monitoring": {"enabled": True, "poll_interval_seconds": 15, "free_slots_after_run_end_seconds": 15},
        "concurrency": {"runs": {"max_concurrent_runs": 1}, "pools": {"default_limit": 1, "granularity": "op"}},
    }
    if on_postgres():
        plain["storage"] = {"postgres": {"postgres_url": {"env": DAGSTER_URL}}}
    return plain


def prepare(home: Home) -> Home:
    """Write `dagster.yaml` where it differs and set what Dagster reads from the environment.

    Raises ValueError when the home can't be written, DatabaseError when Postgres can't be used: Dagster would try for
    20 seconds and then say less.
    """
    home.prepare()
    if on_postgres():
        with closing(Database.of(home)) as database, database.begin():
            pass  # it answers, and has our tables
    path, text = home.dagster / "dagster.yaml", yaml.safe_dump(settings(), sort_keys=True)
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        durable.write_text(path, text)
    os.environ.update(BATCH, DAGSTER_HOME=str(home.dagster))
    if on_postgres():
        os.environ[DAGSTER_URL] = dagster_url()
    return home


@contextmanager
def open_instance(home: Home) -> Iterator[dg.DagsterInstance]:
    """The persistent instance of a home, for runs in this process. Raises as `prepare` does."""
    prepare(home)
    overrides = _SILENT if on_postgres() else {**_SILENT, **event_log(home.dagster)}
    with dg.DagsterInstance.from_ref(InstanceRef.from_dir(str(home.dagster), overrides=overrides)) as instance:
        free_slots(instance)
        yield instance


def free_slots(instance: dg.DagsterInstance) -> list[str]:
    """Give back the slots of runs that have ended, as the daemon does where one runs; the runs' ids."""
    storage = instance.event_log_storage
    held = list(storage.get_concurrency_run_ids())
    ended = instance.get_runs(filters=dg.RunsFilter(run_ids=held, statuses=list(FINISHED_STATUSES))) if held else []
    for run in ended:
        storage.free_concurrency_slots_for_run(run.run_id)
    return [run.run_id for run in ended]
