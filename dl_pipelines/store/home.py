"""Where things live on disk: the one place that names the folders of a home (`DLP_HOME`, default `.dlp/`)."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

DATABASE_URL = "DLP_DATABASE_URL"


@dataclass(frozen=True)
class Home:
    """The folders of one home. Creating the object creates nothing; `prepare` does."""

    root: Path

    @classmethod
    def find(cls, given: Path | str | None = None) -> Home:
        """The home that was given, else `DLP_HOME`, else `.dlp` in the working directory."""
        return cls(Path(given or os.environ.get("DLP_HOME") or ".dlp").expanduser().resolve())

    def prepare(self) -> Home:
        """Create the folders. Raises ValueError when the place can't be written."""
        try:
            for folder in (self.artifacts, self.briefs, self.reports, self.dagster, self.logs, self.work):
                folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(
                f"found {error.strerror or error} at {self.root}; expected a folder that can be written; "
                "give another with --home or DLP_HOME"
            ) from error
        return self

    @property
    def artifacts(self) -> Path:
        """Finished artifacts: `<project>/<stage>/<digest>/`."""
        return self.root / "artifacts"

    @property
    def index(self) -> Path:
        """Pointers from partitions and keys to artifacts: small JSON files."""
        return self.root / "index"

    @property
    def work(self) -> Path:
        """Unfinished work that a second try resumes (checkpoints)."""
        return self.root / "work"

    @property
    def cache(self) -> Path:
        """What can be made again at any time: `<project>/rows/`."""
        return self.root / "cache"

    @property
    def locks(self) -> Path:
        """Lock files."""
        return self.root / "locks"

    @property
    def briefs(self) -> Path:
        """Snapshots of the briefs that were run, one YAML a project."""
        return self.root / "briefs"

    @property
    def experiments(self) -> Path:
        """Overrides by experiment: `<project>/<experiment>.json`."""
        return self.root / "experiments"

    @property
    def repository(self) -> Path:
        """The live Triton model repository."""
        return self.root / "repository"

    @property
    def server(self) -> Path:
        """State of the supervised Triton server: ports, process id, log, routing tables."""
        return self.root / "server"

    @property
    def predictions(self) -> Path:
        """Prediction logs as the routers write them: `<project>/`."""
        return self.root / "predictions"

    @property
    def identity(self) -> Path:
        """What tells this home from others that use the same database."""
        return self.root / "home.id"

    @property
    def label_key(self) -> Path:
        """The key without which nobody labels predictions."""
        return self.root / "label.key"

    @property
    def reports(self) -> Path:
        """Rendered reports: `<project>/<partition>/`."""
        return self.root / "reports"

    @property
    def bundles(self) -> Path:
        """Bundles, where no other place is given: `<project>/<partition>/<target>/`."""
        return self.root / "bundles"

    @property
    def docs(self) -> Path:
        """Great Expectations' Data Docs and Evidently's pages: `<project>/`."""
        return self.root / "docs"

    @property
    def dagster(self) -> Path:
        """`DAGSTER_HOME`."""
        return self.root / "dagster"

    @property
    def logs(self) -> Path:
        """Logs of subprocesses."""
        return self.root / "logs"

    @property
    def studies(self) -> Path:
        """Optuna's database, where none is given by `DLP_DATABASE_URL`."""
        return self.root / "optuna.sqlite"

    @property
    def database_url(self) -> str:
        """SQLAlchemy URL: `DLP_DATABASE_URL`, else a SQLite file in the home."""
        return os.environ.get(DATABASE_URL) or f"sqlite:///{self.root / 'dlp.sqlite'}"
