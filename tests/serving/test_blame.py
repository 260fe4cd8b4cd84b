"""A challenger whose code ends the whole server is charged, told and left out; nobody else is."""

from __future__ import annotations

import json
import time

import pytest
from tritonclient.utils import InferenceServerException

from dl_pipelines.serving.blame import Blame, challengers
from dl_pipelines.serving.server import TritonServer, running
from dl_pipelines.serving.state import given_up, marker_file, routing_file, wanted_models
from dl_pipelines.store import durable
from dl_pipelines.store.home import Home
from dl_pipelines.wire import records
from dl_pipelines.wire.routing import Arm, RoutingTable
from tests.serving import router_code, routers
from tests.serving.echo import finish, until

WHY = "the server died 2 times within a minute while it was asked"
KILLER = routers.CODE.replace("import pathlib, time", "import os, pathlib, signal, time").replace(
    'if mode in ("hang", "slow")',
    'if mode == "kill":\n            os.kill(os.getppid(), signal.SIGKILL)\n        if mode in ("hang", "slow")',
)


def table_of(project: str, *others: str, revision: int = 7, shadow: str = "") -> RoutingTable:
    arms = [Arm("champion", f"{project}__a", 0.5), *(Arm(f"arm{model[-1]}", model, 0.5) for model in others)]
    return RoutingTable(project, f"{project}__a", tuple(arms), 1, revision, shadow)


@pytest.fixture
def home(tmp_path):
    return Home(tmp_path / "home").prepare()


def route(home: Home, table: RoutingTable) -> RoutingTable:
    durable.write_json(routing_file(home, table.project), table.plain())
    return table


def test_two_deaths_within_a_minute_charge_each_challenger_once(home):
    table = route(home, table_of("p", "p__b", shadow="p__c"))
    route(home, table_of("alone"))
    durable.write_text(routing_file(home, "damaged"), "{")
    blame = Blame(home)
    assert blame.died(100) == [] and not marker_file(home, "p").exists()
    assert wanted_models(home) == ["alone__a", "alone", "p__a", "p__b", "p__c", "p"]
    assert blame.died(159) == [f"p__b of p is not asked any more: {WHY}", f"p__c of p is not asked any more: {WHY}"]
    assert json.loads(marker_file(home, "p").read_text()) == {
        "open": [[7, "p__b"], [7, "p__c"]],
        "untold": [[7, "armb", "p__b", WHY], [7, "shadow", "p__c", WHY]],
    }
    assert given_up(home, table) == {"p__b", "p__c"}
    assert wanted_models(home) == ["alone__a", "alone", "p__a", "p"], "what may end the server is not loaded again"
    assert blame.died(160) == [] and not marker_file(home, "alone").exists()


def test_rare_deaths_and_those_under_another_table_charge_nobody(home):
    blame = Blame(home)
    for revision, now in ((1, 0), (2, 10), (3, 20), (3, 90)):
        route(home, table_of("p", "p__b", revision=revision))
        assert blame.died(now) == []
    assert blame.died(95) == [f"p__b of p is not asked any more: {WHY}"]


def test_what_the_router_wrote_is_kept_and_nonsense_is_not(home):
    table = route(home, table_of("p", "p__b", shadow="p__c"))
    durable.write_json(marker_file(home, "p"), {"open": [[7, "p__b"], [6, "p__z"]]})
    blame = Blame(home)
    assert given_up(home, table) == {"p__b"}
    blame.died(0)
    assert blame.died(1) == [f"p__c of p is not asked any more: {WHY}"]
    assert json.loads(marker_file(home, "p").read_text()) == {
        "open": [[7, "p__b"], [6, "p__z"], [7, "p__c"]], "untold": [[7, "shadow", "p__c", WHY]]
    }  # fmt: skip
    for text in ("", "{", "[]", '{"open": 1}', '{"open": [[1]]}', '{"open": [[7, "p__a"]]}'):
        durable.write_text(marker_file(home, "p"), text)
        assert given_up(home, table) == set(), "the champion is never given up"
        assert len(Blame(home, limit=1).died(0)) == 2


def test_a_model_of_two_arms_is_one_challenger_and_the_champion_none():
    table = table_of("p", "p__b", "p__b", "p__a", shadow="p__b")
    assert challengers(table) == [("armb", "p__b")]


def test_the_router_tells_what_the_guardian_wrote_once(home):
    breaker, told = router_code.breaker, []
    route(home, table_of("p", "p__b", shadow="p__c"))
    assert len(Blame(home, limit=1).died(0)) == 2
    it = breaker.Breaker(marker_file(home, "p"))
    assert it.is_open(7, "p__b") and it.is_open(7, "p__c") and not it.is_open(8, "p__b")

    def killed(*what):
        if told:
            raise OSError("killed after the first")
        told.append(what)

    with pytest.raises(OSError, match="killed"):
        it.settle(killed)
    again = breaker.Breaker(marker_file(home, "p"))
    again.settle(lambda *what: told.append(what))
    why = WHY.replace("2 times", "1 times")
    assert told == [(7, "armb", "p__b", why), (7, "shadow", "p__c", why)]
    assert json.loads(marker_file(home, "p").read_text()) == {"open": [[7, "p__b"], [7, "p__c"]]}
    last = breaker.Breaker(marker_file(home, "p"))
    last.settle(lambda *_: pytest.fail("told twice"))
    assert last.is_open(7, "p__b") and last.is_open(7, "p__c")


@pytest.mark.parametrize("as_shadow", [True, False])
def test_a_challenger_that_ends_the_server_is_taken_out(home, monkeypatch, as_shadow):
    monkeypatch.setattr(routers, "CODE", KILLER)
    try:
        with running(home, keep=True) as server:
            routed = routers.Routed(server, "duel")
            routed.add("duel__a", 2)
            routed.add("duel__b", 5)
            if as_shadow:
                table = routed.route("duel__a", revision=9, shadow="duel__b")
            else:
                table = routed.route("duel__a", "duel__b", 1.0, revision=9)
            routed.load()
            routed.mode("duel__b", "kill")
            client, number = routers.Client(routed), 0

            def ask():
                nonlocal number
                number += 1
                try:
                    return client([1, 2, 3, 4], f"r{number}", timeout=3)[0].tolist() == [10, 20]
                except InferenceServerException:
                    time.sleep(0.05)
                    return False

            until(lambda: (ask(), given_up(home, table))[1])
            until(lambda: (state := server.state()) and state.ready and state.restarts == 2)
            until(ask)
            (record,) = until_some(lambda: routed.records(records.BREAKER))
            assert (record["arm"], record["model"], record["rev"], record["fail"]) == (
                "shadow" if as_shadow else "challenger", "duel__b", 9, WHY
            )  # fmt: skip
            assert all(ask() for _ in range(20)) and server.state().restarts == 2, "it is not asked any more"
            server.serve("duel")
            assert not server.control.model_ready("duel__b")
            assert f"supervisor: duel__b of duel is not asked any more: {WHY}\n" in server.log.read_text()
            client.close()
    finally:
        finish(home)
    assert TritonServer(home).state() is None


def until_some(holds):
    found = []
    until(lambda: found.extend(holds()) or found, 20)
    return found
