"""Who may send live requests: one line each."""

from __future__ import annotations

from dl_pipelines.brief.registry import Kind

TRAFFIC = Kind(
    "traffic",
    {
        "clients": "dl_pipelines.monitoring.traffic:Clients",
        "replay": "dl_pipelines.monitoring.traffic:Replay",
    },
)
