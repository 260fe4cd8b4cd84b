"""Triton's control requests over HTTP: ready, load, unload, index. Standard library only; predictions go by gRPC."""

from __future__ import annotations

import http.client
import json
import time
from pathlib import Path
from typing import Any

from dl_pipelines.serving.admin import http_headers
from dl_pipelines.serving.loading import load_limit
from dl_pipelines.serving.process import TritonError

_GONE = ("", "UNAVAILABLE")


class Control:
    """Talks to one server on 127.0.0.1, as an administrator where it has the `key`.

    `repository` is where the models lie that it loads. Raises OSError when the server doesn't answer, TritonError when
    it refuses.
    """

    def __init__(self, port: int, key: str = "", repository: Path | None = None):
        self.port, self._headers, self._repository = port, http_headers(key), repository

    def _ask(self, method: str, path: str, body: Any = None, timeout: float = 60) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            connection.request(method, path, None if body is None else json.dumps(body), self._headers)
            reply = connection.getresponse()
            return reply.status, reply.read()
        except http.client.HTTPException as error:
            raise ConnectionError(f"{type(error).__name__} on port {self.port}") from error
        finally:
            connection.close()

    def ready(self, timeout: float = 2) -> bool:
        """Whether the server answers that it is ready."""
        try:
            return self._ask("GET", "/v2/health/ready", timeout=timeout)[0] == 200
        except OSError:
            return False

    def model_ready(self, model: str) -> bool:
        """Whether a model is loaded and can answer."""
        try:
            return self._ask("GET", f"/v2/models/{model}/ready", timeout=5)[0] == 200
        except OSError:
            return False

    def index(self) -> dict[str, str]:
        """Models of the repository and their state (`READY`, `UNAVAILABLE`, `LOADING`, `UNLOADING`, or empty)."""
        status, body = self._ask("POST", "/v2/repository/index", {})
        self._check(status, body, "list its models")
        return {entry["name"]: entry.get("state", "") for entry in json.loads(body)}

    def instances(self, model: str) -> int:
        """How many instances a loaded model has, as its config says."""
        status, body = self._ask("GET", f"/v2/models/{model}/config")
        self._check(status, body, f"tell the config of {model}")
        return sum(int(group.get("count", 1)) for group in json.loads(body)["instance_group"])

    def load(self, model: str) -> None:
        """Load a model and wait until it is ready, warmed up. A failed reload keeps the loaded one.

        Raises TimeoutError after `load_limit` seconds; the server itself goes on then.
        """
        assert self._repository, "whoever has models loaded knows where they lie"
        limit = load_limit(self._repository / model)
        try:
            found = self._ask("POST", f"/v2/repository/models/{model}/load", {}, limit)
        except TimeoutError as error:
            raise TimeoutError(
                f"found {model} not loaded after {limit:.0f} s; expected it to be, for the size of its files; read "
                "server/server.log in the home"
            ) from error
        self._check(*found, f"load {model}")

    def unload(self, *models: str, seconds: float = 20) -> None:
        """Unload models and wait until they are gone: Triton itself answers before they are, about a second each."""
        for model in models:
            self._check(*self._ask("POST", f"/v2/repository/models/{model}/unload", {}), f"unload {model}")
        deadline = time.monotonic() + seconds
        while left := [name for name, state in self.index().items() if name in models and state not in _GONE]:
            if time.monotonic() > deadline:
                raise TritonError(
                    f"found {', '.join(left)} still being unloaded after {seconds:g} s; expected them to end their "
                    "requests; stop the server (`dlp stop`) and run again"
                )
            time.sleep(0.02)

    def _check(self, status: int, body: bytes, what: str) -> None:
        if status == 200:
            return
        try:
            reason = str(json.loads(body)["error"])
        except (ValueError, KeyError, TypeError):
            reason = body.decode(errors="replace")
        reason = " ".join(reason.partition("At:")[0].split())[:300]  # without the stack of Triton's interpreter
        raise TritonError(
            f"found that the server could not {what} ({reason}); expected status 200, got {status}; its log is "
            "server/server.log in the home"
        )
