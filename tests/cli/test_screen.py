"""What people see where there is no terminal: whole sentences, no control characters."""

from __future__ import annotations

import io
from datetime import date

from rich.console import Console

from dl_pipelines.cli.report import close, status_tables
from dl_pipelines.cli.run import Failed, Ran
from dl_pipelines.cli.screen import Screen, console, summary, verdict_panel
from dl_pipelines.cli.served import tables
from dl_pipelines.serving.served import Change, Served, Serving
from dl_pipelines.store.artifacts import Gate
from dl_pipelines.store.workspace import Partition, Progress
from resources.workspaces import Finished

DAY = Partition(date(2026, 1, 1), "base")
LONG = "found " + " ".join(f"word{number:02}" for number in range(60)) + "; expected fewer; say less"


class Stored:
    """An artifact as the screen sees it."""

    short = "0123456789abcdef"

    def __init__(self, *gates: Gate):
        self.gates = gates


def screen() -> Console:
    """As `console()` is when standard error goes to a file."""
    return Console(file=io.StringIO(), highlight=False, soft_wrap=True)


def plain(shown: Console) -> str:
    text = shown.file.getvalue()
    assert "\x1b" not in text
    return " ".join(text.replace("│", " ").split())


def test_a_failure_is_told_whole():
    shown, ran = screen(), Ran(DAY, failures=[Failed("raw_data", LONG, False)])
    assert close(None, None, ran, shown) == 2
    assert LONG in plain(shown)
    assert max(map(len, shown.file.getvalue().splitlines())) <= 80


def test_exit_codes_of_failures():
    for failed, code in (
        ([Failed("validated_data", "refused", False)], 2),
        ([Failed("validated_data", "no space", True)], 1),
        ([Failed("trained_model", "lost", False)], 1),
        ([Failed("raw_data", "refused", False), Failed("trained_model", "lost", False)], 1),
    ):
        assert close(None, None, Ran(DAY, failures=failed), screen()) == code


def test_each_step_is_said_once():
    shown = screen()
    with Screen(shown) as bars:
        bars.started("trained_model", DAY)
        for _ in range(2):
            bars.progress(Progress("trained_model", "epoch 1 of 2", 1, 2))
        bars.finished(Finished("trained_model", DAY, 2.5, Stored(), True))
    assert shown.file.getvalue().splitlines() == [
        "  trained_model: epoch 1 of 2 (1/2)",
        "trained_model 2026-01-01|base: made, 0123456789abcdef (2.5 s)",
    ]


def test_a_stage_in_a_few_words():
    bad, open_ = Gate("parity", False, "far"), Gate("drift_calm", None, "few")
    assert summary(Finished("raw_data", DAY, 1, skipped="no records arrived")) == "skipped: no records arrived"
    assert summary(Finished("raw_data", DAY, 1, Stored(Gate("schema", True, "")))) == "nothing to do, 0123456789abcdef"
    told = summary(Finished("raw_data", DAY, 1, Stored(bad, open_), True))
    assert told == "made, 0123456789abcdef, failed: parity, undecided: drift_calm"


def test_a_target_that_was_not_measured_says_why():
    targets = [{"name": "latency_p95_ms <= 1 (served)", "measured": None, "met": False, "reason": "no answer"},
               {"name": "accuracy >= 0.9 (served)", "measured": 0.81234, "met": False,
                "nearest": "fp32: 0.85"}]  # fmt: skip
    shown = screen()
    shown.print(verdict_panel({"verdict": "missed", "targets": targets}, None, ["nothing serves"], "small"))
    told = plain(shown)
    assert "small: targets missed" in told and "not measured: no answer" in told
    assert "0.8123 no fp32: 0.85" in told and "nothing serves" in told


def test_the_console_is_the_present_standard_error(capsys):
    console().print("to people")
    assert capsys.readouterr() == ("", "to people\n")


def test_a_time_is_torn_between_day_and_hour_only_in_a_narrow_window():
    at = "2026-11-27T22:54:00.773+00:00"
    serving = Serving("champion", "digits__45f390a58ceb", 1.0, "b" * 64, "2026-01-04|base", at, "the first one", "run")
    change = Change(1, at, "champion", "digits__45f390a58ceb", 1.0, "b" * 64, "2026-01-04|base", "the first one", "run")
    screen = Console(width=80, file=io.StringIO(), record=True)
    for table in tables(Served("digits", at, (serving,), (change,))):
        screen.print(table)
    told = screen.export_text()
    assert all(line[-1] in "┓┃┩│┘" for line in told.splitlines() if line[0] in "┏┃┡│└") and "b" * 8 in told
    assert told.count("2026-11-27") - told.count(at) == told.count("22:54:00") - told.count(at) == 2
    assert told.count("22:54:00.773") == 2, "in the title, and in the history"


def test_the_status_names_the_time_as_people_write_it():
    serves = {"model": "digits__45", "since": "2026-11-27T22:54:00.773+00:00", "reason": "the first one"}
    project = {"project": "digits", "champion": serves, "refused": None, "models": [], "days": 4}
    told = status_tables({"home": "/h", "server": None, "server_gone": "", "projects": [project]})
    assert told[1] == "digits: 4 days of data; digits__45 since 2026-11-27 22:54:00 UTC (the first one)"
