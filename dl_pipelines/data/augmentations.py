"""Transforms of one image, drawn from a generator that the caller seeds; torchvision's v2 functions do the work.

A transform takes and gives uint8 [H, W, C]. The label of the image is kept: only transforms under which it stays true
belong here (a rotated 6 past 90 degrees is a 9).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Protocol

from pydantic import Field, model_validator

from dl_pipelines.brief.registry import Params as BaseParams

if TYPE_CHECKING:
    import numpy as np
    import torch


class Transform(Protocol):
    """What every augmentation of images is; `kind` is what it takes, as a task's."""

    kind: ClassVar[str]
    batched: ClassVar[bool]

    def apply(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """A variant of `image` uint8 [H, W, C], decided by `rng` alone."""
        ...


class OfImages:
    """Base of those that change one image and not its label."""

    kind = "image"
    batched = False


class Rotation(OfImages):
    """Turns by an angle drawn evenly from -degrees to +degrees, bilinear, empty corners black."""

    class Params(BaseParams):
        """Largest angle, in degrees."""

        degrees: float = Field(default=10, gt=0, le=45)

    def __init__(self, params: Params):
        self.params = params

    def apply(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """See Transform.apply."""
        from torchvision.transforms.v2 import InterpolationMode, functional

        angle = float(rng.uniform(-self.params.degrees, self.params.degrees))
        return _array(functional.rotate(_tensor(image), angle, interpolation=InterpolationMode.BILINEAR))


class Translation(OfImages):
    """Moves by whole pixels drawn evenly from -pixels to +pixels in both directions, empty borders black."""

    class Params(BaseParams):
        """Largest move, in pixels."""

        pixels: int = Field(default=1, ge=1, le=64)

    def __init__(self, params: Params):
        self.params = params

    def apply(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """See Transform.apply."""
        from torchvision.transforms.v2 import functional

        across, down = (int(value) for value in rng.integers(-self.params.pixels, self.params.pixels, 2, endpoint=True))
        moved = functional.affine(_tensor(image), angle=0.0, translate=[across, down], scale=1.0, shear=[0.0, 0.0])
        return _array(moved)


class Noise(OfImages):
    """Adds Gaussian noise of a standard deviation in intensity (0..255), clipped to the range."""

    class Params(BaseParams):
        """Standard deviation, in intensity."""

        std: float = Field(default=8, gt=0, le=128)

    def __init__(self, params: Params):
        self.params = params

    def apply(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """See Transform.apply."""
        import numpy as np

        noisy = image + rng.normal(0, self.params.std, image.shape)
        return np.clip(np.round(noisy), 0, 255).astype(np.uint8)


class Brightness(OfImages):
    """Multiplies the intensity by a factor drawn evenly from a range, clipped to 0..255."""

    class Params(BaseParams):
        """Smallest and largest factor."""

        factor: tuple[float, float] = (0.8, 1.2)

        @model_validator(mode="after")
        def _ordered(self) -> Brightness.Params:
            if not 0 <= self.factor[0] <= self.factor[1] <= 10:
                raise ValueError("factor: [low, high] with 0 <= low <= high <= 10")
            return self

    def __init__(self, params: Params):
        self.params = params

    def apply(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """See Transform.apply."""
        from torchvision.transforms.v2 import functional

        return _array(functional.adjust_brightness(_tensor(image), float(rng.uniform(*self.params.factor))))


def _tensor(image: np.ndarray) -> torch.Tensor:
    import torch

    return torch.from_numpy(image.copy()).permute(2, 0, 1)


def _array(image: torch.Tensor) -> np.ndarray:
    import numpy as np

    return np.ascontiguousarray(image.permute(1, 2, 0).numpy())
