"""The tasks that a brief may name: one line each."""

from __future__ import annotations

from dl_pipelines.brief.registry import Kind

TASKS = Kind(
    "task",
    {
        "forecasting": "dl_pipelines.tasks.forecasting:Forecasting",
        "image_classification": "dl_pipelines.tasks.image_classification:ImageClassification",
    },
)
