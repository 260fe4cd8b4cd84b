"""Messages to people, once a key: a row of the table `alerts`, a line in the log, a post to the brief's webhook.

Order: the row as `failed`, the line, the post, the row as `log` or `webhook`. Whoever has written the row delivers, so
that a message is posted at most once; a crash on the way leaves it `failed`: undelivered for all we know, never unseen.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import logging
import os
from collections.abc import Mapping
from typing import Any, Literal
from urllib.parse import urlsplit

from dl_pipelines.store.database import Database
from dl_pipelines.store.workspace import Workspace

SECONDS = 5.0
"""For the webhook, at each step of the post (connection, answer)."""

logger = logging.getLogger(__name__)


class Undelivered(ValueError):
    """A message was not taken; says why, without the address: that is a secret."""


def alert(
    workspace: Workspace, kind: str, key: str, subject: str, body: Mapping[str, Any], webhook: str | None = None
) -> bool:
    """Tell people, unless `key` (at most 160 characters) has been told of before: then nothing happens.

    `body` is plain data; `webhook` is `${NAME}`, read from the environment here. True when this call told it; whether
    it arrived is the row's `delivered`: `log`, `webhook`, or `failed`, with the reason in the log. Raises
    DatabaseError.
    """
    from dl_pipelines.store.tables import alerts

    database = Database.of(workspace.home, workspace.project)
    with contextlib.closing(database):
        row = {"project": workspace.project, "key": key, "kind": kind, "subject": subject, "body": dict(body)}
        if not database.append_once(alerts, **row, delivered="failed"):
            return False
        logger.warning("alert %s: %s (%s)", key, subject, json.dumps(dict(body), ensure_ascii=False))
        delivered = _deliver(row, webhook)
        with database.begin() as connection:
            connection.execute(alerts.update().where(alerts.c.key == key).values(delivered=delivered))
    return True


def _deliver(row: Mapping[str, Any], webhook: str | None) -> Literal["log", "webhook", "failed"]:
    if webhook is None:
        return "log"
    try:
        _post(_address(webhook), {"text": row["subject"], **row})
    except Undelivered as error:
        logger.error("alert %s did not reach the webhook %s: %s", row["key"], webhook, error)
        return "failed"
    return "webhook"


def _address(webhook: str) -> str:
    """The secret's value. Raises Undelivered."""
    name = webhook.removeprefix("${").removesuffix("}")
    url = os.environ.get(name, "")
    if not url:
        raise Undelivered(f"found no environment variable {name}; expected the webhook's address; set it")
    with contextlib.suppress(ValueError):
        parts = urlsplit(url)
        if parts.scheme in ("http", "https") and parts.hostname:
            return url
    raise Undelivered(f"found no web address in {name}; expected one that starts with http:// or https://; mend it")


def _post(url: str, message: Mapping[str, Any]) -> None:
    """Raises Undelivered unless the answer is 2xx. What urllib says is not told where it may quote the address."""
    import http.client
    import urllib.error
    import urllib.request

    class Stay(urllib.request.HTTPRedirectHandler):
        """A redirected post would become a get without its body."""

        def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> None:
            """Go nowhere: the redirection is the answer."""

    proxies = [urllib.request.ProxyHandler({})] if _is_loopback(url) else []
    opener = urllib.request.build_opener(Stay, *proxies)
    try:
        request = urllib.request.Request(
            url, json.dumps(message).encode(), {"Content-Type": "application/json"}, method="POST"
        )
        with opener.open(request, timeout=SECONDS):
            return
    except urllib.error.HTTPError as error:
        error.close()
        raise Undelivered(f"found the answer {error.code}; expected 2xx") from None
    except urllib.error.URLError as error:
        raise Undelivered(f"found {_reason(error.reason)}; expected an answer within {SECONDS:g} s") from None
    except OSError as error:
        raise Undelivered(f"found {_reason(error)}; expected an answer within {SECONDS:g} s") from None
    except (http.client.HTTPException, ValueError) as error:
        raise Undelivered(f"found {type(error).__name__}; expected the address of a web server") from None


def _reason(error: BaseException | str) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or type(error).__name__


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"
