"""The sources and augmentations that a brief may name: one line each."""

from __future__ import annotations

from dl_pipelines.brief.registry import Kind

SOURCES = Kind(
    "source",
    {
        "digits": "dl_pipelines.data.sources.digits:Digits",
        "image_folder": "dl_pipelines.data.sources.image_folder:ImageFolder",
    },
)
AUGMENTATIONS = Kind(
    "augmentation",
    {
        "brightness": "dl_pipelines.data.augmentations:Brightness",
        "noise": "dl_pipelines.data.augmentations:Noise",
        "rotation": "dl_pipelines.data.augmentations:Rotation",
        "translation": "dl_pipelines.data.augmentations:Translation",
    },
)
