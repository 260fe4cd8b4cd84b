"""The sources and augmentations that a brief may name: one line each."""

from __future__ import annotations

from dl_pipelines.brief.registry import Kind

SOURCES = Kind(
    "source",
    {
        "demand": "dl_pipelines.data.sources.demand:Demand",
        "digits": "dl_pipelines.data.sources.digits:Digits",
        "image_folder": "dl_pipelines.data.sources.image_folder:ImageFolder",
        "series_files": "dl_pipelines.data.sources.series_files:SeriesFiles",
        "sql": "dl_pipelines.data.sources.sql:Sql",
        "statsmodels_series": "dl_pipelines.data.sources.statsmodels_series:StatsmodelsSeries",
    },
)
AUGMENTATIONS = Kind(
    "augmentation",
    {
        "brightness": "dl_pipelines.data.augmentations:Brightness",
        "crop": "dl_pipelines.data.augmentations:Crop",
        "flip": "dl_pipelines.data.augmentations:Flip",
        "jitter": "dl_pipelines.data.series_augmentations:Jitter",
        "mixup": "dl_pipelines.data.series_augmentations:Mixup",
        "noise": "dl_pipelines.data.augmentations:Noise",
        "rotation": "dl_pipelines.data.augmentations:Rotation",
        "scaling": "dl_pipelines.data.series_augmentations:Scaling",
        "translation": "dl_pipelines.data.augmentations:Translation",
        "window_warping": "dl_pipelines.data.series_augmentations:WindowWarping",
    },
)
