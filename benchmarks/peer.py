"""A peer in a process of its own, with its packages on the path: one JSON object a line is asked and answered."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.command import ROOT

PACKAGES = ROOT / ".venv-bench"


class PeerProcess:
    """`python -m MODULE FOLDER` while it is open; its first line says what it is, its errors are kept in `peer.log`."""

    def __init__(self, module: str, package: str, folder: Path):
        if not (PACKAGES / package).exists():
            raise SystemExit(f"found no {package} in {PACKAGES.name}; expected the peer's packages: run `make bench`")
        self.folder, self._log = folder, (folder / "peer.log").open("w")
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, str(folder)],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(PACKAGES), str(ROOT)])},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )
        self.version = self._answer()["library"]

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()
        self._log.close()

    def ask(self, question: dict[str, Any]) -> dict[str, Any]:
        """Its answer. Raises RuntimeError with the end of its log when it ended."""
        assert self._process.stdin
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout
        text = self._process.stdout.readline()
        if not text:
            self._log.flush()
            raise RuntimeError(f"the peer ended:\n{(self.folder / 'peer.log').read_text()[-3000:]}")
        return json.loads(text)
