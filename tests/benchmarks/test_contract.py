"""What a benchmark prints, and its statistics."""

import json
import subprocess
import sys
from dataclasses import asdict

import pytest

from benchmarks.contract import Comparison, against_limit, main, paired, sentence


def test_an_absolute_figure_is_a_ratio_to_its_limit():
    assert against_limit("a", 4.0, 10.0, "ms").ratio == 2.5
    assert against_limit("a", 0.99, 0.9, "share", higher=True).ratio == 1.1


def test_pairs_come_with_an_interval():
    found = paired("a", [1.0, 2.0, 1.0, 1.0, 1.0], [3.0, 4.0, 3.0, 3.0, 3.0], "s")
    assert (found.ours, found.peer, found.ratio, found.interval, found.pairs) == (1.0, 3.0, 3.0, (2.0, 3.0), 5)


def test_a_sentence_says_whether_the_limit_is_met():
    assert sentence(against_limit("a", 4.0, 10.0, "ms")) == "a: 4 ms (limit 10), ratio 2.5: met"
    assert sentence(against_limit("a", 20.0, 10.0, "ms")) == "a: 20 ms (limit 10), ratio 0.5: MISSED"
    slow = paired("a", [1.0] * 5, [1.5] * 5, "s", limit=2)
    assert sentence(slow) == "a: 1 s (peer 1.5, at least 2), ratio 1.5: MISSED"


def test_only_the_named_part_runs(monkeypatch, capsys):
    parts = {"fast": lambda: [against_limit("fast", 1.0, 2.0, "s")], "slow": lambda: pytest.fail("was run")}
    monkeypatch.setattr(sys, "argv", ["x", "--json", "--only", "fast"])
    main(parts, "about")
    line = json.loads(capsys.readouterr().out)
    assert (line["name"], line["peer"], line["ratio"], line["conditions"]["limit"]) == ("fast", None, 2.0, 2.0)


def test_the_table_says_what_was_wanted_and_whether_it_is_met(monkeypatch, capsys):
    import benchmarks.__main__ as every

    said = {
        "nas": [Comparison("nas.rank", 0.8, 0.9, "Spearman", 0.89, (0.7, 1.0), 24, {"limit": 0.8})],
        "search": [against_limit("search.step", 30, 20, "us")],
    }

    def lines(name):
        if name == "scaling":
            raise subprocess.CalledProcessError(2, name)
        yield from (json.dumps(asdict(item)) for item in said[name])

    monkeypatch.setattr(every, "lines", lines)
    monkeypatch.setenv("COLUMNS", "120")
    assert every.main(["nas", "search"]) == 0
    told = capsys.readouterr().out.splitlines()
    assert json.loads(told[0])["name"] == "nas.rank"
    (rank,) = (line for line in told if "nas.rank" in line and "│" in line)
    (step,) = (line for line in told if "search.step" in line and "│" in line)
    assert all(word in rank for word in ("0.8 Spearman", "0.89 [0.7, 1]", "ratio 0.8", "met"))
    assert all(word in step for word in ("30 us", "limit 20", "MISSED"))
    assert every.main(["scaling"]) == 1
    assert "benchmarks.scaling ended with 2" in capsys.readouterr().out
