"""The architecture families that a brief may name: one line each."""

from __future__ import annotations

from dl_pipelines.brief.registry import Kind

FAMILIES = Kind("family", {"cnn": "dl_pipelines.models.cnn:Cnn"})
