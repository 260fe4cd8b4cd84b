"""The compression techniques that a brief may name: one line each."""

from __future__ import annotations

from dl_pipelines.brief.registry import Kind

TECHNIQUES = Kind(
    "technique",
    {
        "dynamic_int8": "dl_pipelines.compression.dynamic_int8:DynamicInt8",
        "static_int8": "dl_pipelines.compression.static_int8:StaticInt8",
    },
)
