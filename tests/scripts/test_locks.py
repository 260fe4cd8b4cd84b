"""The locks fit each other and hold no addresses. That they resolve and install is what these tests run in."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PIN = re.compile(r"^([a-z0-9._-]+)==(\S+)", re.MULTILINE)


def pins(name: str) -> dict[str, str]:
    return dict(PIN.findall((ROOT / f"requirements{name}.lock").read_text()))


def test_no_lock_holds_an_address():
    for path in ROOT.glob("requirements*.lock"):
        assert "://" not in path.read_text(), path.name


def test_every_pin_has_a_hash():
    for path in ROOT.glob("requirements*.lock"):
        text = path.read_text()
        for start in [found.start() for found in PIN.finditer(text)]:
            assert "--hash=sha256:" in text[start : start + 300], (path.name, text[start : start + 60])


def test_a_peer_brings_nothing_that_is_there_already():
    assert not set(pins("-bench")) & set(pins(""))


def test_what_is_asked_for_is_locked():
    for suffix in ("", "-bench"):
        asked = re.findall(r"^([a-z0-9-]+)", (ROOT / f"requirements{suffix}.in").read_text(), re.MULTILINE)
        assert set(asked) <= set(pins(suffix))


def test_set_up_starts_with_the_locked_uv():
    assert pins("-bootstrap")["uv"] == pins("")["uv"]
