"""Transforms of one image against torchvision's own transforms and numpy, for the values that the generator draws."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torchvision.transforms import v2

from dl_pipelines.brief.registry import Named
from dl_pipelines.data.registry import AUGMENTATIONS

SHAPES = [(8, 8, 1), (16, 12, 3)]
IMAGES = [name for name in AUGMENTATIONS.names if AUGMENTATIONS.load(name).kind == "image"]
"""Those of series are in test_series_augmentations.py."""


def image_of(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def transform(name: str, **params):
    return AUGMENTATIONS.make(Named(name=name, params=params))


def by_torchvision(image: np.ndarray, what) -> np.ndarray:
    return what(torch.from_numpy(image.transpose(2, 0, 1).copy())).numpy().transpose(1, 2, 0)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("seed", range(5))
def test_rotation(shape, seed):
    """`v2.RandomRotation` of exactly the angle that was drawn."""
    angle = np.random.default_rng(seed).uniform(-30, 30)
    reference = v2.RandomRotation((angle, angle), interpolation=v2.InterpolationMode.BILINEAR, fill=None)
    found = transform("rotation", degrees=30).apply(image_of(shape), np.random.default_rng(seed))
    assert np.abs(found.astype(int) - by_torchvision(image_of(shape), reference)).max() <= 1, "it draws float32"
    assert (found != image_of(shape)).any()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("seed", range(5))
def test_translation(shape, seed):
    """A move by whole pixels is a slice."""
    across, down = np.random.default_rng(seed).integers(-3, 3, 2, endpoint=True)
    image = image_of(shape)
    wanted = np.zeros_like(image)
    height, width = shape[:2]
    wanted[max(down, 0) : height + min(down, 0), max(across, 0) : width + min(across, 0)] = image[
        max(-down, 0) : height + min(-down, 0), max(-across, 0) : width + min(-across, 0)
    ]
    assert (transform("translation", pixels=3).apply(image, np.random.default_rng(seed)) == wanted).all()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("seed", range(5))
def test_brightness(shape, seed):
    """`v2.ColorJitter` with exactly the factor that was drawn."""
    factor = np.random.default_rng(seed).uniform(0.5, 1.8)
    reference = v2.ColorJitter(brightness=(factor, factor))
    found = transform("brightness", factor=(0.5, 1.8)).apply(image_of(shape), np.random.default_rng(seed))
    assert (found == by_torchvision(image_of(shape), reference)).all()


def test_noise():
    grey = np.full((64, 64, 1), 128, np.uint8)
    noise = transform("noise", std=10).apply(grey, np.random.default_rng(0)).astype(float) - 128
    assert abs(noise.mean()) < 4 * 10 / 64
    assert abs(noise.std() - 10) < 4 * 10 / np.sqrt(2 * 64 * 64) + 0.05
    white = transform("noise", std=100).apply(np.full((64, 64, 1), 255, np.uint8), np.random.default_rng(0))
    assert white.max() == 255
    assert (white == 255).mean() == pytest.approx(0.5, abs=0.05)


def test_every_transform_is_of_images_or_of_series():
    kinds = {name: (AUGMENTATIONS.load(name).kind, AUGMENTATIONS.load(name).batched) for name in AUGMENTATIONS.names}
    assert set(kinds.values()) == {("image", False), ("series", True)}


@pytest.mark.parametrize("name", IMAGES)
def test_every_transform_keeps_shape_and_kind_and_leaves_its_input(name):
    for shape in SHAPES:
        image = image_of(shape)
        before = image.copy()
        found = transform(name).apply(image, np.random.default_rng(3))
        assert (found.shape, found.dtype) == (shape, np.uint8)
        assert (image == before).all()


@pytest.mark.parametrize(
    ("name", "params", "message"),
    [
        ("rotation", {"degrees": 90}, "less than or equal to 45"),
        ("rotation", {"degrees": 0}, "greater than 0"),
        ("translation", {"pixels": 0}, "greater than or equal to 1"),
        ("noise", {"std": 300}, "less than or equal to 128"),
        ("brightness", {"factor": (1.2, 0.8)}, r"factor: \[low, high\] with 0 <= low <= high <= 10"),
        ("noise", {"sigma": 3}, "Extra inputs are not permitted"),
    ],
)
def test_wrong_params(name, params, message):
    with pytest.raises(ValidationError, match=message):
        transform(name, **params)
