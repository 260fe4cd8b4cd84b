"""A process that brings a project's log into the tables again and again, until it is killed, or the soak is gone.

Run as `python -m benchmarks.soak_carrier HOME PROJECT`. A database that is gone for longer than a carrying waits is
waited for.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from dl_pipelines.serving.carry import carry_log
from dl_pipelines.store.database import DatabaseError
from dl_pipelines.store.home import Home
from dl_pipelines.store.workspace import Workspace


def main() -> None:
    workspace, soak = Workspace(Home(Path(sys.argv[1])), sys.argv[2]), os.getppid()
    while os.getppid() == soak:
        try:
            carry_log(workspace)
        except DatabaseError as error:
            print(error, file=sys.stderr, flush=True)
        time.sleep(0.2)


if __name__ == "__main__":
    main()
