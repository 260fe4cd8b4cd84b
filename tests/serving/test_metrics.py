"""The parser against Prometheus' own, quantiles by hand, and the counts of a live router."""

from __future__ import annotations

import math
import time

import pytest

from dl_pipelines.serving import metrics
from dl_pipelines.serving.metrics import SHADOW, ArmTraffic, parse, quantile, traffic
from dl_pipelines.serving.process import TritonError, free_ports
from dl_pipelines.serving.server import TritonServer
from dl_pipelines.wire.routing import Arm, RoutingTable
from tests.deploy.expressions import PROMETHEUS, asked, dashboard, rules, selectors
from tests.serving.echo import until
from tests.serving.routers import Client, Routed

TEXT = r"""# HELP dlp_requests_total Requests, by arm
# TYPE dlp_requests_total counter
dlp_requests_total{project="p",arm="champion",outcome="answered"} 90
dlp_requests_total{arm="champion",outcome="failed",project="p",} 10
dlp_requests_total{project="p",arm="challenger",outcome="fell_back"} 5 1700000000000
dlp_requests_total{project="p",arm="",outcome="refused"} 4
dlp_requests_total{project="q",arm="champion",outcome="answered"} 1e6
dlp_latency_ms_bucket{project="p",arm="champion",le="1"} 50
dlp_latency_ms_bucket{project="p",arm="champion",le="2"} 80
dlp_latency_ms_bucket{project="p",arm="champion",le="+Inf"} 100
dlp_shadow_requests_total{project="p",outcome="left_out"} 8

  dlp_log_errors_total{project="p"} 2
dlp_breaker_open{project="p",model="p__b"} 1
dlp_breaker_open{project="p",model="p__c"} 0
nv_inference_request_success{model="p",version="1"} 40
nv_inference_request_success{model="p__b",version="1"} 20
nv_inference_request_success{model="pp",version="1"} 60
strange{a="with \"quotes\", a } brace, \\ and \n"} +Inf
bare NaN
small 1.5e-09
"""


def test_the_parser_reads_what_prometheus_own_reads():
    reference = pytest.importorskip("prometheus_client.parser")
    expected = {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in reference.text_string_to_metric_families(TEXT)
        for sample in family.samples
    }
    found = parse(TEXT)
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert found[key] == value or (math.isnan(value) and math.isnan(found[key])), key


def test_what_is_no_metric_is_named():
    for line in ("<html>", "name", "name{a=b} 1", 'name{a="b} 1', "name x", 'name{a="b" c="d"} 1'):
        with pytest.raises(TritonError, match=r"found .* among the server's metrics; expected NAME"):
            parse(f"good 1\n{line}\n")
    with pytest.raises(OSError, match="refused"):
        metrics.scrape(free_ports(1)[0])


def test_quantiles_are_linear_within_a_bucket():
    buckets = [(1.0, 50.0), (2.0, 80.0), (math.inf, 100.0)]
    assert quantile(buckets, 0.5) == 1.0
    assert quantile(buckets, 0.25) == 0.5
    assert quantile(buckets, 0.65) == pytest.approx(1.5)
    assert quantile(buckets, 0.99) == 2.0, "beyond the last bound"
    assert quantile([(1.0, 0.0), (2.0, 10.0), (math.inf, 10.0)], 0.5) == 1.5
    assert quantile([], 0.5) is None
    assert quantile([(1.0, 0.0), (math.inf, 0.0)], 0.5) is None


def test_traffic_is_the_difference_of_two_looks():
    after = parse(TEXT)
    before = {key: value / 2 for key, value in after.items()}
    found = traffic("p", before, after, 5.0)
    assert [arm.arm for arm in found.arms] == ["champion", "challenger"]
    champion = found.arm("champion")
    assert champion.rates == {"answered": 9.0, "failed": 1.0}
    assert (champion.rate, champion.errors) == (10.0, 0.1)
    assert champion.totals == {"answered": 90.0, "failed": 10.0}
    assert champion.latency_ms == {0.5: 1.0, 0.95: 2.0, 0.99: 2.0}
    assert found.arm("challenger").errors == 1.0
    assert found.arm("none") == ArmTraffic("none", {}, {}, dict.fromkeys((0.5, 0.95, 0.99)))
    assert (found.refused, found.shadow, found.log_errors) == (0.4, {"left_out": 0.8}, 2.0)
    assert found.breakers == {"p__b": True, "p__c": False}
    assert found.triton == {"p": 4.0, "p__b": 2.0}, "and not pp's"
    plain = found.plain()
    assert plain["arms"][0] == {
        "arm": "champion", "requests_per_second": 10.0, "errors": 0.1, "totals": {"answered": 90.0, "failed": 10.0},
        "p50_ms": 1.0, "p95_ms": 2.0, "p99_ms": 2.0,
    }  # fmt: skip
    assert plain["breakers_open"] == ["p__b"]


def test_a_counter_that_began_anew_counts_from_zero():
    after = parse(TEXT)
    before = {key: value * 10 for key, value in after.items()}
    assert traffic("p", before, after, 1.0).arm("champion").rates == {"answered": 90.0, "failed": 10.0}
    assert traffic("p", {}, after, 1.0).arm("champion").rate == 100.0
    assert traffic("nobody", before, after, 1.0).arms == ()


@pytest.fixture(scope="module")
def counted(line):
    """A router that has done everything that it counts: two arms, a breaker, a shadow, something refused."""
    server = TritonServer(line.home)
    server.start()
    routed = Routed(server, "counted")
    for number, model in enumerate(("counted__a", "counted__b")):
        routed.add(model, number + 1)
    routed.route("counted__a", "counted__b", 0.5, breaker=3)
    routed.load()
    state = server.state()
    assert state
    before, started, client = metrics.scrape(state.metrics), time.monotonic(), Client(routed)
    for number in range(20):
        client([1, 2, 3, 4], f"unit/{number}")
    routed.mode("counted__b", "raise")
    for number in range(20):
        client([1, 2, 3, 4], f"unit/{number}")
    with pytest.raises(Exception, match="finite"):
        client([1, 2, 3, math.nan])
    until(lambda: routed.metrics().get('dlp_breaker_open{model="counted__b",project="counted"}') == 1)
    assert routed.metrics()['dlp_arm_share{arm="challenger",project="counted"}'] == 0.5
    routed.mode("counted__b", "ok")
    routed.route("counted__a", shadow="counted__b", revision=2)
    for number in range(10):
        client([1, 2, 3, 4], f"unit/{number}")
    until(lambda: routed.metrics().get(f'{SHADOW}{{outcome="answered",project="counted"}}'))
    yield routed, state, before, started
    routed.server.control.unload("counted", "counted__a", "counted__b")


def test_what_a_live_router_counted_is_read(counted):
    _, state, before, started = counted
    table = RoutingTable("counted", "counted__a", (Arm("champion", "counted__a", 1), Arm("challenger", "b", 1)), 1)
    mine = [table.arm(f"unit/{number}").name for number in range(20)].count("challenger")
    time.sleep(0.7)  # the router brings its counts to Triton twice a second
    after = metrics.scrape(state.metrics)
    found = traffic("counted", before, after, time.monotonic() - started)
    arms = {arm.arm: {name: round(count) for name, count in arm.totals.items() if count} for arm in found.arms}
    assert arms == {
        "champion": {"answered": 2 * (20 - mine) + 10},
        "challenger": {"answered": mine, "fell_back": mine},
    }
    shares = {dict(labels)["arm"]: value for (name, labels), value in after.items() if name == "dlp_arm_share"
              and ("project", "counted") in labels}  # fmt: skip
    assert shares == {"champion": 1.0, "challenger": 0.0}, "the second table gave it nothing"
    assert found.refused > 0 and found.shadow["answered"] > 0 and found.log_errors == 0
    for arm in found.arms:
        low, middle, high = (arm.latency_ms[share] for share in (0.5, 0.95, 0.99))
        assert low and middle and high and 0 < low <= middle <= high < 5000
    assert found.triton["counted"] > 0


def test_dashboard_and_alerts_name_only_what_is_exposed(counted):
    pytest.importorskip("promql_parser")
    _, state, _, _ = counted
    exposed: dict[str, set[str]] = {name: {"job"} for name in PROMETHEUS}
    for name, labels in metrics.scrape(state.metrics):
        exposed.setdefault(name, {"job"}).update(label for label, _ in labels)
    assert {name for name in exposed if name.startswith("dlp_")} == {
        "dlp_requests_total", "dlp_latency_ms_bucket", "dlp_shadow_requests_total", "dlp_log_errors_total",
        "dlp_breaker_open", "dlp_arm_share",
    }  # fmt: skip
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    for expr in [*asked(dashboard()), *(rule["expr"] for rule in rules())]:
        for name, labels in selectors(expr):
            assert name in exposed or name in recorded, f"{name} in {expr}"
            assert name in recorded or labels <= exposed[name], f"{labels} of {name} in {expr}"
