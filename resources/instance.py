"""Dagster's own storage in the home: SQLite, or the Postgres of `DLP_DATABASE_URL`; one run and one training at a time.

Our tables are apart from Dagster's (schema `dlp`, see store/); only the server is shared.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import dagster as dg
import yaml
from dagster._core.instance.ref import InstanceRef

from dl_pipelines.store import durable
from dl_pipelines.store.database import Database
from dl_pipelines.store.home import DATABASE_URL, Home

DAGSTER_URL = "DLP_DAGSTER_DATABASE_URL"
"""Set by us for Dagster, which reads it by name: the URL with its password is never written to a file."""

POOL = "machine"
"""Every stage that computes takes it: one training a machine, nothing beside a measurement of latency."""

_SILENT = {
    "compute_logs": {"module": "dagster._core.storage.noop_compute_log_manager", "class": "NoOpComputeLogManager"}
}
"""Dagster's capture turns this process's own stdout into a file: not while the terminal shows progress."""


def dagster_url() -> str | None:
    """The Postgres URL for Dagster, or None when the home's SQLite is used."""
    url = os.environ.get(DATABASE_URL, "")
    return Database(url).url if url.startswith("postgres") else None


def settings() -> dict[str, Any]:
    """`dagster.yaml`: what is the same for every command and for the UI."""
    plain: dict[str, Any] = {
        "telemetry": {"enabled": False},
        "concurrency": {"runs": {"max_concurrent_runs": 1}, "pools": {"default_limit": 1, "granularity": "op"}},
    }
    if dagster_url():
        plain["storage"] = {"postgres": {"postgres_url": {"env": DAGSTER_URL}}}
    return plain


def prepare(home: Home) -> Home:
    """Write `dagster.yaml` where it differs and set what Dagster reads from the environment."""
    home.prepare()
    path, text = home.dagster / "dagster.yaml", yaml.safe_dump(settings(), sort_keys=True)
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        durable.write_text(path, text)
    os.environ["DAGSTER_HOME"] = str(home.dagster)
    if url := dagster_url():
        os.environ[DAGSTER_URL] = url
    return home


@contextmanager
def open_instance(home: Home) -> Iterator[dg.DagsterInstance]:
    """The persistent instance of a home, for runs in this process."""
    prepare(home)
    with dg.DagsterInstance.from_ref(InstanceRef.from_dir(str(home.dagster), overrides=_SILENT)) as instance:
        yield instance
