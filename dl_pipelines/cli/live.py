"""What a person sees of a server that runs: one line an arm, and what is wrong. Given plain data, asks nothing."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Group
from rich.table import Table
from rich.text import Text

from dl_pipelines.wire.routing import RoutingTable

if TYPE_CHECKING:
    from dl_pipelines.serving.metrics import Traffic
    from dl_pipelines.serving.state import ServerState

_COLUMNS = ("arm", "model", "share", "asked/s", "p50 ms", "p95 ms", "p99 ms", "failed")


def view(routing: RoutingTable, server: ServerState, traffic: Traffic | None, log: Path) -> Group:
    """The table of a project's arms with the server's state above it and where to look below it."""
    table = Table(header_style="bold", box=None, pad_edge=False)
    for number, column in enumerate(_COLUMNS):
        left = number < 2
        table.add_column(column, justify="left" if left else "right", no_wrap=not left, overflow="fold")
    whole = sum(arm.weight for arm in routing.arms)
    for arm in routing.arms:
        table.add_row(arm.name, arm.model, f"{arm.weight / whole:.0%}", *_cells(traffic, arm.name))
    lines = [_state(routing, server), Text(""), table, Text("")]
    if routing.shadow:
        seen = traffic.shadow if traffic else {}
        told = ", ".join(f"{what.replace('_', ' ')} {rate:.1f}/s" for what, rate in sorted(seen.items()) if rate)
        lines.append(Text(f"shadow {routing.shadow} sees all and answers nobody: {told or 'nothing yet'}"))
    if traffic:
        own = ", ".join(f"{model} {rate:.1f}" for model, rate in sorted(traffic.triton.items()))
        lines.append(
            Text(f"last {traffic.seconds:.0f} s; Triton's own count, requests/s: {own or 'none'}", style="dim")
        )
        for model in sorted(name for name, is_open in traffic.breakers.items() if is_open):
            lines.append(Text(f"{model} is not asked any more: its breaker is open", style="red"))
        if traffic.refused:
            lines.append(Text(f"refused, as the request was wrong: {traffic.refused:.1f}/s", style="yellow"))
        if traffic.log_errors:
            told = f"{traffic.log_errors:.0f} appends to the prediction log failed since the router was loaded"
            lines.append(Text(told, style="red"))
    lines.append(Text(f"metrics http://127.0.0.1:{server.metrics}/metrics; log {log}", style="dim"))
    return Group(*lines)


def _state(routing: RoutingTable, server: ServerState) -> Text:
    text = Text(f"{routing.project} ", style="bold")
    if server.gave_up:
        return text.append(f"given up: {server.gave_up}", style="red")
    if not server.ready:
        return text.append(f"is being started again: {server.last_exit or 'for the first time'}", style="yellow")
    text.append(f"http://127.0.0.1:{server.http}, gRPC 127.0.0.1:{server.grpc}", style="not bold")
    if server.restarts:
        times = "once" if server.restarts == 1 else f"{server.restarts} times"
        text.append(f"; started again {times}: {server.last_exit}", style="yellow not bold")
    if server.failing:
        text.append(f"; can't be loaded: {server.failing}", style="red not bold")
    return text


def _cells(traffic: Traffic | None, arm: str) -> list[str | Text]:
    if traffic is None:
        return ["...", "", "", "", ""]
    found = traffic.arm(arm)
    times = ["-" if value is None else f"{value:.1f}" for value in found.latency_ms.values()]
    return [f"{found.rate:.1f}", *times, Text(f"{found.errors:.1%}", style="red" if found.errors else "")]
