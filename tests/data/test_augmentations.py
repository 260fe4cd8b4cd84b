"""Transforms of images against torchvision's own functions, one image at a time, for the values that its key draws."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torchvision.transforms.v2 import InterpolationMode, functional

from dl_pipelines.brief.registry import Named
from dl_pipelines.data import augmentations
from dl_pipelines.data.keyed import keys_of, uniform
from dl_pipelines.data.registry import AUGMENTATIONS

SHAPES = [(8, 8, 1), (16, 12, 3), (5, 9, 1)]
COUNT = 40
IMAGES = [name for name in AUGMENTATIONS.names if AUGMENTATIONS.load(name).kind == "image"]
"""Those of series are in test_series_augmentations.py."""
KEYS = keys_of(np.array([f"r{place}" for place in range(COUNT)]), 3)
TARGETS = np.arange(COUNT)
DRAWN = uniform(KEYS, 0, 2)
"""What each image's key draws first, from [0, 1)."""


def images_of(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (COUNT, *shape), np.uint8)


def transform(name: str, **params):
    return AUGMENTATIONS.make(Named(name=name, params=params))


def changed(name: str, images: np.ndarray, **params) -> np.ndarray:
    found, targets = transform(name, **params).apply_batch(images.copy(), TARGETS, KEYS)
    assert targets is TARGETS
    return found


def by_torchvision(images: np.ndarray, what) -> np.ndarray:
    """`what(image [C, H, W], place)` of each image."""
    made = [what(torch.from_numpy(image.transpose(2, 0, 1).copy()), place) for place, image in enumerate(images)]
    return torch.stack(made).numpy().transpose(0, 2, 3, 1)


def moves(most: int) -> np.ndarray:
    """Down and across, [N, 2]."""
    found = np.floor(DRAWN * (2 * most + 1)).astype(int) - most
    assert set(found.ravel()) == set(range(-most, most + 1)) or most > 9
    return found


@pytest.mark.parametrize("shape", SHAPES)
def test_rotation(shape):
    angles = (2 * DRAWN[:, 0] - 1) * 30
    wanted = by_torchvision(
        images_of(shape), lambda image, place: functional.rotate(image, angles[place], InterpolationMode.BILINEAR)
    )
    found = changed("rotation", images_of(shape), degrees=30)
    assert np.abs(found.astype(int) - wanted).max() <= 1, "both work in float32"
    assert (found == wanted).mean() > 0.99
    assert (found != images_of(shape)).any(axis=(1, 2, 3)).all()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("pixels", [2, 20])
def test_translation(shape, pixels):
    down, across = moves(pixels).T.tolist()

    def moved(image, place):
        return functional.affine(image, 0.0, [across[place], down[place]], 1.0, [0.0, 0.0])

    assert (changed("translation", images_of(shape), pixels=pixels) == by_torchvision(images_of(shape), moved)).all()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("pixels", [1, 2, 20])
def test_crop(shape, pixels):
    height, width = shape[:2]
    most = min(pixels, (height - 1) // 2, (width - 1) // 2)
    top, left = (most - moves(most)).T.tolist()

    def cropped(image, place):
        padded = functional.pad(image, [most], padding_mode="reflect")
        return functional.crop(padded, top[place], left[place], height, width)

    assert (changed("crop", images_of(shape), pixels=pixels) == by_torchvision(images_of(shape), cropped)).all()


def test_an_image_of_one_pixel_is_its_only_crop():
    assert (changed("crop", images_of((1, 1, 3))) == images_of((1, 1, 3))).all()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("share", [0.3, 1])
def test_flip(shape, share):
    flips = DRAWN[:, 0] < share
    wanted = by_torchvision(
        images_of(shape), lambda image, place: functional.horizontal_flip(image) if flips[place] else image
    )
    assert (changed("flip", images_of(shape), share=share) == wanted).all()
    assert flips.mean() == pytest.approx(share, abs=0.2)


def test_no_image_is_flipped():
    kept = int(np.argmax(DRAWN[:, 0]))
    images = images_of((8, 8, 1))[kept : kept + 1]
    found, _ = transform("flip", share=0.01).apply_batch(images, TARGETS[:1], KEYS[kept : kept + 1])
    assert (found == images).all()


@pytest.mark.parametrize("shape", SHAPES)
def test_brightness(shape):
    factors = 0.5 + 1.3 * DRAWN[:, 0]
    wanted = by_torchvision(
        images_of(shape), lambda image, place: functional.adjust_brightness(image, float(factors[place]))
    )
    assert (changed("brightness", images_of(shape), factor=(0.5, 1.8)) == wanted).all()


def test_noise():
    noise = changed("noise", np.full((COUNT, 64, 64, 1), 128, np.uint8), std=10).astype(float) - 128
    count = noise.size
    assert abs(noise.mean()) < 4 * 10 / np.sqrt(count)
    assert noise.std() == pytest.approx(np.sqrt(10**2 + 1 / 12), abs=4 * 10 / np.sqrt(2 * count))
    assert (np.abs(noise) <= 10.5).mean() == pytest.approx(0.706, abs=0.01), "as far as 1.05 deviations"
    assert (np.abs(noise) > 30.5).mean() == pytest.approx(0.0023, abs=0.0005)
    apart = np.corrcoef(noise.reshape(COUNT, -1))
    assert np.abs(apart - np.eye(COUNT)).max() < 0.08, "no two images have the same noise"
    along = [np.corrcoef(noise[..., :-lag, :].ravel(), noise[..., lag:, :].ravel())[0, 1] for lag in (1, 2, 3, 4)]
    assert np.abs(along).max() < 0.01, "nor have two pixels"
    white = changed("noise", np.full((COUNT, 8, 8, 1), 255, np.uint8), std=100)
    assert (white == 255).mean() == pytest.approx(0.5, abs=0.05)
    black = changed("noise", np.zeros((COUNT, 8, 8, 1), np.uint8), std=128)
    assert (black == 0).mean() == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("name", IMAGES)
def test_what_becomes_of_an_image_depends_on_its_key_alone(name, monkeypatch):
    """Neither on its batch nor on its place, nor on how many are changed at once."""
    images = images_of((16, 12, 3))
    whole = changed(name, images)
    assert (whole.shape, whole.dtype) == (images.shape, np.uint8)
    assert (whole != images).any()
    order = np.random.default_rng(0).permutation(COUNT)
    assert (transform(name).apply_batch(images[order], TARGETS, KEYS[order])[0] == whole[order]).all()
    ones = [(images[place : place + 1].copy(), TARGETS[:1], KEYS[place : place + 1]) for place in range(5)]
    alone = [transform(name).apply_batch(*one)[0][0] for one in ones]
    assert (np.stack(alone) == whole[:5]).all()
    monkeypatch.setattr(augmentations, "SLICE_BYTES", 3 * images[0].nbytes)
    assert (changed(name, images) == whole).all()
    assert transform(name).apply_batch(images[:0], TARGETS[:0], KEYS[:0])[0].shape == (0, 16, 12, 3)


@pytest.mark.parametrize("name", [name for name in IMAGES if AUGMENTATIONS.load(name).moves])
def test_what_moves_takes_images_from_where_they_lie(name):
    images, places = images_of((16, 12, 3)), np.random.default_rng(0).permutation(COUNT)
    images.flags.writeable = False
    picked: Any = augmentations.Picked(images, places.tolist())
    assert (len(picked), picked.shape, picked.nbytes) == (COUNT, images.shape, images.nbytes)
    found, _ = transform(name).apply_batch(picked, TARGETS, KEYS)
    assert (found == changed(name, images[places])).all()


def test_every_transform_is_of_images_or_of_series():
    assert {AUGMENTATIONS.load(name).kind for name in AUGMENTATIONS.names} == {"image", "series"}


@pytest.mark.parametrize(
    ("name", "params", "message"),
    [
        ("rotation", {"degrees": 90}, "less than or equal to 45"),
        ("rotation", {"degrees": 0}, "greater than 0"),
        ("translation", {"pixels": 0}, "greater than or equal to 1"),
        ("crop", {"pixels": 65}, "less than or equal to 64"),
        ("flip", {"share": 0}, "greater than 0"),
        ("noise", {"std": 300}, "less than or equal to 128"),
        ("brightness", {"factor": (1.2, 0.8)}, r"factor: \[low, high\] with 0 <= low <= high <= 10"),
        ("noise", {"sigma": 3}, "Extra inputs are not permitted"),
    ],
)
def test_wrong_params(name, params, message):
    with pytest.raises(ValidationError, match=message):
        transform(name, **params)
