"""Every benchmark one after the other, `python -m benchmarks [NAME ...]`: its lines as they come, at the end a table.

Each is a process of its own. Exit code 1 when one of them failed; a figure that is missed is told, and is no error.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import fields
from typing import Any

from benchmarks.contract import Comparison, is_met

ALL = (
    *("main_job", "forecasting", "training_loop", "input_pipeline", "scaling", "search", "compression", "nas"),
    *("serving", "router"),
)
WIDTH = 120
"""Of the table, in a file or a pipe."""


def lines(name: str) -> Iterator[str]:
    """What a benchmark prints, line by line. Raises CalledProcessError when it ends with an error."""
    command = [sys.executable, "-m", f"benchmarks.{name}", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield from (line.rstrip("\n") for line in process.stdout)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)


def row(item: Comparison) -> list[str]:
    """A line of the table: name, ours, peer or limit, ratio with its interval, the figure wanted, whether it is met."""
    limit = item.conditions.get("limit", 1)
    interval = "" if item.interval is None else f" [{item.interval[0]:g}, {item.interval[1]:g}]"
    peer, wanted = ("", f"limit {limit:g}") if item.peer is None else (f"{item.peer:g}", f"ratio {limit:g}")
    return [item.name, f"{item.ours:g} {item.unit}", peer, f"{item.ratio:g}{interval}", wanted,
            "met" if is_met(item) else "MISSED"]  # fmt: skip


def main(names: Sequence[str]) -> int:
    """Run them, print the table; the exit code."""
    from rich.console import Console
    from rich.table import Table

    table, failed = Table("figure", "ours", "peer", "ratio", "wanted", ""), list[str]()
    for name in names:
        try:
            for line in lines(name):
                print(line, flush=True)
                plain: dict[str, Any] = json.loads(line)
                table.add_row(*row(Comparison(**{field.name: plain[field.name] for field in fields(Comparison)})))
        except subprocess.CalledProcessError as error:
            failed.append(f"benchmarks.{name} ended with {error.returncode}")
    Console(width=None if sys.stdout.isatty() else WIDTH).print(table)
    print("\n".join(failed))
    return 1 if failed else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(ALL)}; default: all")
    given = parser.parse_args().names
    if unknown := sorted(set(given) - set(ALL)):
        parser.error(f"found {unknown[0]!r}; expected of {', '.join(ALL)}")
    sys.exit(main(given or ALL))
