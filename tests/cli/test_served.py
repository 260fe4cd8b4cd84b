"""`dlp served`, `dlp promote`, `dlp rollback` on a finished home with a server: who serves, and what may not."""

from __future__ import annotations

import getpass
import re

import pytest

from dl_pipelines.serving.server import TritonServer, running
from dl_pipelines.store.artifacts import OUTCOME
from dl_pipelines.store.durable import read_json, write_json
from dl_pipelines.store.home import Home
from dl_pipelines.store.workspace import Partition, Workspace

pytestmark = pytest.mark.slow


def model_of(copy, day):
    artifact = Workspace(Home(copy), "small").get("triton_repository", Partition.parse(f"2026-01-0{day}|base"))
    return artifact.read_json("model.json")["model"]


def arms(dlp, copy, *options):
    said = dlp("served", "small", "--home", copy, "--json", *options)
    assert said.code == 0, said.err
    return [(arm["arm"], arm["model"], arm["share"], arm["actor"], arm["reason"]) for arm in said.json["arms"]]


def test_a_person_promotes_and_rolls_back(copy, dlp):
    me, third, second = getpass.getuser(), model_of(copy, 3), model_of(copy, 2)
    where = ("--home", copy)
    first = [("champion", third, 1.0, "run", "the first published model of this project")]
    assert arms(dlp, copy) == first
    assert arms(dlp, copy, "--at", "2020-01-01") == []
    told = dlp("served", "small", "--at", "2020-01-01", *where).out
    assert told.startswith("small: nothing served at 2020-01-01T00:00:00.000+00:00\n") and third in told
    refused = {
        ("served", "--at", "soon"): (2, "found the time 'soon'; expected ISO 8601, such as 2026-01-31 or"),
        ("rollback",): (1, "found no version of small that served before the present one; expected two in the ledger"),
        ("promote",): (1, f"found no challenger of {third} that the evidence favours; expected one; name a model by"),
        ("promote", "--date", "2026-01-02"): (1, f"found no comparison of {second} (2026-01-02|base) with {third}, "),
        ("promote", "--date", "2026-01-02", "--force"): (1, "found no reason; expected --reason: it is kept in"),
        ("promote", "--force", "--reason", "x"): (1, "found nothing to promote; expected --evidence or --date with"),
        ("promote", "--evidence", 1, "--date", "2026-01-02"): (1, "found both evidence and a date; expected one of"),
        ("promote", "--evidence", 77): (1, "found no promotion evidence 77 of small; expected an id that a"),
        ("promote", "--date", "2026-02-02", "--force", "--reason", "x"): (1, "found no triton_repository of small for"),
    }
    for (name, *options), (code, words) in refused.items():
        said = dlp(name, "small", *options, *where)
        assert (said.code, said.out) == (code, "")
        assert said.err.startswith(f"error: {words}"), said.err
    assert arms(dlp, copy) == first

    by_hand = ("promote", "small", "--date", "2026-01-02", "--force", "--reason", "compared by eye")
    with running(Home(copy)):
        said = dlp(*by_hand, *where)
        assert said.code == 0, said.err
        assert re.match(
            rf"small: {second} \(2026-01-02\|base\) serves in place of {third}, after \d+\.\d\d s; \d files are those "
            rf"of its artifact [0-9a-f]{{16}}; by {me}: compared by eye\n",
            said.out,
        ), said.out
        assert arms(dlp, copy) == [("champion", second, 1.0, me, "compared by eye")]
        assert dlp(*by_hand, *where).out == f"small: {second} (2026-01-02|base) serves already (compared by eye)\n"
        back = dlp("rollback", "small", "--reason", "worse on forms", *where, "--json")
    assert back.code == 0, back.err
    assert (back.json["before"], back.json["model"], back.json["changed"]) == (second, third, True)
    assert (back.json["actor"], back.json["reason"]) == (me, "worse on forms") and back.json["seconds"] > 0
    assert arms(dlp, copy) == [("champion", third, 1.0, me, "worse on forms")]
    told = dlp("served", "small", *where).out
    assert all(word in told for word in (third, "worse on forms", "every change", "rollback", "100.0%"))
    events = [change["event"] for change in dlp("served", "small", *where, "--json").json["history"]]
    assert events == ["champion", "champion", "rollback"]
    assert dlp("rollback", "small", *where).code == 1, "what was rolled back is not gone back to"
    assert TritonServer(Home(copy)).state() is None


def test_a_gate_that_forbids_is_kept_by_hand_too(copy, dlp):
    artifact = Workspace(Home(copy), "small").get("triton_repository", Partition.parse("2026-01-01|base"))
    outcome = read_json(artifact.path / OUTCOME)
    outcome["gates"][0] |= {"passed": False, "summary": "made by a test"}
    write_json(artifact.path / OUTCOME, outcome)
    said = dlp("promote", "small", "--date", "2026-01-01", "--force", "--reason", "I want it", "--home", copy)
    assert said.code == 1
    assert said.err.startswith(
        f"error: triton_repository {artifact.short} may not be used: found live_parity: made by a test; expected every "
    )
    assert arms(dlp, copy)[0][1] == model_of(copy, 3)
