"""Transforms of a batch of images, drawn from one key an image: what happens to an image depends on nothing beside it.

A transform takes uint8 [N, H, W, C] and gives the same kind. The labels are kept: a brief names only transforms under
which they stay true (a rotated 6 past 90 degrees is a 9).
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from pydantic import Field, model_validator

from dl_pipelines.brief.registry import Params as BaseParams
from dl_pipelines.data.keyed import bits, uniform

if TYPE_CHECKING:
    import numpy as np

SLICE_BYTES = 2**22
"""Of images that are changed at once, so that what is worked out on the way stays small, however many there are."""


class Transform(Protocol):
    """What every augmentation is; `kind` is what it takes, as a task's."""

    kind: ClassVar[str]
    codes: Sequence[int]
    """Columns of an input that hold codes of texts; whoever makes a transform may tell."""
    moves: ClassVar[bool]
    """Whether the inputs may come as Picked: each is read once, and written elsewhere."""

    def apply_batch(
        self, inputs: np.ndarray, targets: np.ndarray, keys: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
        """Variants of inputs [N, ...] with their targets [N, ...]; keys uint64 [N] decide.

        The given arrays may be overwritten: a batch was gathered anew, and copies cost more than most transforms.
        """
        ...


class Picked:
    """Records of an array by their places, instead of the batch that indexing would copy; for who reads each once."""

    def __init__(self, array: np.ndarray, places: list[int]):
        self._array, self._places = array, places
        self.shape, self.dtype = (len(places), *array.shape[1:]), array.dtype

    def __len__(self) -> int:
        return len(self._places)

    @property
    def nbytes(self) -> int:
        """Of the batch."""
        return len(self._places) * self._array[:1].nbytes

    def __getitem__(self, place: int | slice) -> Any:
        """One record, as it lies in the array, or some of them."""
        if isinstance(place, slice):
            return Picked(self._array, self._places[place])
        return self._array[self._places[place]]


class OfImages(ABC):
    """Base of those that change images and not their labels."""

    kind = "image"
    codes: Sequence[int] = ()
    moves: ClassVar[bool] = False
    """Whether pixels go elsewhere, so that images can't be changed where they lie: they may then come as Picked."""

    def apply_batch(
        self, inputs: np.ndarray, targets: np.ndarray, keys: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
        """See Transform.apply_batch; targets are the given ones."""
        import numpy as np

        made = np.empty(inputs.shape, inputs.dtype) if self.moves else inputs
        step = max(1, SLICE_BYTES // max(1, inputs[:1].nbytes))
        for start in range(0, len(inputs), step):
            part = slice(start, start + step)
            self.change(inputs[part], keys[part], made[part])
        return made, targets

    @abstractmethod
    def change(self, images: np.ndarray, keys: np.ndarray, made: np.ndarray) -> None:
        """Write the variant of each image uint8 [N, H, W, C], by its key alone, to `made` (`images` unless `moves`)."""


class Rotation(OfImages):
    """Turns by an angle drawn evenly from -degrees to +degrees, bilinear, empty corners black."""

    class Params(BaseParams):
        """Largest angle, in degrees."""

        degrees: float = Field(default=10, gt=0, le=45)

    def __init__(self, params: Params):
        self.params = params

    def change(self, images: np.ndarray, keys: np.ndarray, made: np.ndarray) -> None:
        """See OfImages.change; torchvision's `rotate` of each angle, for all images at once."""
        import numpy as np
        import torch

        angle = np.radians((2 * uniform(keys, 0, 1)[:, 0] - 1) * self.params.degrees)
        cos, sin, nothing = np.cos(angle), np.sin(angle), np.zeros(len(keys))
        tall = images.shape[1] / images.shape[2]
        # Where each pixel comes from, in coordinates that go from -1 to 1 in both directions.
        source = np.stack([cos, -sin * tall, nothing, sin / tall, cos, nothing], axis=1).reshape(-1, 2, 3)
        pixels = torch.from_numpy(images.astype(np.float32)).permute(0, 3, 1, 2)
        grid = torch.nn.functional.affine_grid(
            torch.from_numpy(source.astype(np.float32)), list(pixels.shape), align_corners=False
        )
        turned = torch.nn.functional.grid_sample(pixels, grid, "bilinear", "zeros", align_corners=False)
        made[...] = turned.round_().permute(0, 2, 3, 1).numpy()


class Translation(OfImages):
    """Moves by whole pixels drawn evenly from -pixels to +pixels in both directions, empty borders black."""

    moves = True

    class Params(BaseParams):
        """Largest move, in pixels."""

        pixels: int = Field(default=1, ge=1, le=64)

    def __init__(self, params: Params):
        self.params = params

    def change(self, images: np.ndarray, keys: np.ndarray, made: np.ndarray) -> None:
        """See OfImages.change."""
        made[...] = 0
        _, height, width, _ = images.shape
        for place, (down, across) in enumerate(_moves(keys, self.params.pixels)):
            (to_rows, rows), (to_columns, columns) = _overlap(height, down), _overlap(width, across)
            made[place, to_rows, to_columns] = images[place][rows, columns]


class Crop(OfImages):
    """Cuts an image of the same size, at a place drawn evenly, out of the image with a mirrored border of `pixels`.

    The border does not repeat the outermost pixel, and is at most half as wide as the image.
    """

    moves = True

    class Params(BaseParams):
        """Width of the border, in pixels."""

        pixels: int = Field(default=4, ge=1, le=64)

    def __init__(self, params: Params):
        self.params = params

    def change(self, images: np.ndarray, keys: np.ndarray, made: np.ndarray) -> None:
        """See OfImages.change."""
        import numpy as np

        count, height, width, channels = images.shape
        widest = max(0, min(self.params.pixels, (height - 1) // 2, (width - 1) // 2))
        target = made.reshape(count, -1)
        columns = made.view((np.void, channels))[..., 0].swapaxes(1, 2)  # numpy copies whole pixels faster
        for place, (down, across) in enumerate(_moves(keys, widest)):
            # All rows move as one piece of memory; what comes in from the rows beside is written over.
            to, whence = _overlap(target.shape[1], (down * width + across) * channels)
            target[place, to] = images[place].reshape(-1)[whence]
            _mirror(columns[place], across)
            _mirror(made[place], down)


class Flip(OfImages):
    """Mirrors a share of the images, left to right. Wrong where left and right tell classes apart: digits, text."""

    class Params(BaseParams):
        """Share of the images that are mirrored."""

        share: float = Field(default=0.5, gt=0, le=1)

    def __init__(self, params: Params):
        self.params = params

    def change(self, images: np.ndarray, keys: np.ndarray, made: np.ndarray) -> None:
        """See OfImages.change."""
        import numpy as np
        import torch

        chosen = np.flatnonzero(uniform(keys, 0, 1)[:, 0] < self.params.share)
        if len(chosen):
            # Seen with channels first, torch mirrors images with channels last many times faster than numpy.
            seen = torch.from_numpy(images[chosen]).permute(0, 3, 1, 2)
            made[chosen] = torch.flip(seen, (3,)).permute(0, 2, 3, 1).numpy()


class Noise(OfImages):
    """Adds Gaussian noise of a standard deviation in intensity (0..255), rounded, clipped to the range."""

    class Params(BaseParams):
        """Standard deviation, in intensity."""

        std: float = Field(default=8, gt=0, le=128)

    def __init__(self, params: Params):
        self.params = params

    @functools.cached_property
    def _levels(self) -> np.ndarray:
        """The noise at 65,536 quantiles, each as likely: int16."""
        import numpy as np
        from scipy.special import ndtri

        return np.rint(self.params.std * ndtri((np.arange(2**16) + 0.5) / 2**16)).astype(np.int16)

    def change(self, images: np.ndarray, keys: np.ndarray, made: np.ndarray) -> None:
        """See OfImages.change."""
        import numpy as np

        drawn = bits(keys, 0, images[0].size).reshape(images.shape)
        noisy = self._levels[drawn]
        noisy += images
        made[...] = np.clip(noisy, 0, 255, out=noisy)


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

    def change(self, images: np.ndarray, keys: np.ndarray, made: np.ndarray) -> None:
        """See OfImages.change."""
        import numpy as np

        low, high = self.params.factor
        factor = (low + (high - low) * uniform(keys, 0, 1)).astype(np.float32)
        scaled = images * factor.reshape(-1, 1, 1, 1)
        made[...] = np.minimum(scaled, 255, out=scaled)


def _moves(keys: np.ndarray, most: int) -> list[list[int]]:
    """Pixels down and across, each evenly from -most to most, of each key."""
    import numpy as np

    return (np.floor(uniform(keys, 0, 2) * (2 * most + 1)).astype(np.int64) - most).tolist()


def _overlap(size: int, move: int) -> tuple[slice, slice]:
    """Where the pixels that stay inside lie after a move along one side, and where they come from."""
    stay, to, source = max(0, size - abs(move)), max(move, 0), max(-move, 0)
    return slice(to, to + stay), slice(source, source + stay)


def _mirror(image: np.ndarray, move: int) -> None:
    """Fill the |move| rows that a move down (up, if below 0) left empty with those beside them, mirrored."""
    if move > 0:
        image[:move] = image[move + 1 : 2 * move + 1][::-1]
    elif move < 0:
        last = len(image) - 1
        image[last + move + 1 :] = image[last + 2 * move : last + move][::-1]
