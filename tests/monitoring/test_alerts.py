import contextlib
import http.server
import json
import socket
import threading
import time

import pytest

from dl_pipelines.monitoring import alerts
from dl_pipelines.monitoring.alerts import alert
from dl_pipelines.store.database import Database
from dl_pipelines.store.home import DATABASE_URL, Home
from dl_pipelines.store.tables import alerts as table
from dl_pipelines.store.workspace import Workspace

SECRET = "5b0c-secret-path"
BODY = {"run": "abc", "steps": ["digits__trained_model"]}


class Hook(http.server.BaseHTTPRequestHandler):
    """Answers with the server's `status` and keeps what was posted."""

    def do_POST(self):
        posted = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.posted.append((self.path, self.headers["Content-Type"], json.loads(posted)))
        time.sleep(self.server.delay)
        with contextlib.suppress(BrokenPipeError):
            self.send_response(self.server.status)
            if self.server.status == 302:
                self.send_header("Location", "/elsewhere")
            self.end_headers()

    def do_GET(self):
        self.server.posted.append((self.path, "get", None))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture
def hook(monkeypatch):
    """A web server on loopback; the variable HOOK has its address, a proxy that does not exist is set."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hook)
    server.posted, server.status, server.delay = [], 204, 0.0
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    monkeypatch.setenv("HOOK", f"http://127.0.0.1:{server.server_port}/{SECRET}")
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def line(tmp_path):
    return Workspace(Home(tmp_path).prepare(), "digits")


@pytest.fixture
def postgres_line(line, postgres_url, monkeypatch):
    monkeypatch.setenv(DATABASE_URL, postgres_url)
    return line


def rows(line):
    database = Database.of(line.home)
    with contextlib.closing(database):
        return database.rows(table)


def tell(line, key="run:1", webhook="${HOOK}"):
    return alert(line, "run_failure", key, "digits: the run abc failed", BODY, webhook)


def test_without_a_webhook_the_log_and_the_row_have_it(line, caplog):
    assert tell(line, webhook=None)
    (row,) = rows(line)
    assert {name: row[name] for name in ("project", "key", "kind", "subject", "body", "delivered")} == {
        "project": "digits", "key": "run:1", "kind": "run_failure", "subject": "digits: the run abc failed",
        "body": BODY, "delivered": "log",
    }  # fmt: skip
    assert [(record.name, record.levelname) for record in caplog.records] == [
        ("dl_pipelines.monitoring.alerts", "WARNING")
    ]
    assert caplog.messages == [f"alert run:1: digits: the run abc failed ({json.dumps(BODY)})"]


def test_the_webhook_gets_it_once_for_a_key(line, hook, caplog):
    assert tell(line)
    assert not tell(line)
    assert tell(line, "run:2")
    assert [row["delivered"] for row in rows(line)] == ["webhook", "webhook"]
    path, content, message = hook.posted[0]
    assert (path, content) == (f"/{SECRET}", "application/json")
    assert message == {
        "text": "digits: the run abc failed", "project": "digits", "key": "run:1", "kind": "run_failure",
        "subject": "digits: the run abc failed", "body": BODY,
    }  # fmt: skip
    assert [message["key"] for _, _, message in hook.posted] == ["run:1", "run:2"]
    assert len(caplog.messages) == 2
    untold(line, caplog)


def untold(line, caplog):
    """The secret is nowhere below the home, nor in the log."""
    assert SECRET not in caplog.text
    for path in line.home.root.rglob("*"):
        assert not path.is_file() or SECRET.encode() not in path.read_bytes(), path


@pytest.mark.parametrize("place", ["line", pytest.param("postgres_line", marks=pytest.mark.postgres)])
def test_four_at_once_tell_it_once(place, hook, request):
    line = request.getfixturevalue(place)
    rows(line)  # the database is there
    told = []
    threads = [threading.Thread(target=lambda: told.append(tell(line))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(told) == [False, False, False, True]
    assert len(hook.posted) == 1
    assert [row["delivered"] for row in rows(line)] == ["webhook"]


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        (None, "found no environment variable HOOK; expected the webhook's address; set it"),
        ("", "found no environment variable HOOK; expected the webhook's address; set it"),
        ("refused", "found Connection refused; expected an answer within 5 s"),
        (f"file:///etc/{SECRET}", "found no web address in HOOK; expected one that starts with http:// or https://"),
        (f"http://[{SECRET}", "found no web address in HOOK; expected one that starts with http:// or https://"),
        (f"http://127.0.0.1:1/{SECRET} and more", "found InvalidURL; expected the address of a web server"),
        (f"http://127.0.0.1:{SECRET}/", "found InvalidURL; expected the address of a web server"),
        (f"http:///{SECRET}", "found no web address in HOOK; expected one that starts with http:// or https://"),
    ],
)
def test_an_address_that_cannot_be_used_is_told_in_the_log(line, monkeypatch, caplog, address, reason):
    monkeypatch.delenv("HOOK", raising=False)
    if address is not None:
        monkeypatch.setenv("HOOK", f"http://127.0.0.1:{free_port()}/{SECRET}" if address == "refused" else address)
    assert tell(line)
    assert [row["delivered"] for row in rows(line)] == ["failed"]
    assert caplog.messages[1].startswith(f"alert run:1 did not reach the webhook ${{HOOK}}: {reason}")
    assert caplog.records[1].levelname == "ERROR"
    untold(line, caplog)
    assert not tell(line)


@pytest.mark.parametrize("status", [302, 404, 500])
def test_another_answer_than_2xx_has_failed(line, hook, caplog, status):
    hook.status = status
    assert tell(line)
    assert [row["delivered"] for row in rows(line)] == ["failed"]
    assert caplog.messages[1].endswith(f"did not reach the webhook ${{HOOK}}: found the answer {status}; expected 2xx")
    assert len(hook.posted) == 1, "a redirection is not followed"
    untold(line, caplog)


def test_a_slow_webhook_is_not_waited_for(line, hook, caplog, monkeypatch):
    monkeypatch.setattr(alerts, "SECONDS", 0.2)
    hook.delay = 1.0
    started = time.monotonic()
    assert tell(line)
    assert time.monotonic() - started < 0.9
    assert [row["delivered"] for row in rows(line)] == ["failed"]
    assert "found TimeoutError; expected an answer within 0.2 s" in caplog.text


def test_a_crash_before_the_post_leaves_it_failed_and_is_not_posted_later(line, hook, monkeypatch):
    def crash(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(alerts, "_post", crash)
        tell(line)
    assert [row["delivered"] for row in rows(line)] == ["failed"]
    assert not tell(line)
    assert hook.posted == []
