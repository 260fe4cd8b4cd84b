"""A real PostgreSQL on 127.0.0.1 that can be killed and started again: for the soak."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

PATIENCE = 30.0


def program(name: str) -> str | None:
    """Where a program of PostgreSQL is; distributions keep it off the PATH."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), *map(str, folders)]))


def installed() -> bool:
    """Whether there is one."""
    return program("initdb") is not None and program("postgres") is not None


class Postgres:
    """One while it is open, in a folder that is thrown away. Root runs it as another user: it refuses root."""

    def __enter__(self) -> Postgres:
        owner = _ordinary_user()
        self._rights = {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []} if os.getuid() == 0 else {}
        self._folder = Path(tempfile.mkdtemp(prefix="dlp-postgres-"))
        os.chown(self._folder, owner.pw_uid, owner.pw_gid)
        make = [program("initdb"), "-A", "trust", "-U", "dlp", "-E", "UTF8", "--locale=C", "--no-sync", "-D", "data"]
        subprocess.run(make, cwd=self._folder, capture_output=True, check=True, **self._rights)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = int(free.getsockname()[1])
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(signal.SIGINT)  # its fast shutdown
        self._process.wait(PATIENCE)
        shutil.rmtree(self._folder)

    @property
    def url(self) -> str:
        """Of its one database."""
        return f"postgresql://dlp@127.0.0.1:{self._port}/postgres"

    def start(self) -> None:
        """Start it, again after a kill; it takes connections then. Raises TimeoutError."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            self._process = self._started()
            while self._process.poll() is None and time.monotonic() < end:
                if self._answers():
                    return
                time.sleep(0.05)
            time.sleep(0.2)  # processes of the killed one still let go of its shared memory
        raise TimeoutError(f"PostgreSQL did not start: {(self._folder / 'log').read_text()[-2000:]}")

    def kill(self) -> None:
        """SIGKILL; what it had begun is undone when it is started again."""
        self._process.kill()
        self._process.wait()

    def _started(self) -> subprocess.Popen[bytes]:
        settings = {"listen_addresses": "127.0.0.1", "port": self._port, "unix_socket_directories": "", "fsync": "off"}
        command = [str(program("postgres")), "-D", "data", *[f"--{name}={value}" for name, value in settings.items()]]
        if guard := shutil.which("setpriv"):
            command = [guard, "--pdeathsig", "QUIT", *command]
        with (self._folder / "log").open("ab") as sink:
            return subprocess.Popen(command, cwd=self._folder, stdout=sink, stderr=sink, **self._rights)

    def _answers(self) -> bool:
        import psycopg2

        with contextlib.suppress(psycopg2.OperationalError):
            psycopg2.connect(host="127.0.0.1", port=self._port, user="dlp", dbname="postgres").close()
            return True
        return False


def _ordinary_user() -> pwd.struct_passwd:
    if os.getuid() != 0:
        return pwd.getpwuid(os.getuid())
    with contextlib.suppress(KeyError):
        return pwd.getpwnam("postgres")
    return pwd.getpwnam("nobody")
