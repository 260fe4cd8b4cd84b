"""Which of K classes an image shows. The served model takes raw pixels, uint8 [N, H, W, C], and gives logits [N, K]."""

from __future__ import annotations

import hashlib
import re
import struct
import zlib
from collections.abc import Mapping
from datetime import date
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field as ParamField
from pydantic import WithJsonSchema, field_validator

from dl_pipelines.brief.registry import Params as BaseParams
from dl_pipelines.brief.sections import Split
from dl_pipelines.tasks import classification
from dl_pipelines.tasks.base import Field, Parity, Rows, Signature, Task, Tensor

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from PIL.Image import Image

AGREEMENT = 0.98
"""Share of validation rows on which a compressed model must decide as the original; its budget is the task's metric."""

MAX_PIXELS = 50_000_000
"""Larger images are refused: a small file can expand to gigabytes (a decompression bomb)."""


DAMAGE = (OSError, SyntaxError, EOFError, struct.error, zlib.error, OverflowError, LookupError, TypeError, MemoryError)
"""What Pillow raises on damaged files beside ValueError."""

ClassName = Annotated[str, WithJsonSchema({"type": ["string", "number"]})]


class ImageClassification(Task):
    """Classes are the positions in `params.classes`; images are resized to `height` x `width` by the source."""

    name = "image_classification"
    primary = "accuracy"
    metrics = classification.METRICS
    not_applicable: ClassVar[Mapping[str, str]] = {}

    class Params(BaseParams):
        """Class names in the order of their labels; the size in pixels that a record has."""

        classes: tuple[ClassName, ...] = ParamField(min_length=2, max_length=10_000)
        height: int = ParamField(default=8, ge=4, le=1024)
        width: int = ParamField(default=8, ge=4, le=1024)
        channels: int = ParamField(default=1, ge=1, le=3)

        @field_validator("classes", mode="before")
        @classmethod
        def _names(cls, value: Any) -> Any:
            if not isinstance(value, list | tuple):
                return value
            if any(isinstance(item, bool) for item in value):
                raise ValueError("class names as text; YAML reads yes, no, on, off as truth values: quote them")
            return [str(item) if isinstance(item, int | float) else item for item in value]

        @field_validator("classes")
        @classmethod
        def _unique(cls, value: tuple[str, ...]) -> tuple[str, ...]:
            if len(set(value)) != len(value):
                raise ValueError("class names that differ")
            return value

        @field_validator("channels")
        @classmethod
        def _grey_or_colour(cls, value: int) -> int:
            if value == 2:
                raise ValueError("1 (grey) or 3 (RGB) channels")
            return value

    def __init__(self, params: Params):
        self.params = params

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width, channels."""
        return self.params.height, self.params.width, self.params.channels

    def fields(self) -> tuple[Field, ...]:
        """See Task.fields."""
        classes = len(self.params.classes)
        return (
            Field("id", "string", "id", description="unique, stable for the same record"),
            Field("date", "date32", "date", description="the day it arrived"),
            Field("event_time", "timestamp", "event_time", description="when it was taken, UTC"),
            Field("group", "string", "group", description="records of one group stay in one split"),
            Field("image", "uint8", "input", self.shape, 0, 255, "intensity", "raw pixels, row by row"),
            Field("label", "int64", "target", (), 0, classes - 1, "class", "position in the classes"),
            Field("mode", "string", "about", description="colour mode of the original: L, RGB"),
            Field("source_height", "int32", "about", unit="px", description="height of the original"),
            Field("source_width", "int32", "about", unit="px", description="width of the original"),
            Field("sha256", "string", "about", description="of the original's bytes"),
            Field("uri", "string", "about", description="where it came from"),
        )

    def arrow_schema(self) -> pa.Schema:
        """See Task.arrow_schema; `image` is a fixed-size list of H*W*C uint8."""
        import pyarrow as pa

        height, width, channels = self.shape
        types = {
            "string": pa.string(),
            "date32": pa.date32(),
            "timestamp": pa.timestamp("us", tz="UTC"),
            "uint8": pa.list_(pa.uint8(), height * width * channels),
            "int64": pa.int64(),
            "int32": pa.int32(),
        }
        return pa.schema([pa.field(field.name, types[field.dtype]) for field in self.fields()])

    def split(self, table: pa.Table, as_of: date, shares: Split) -> np.ndarray:
        """By the hash of the record's group: a group is never torn, its split never changes. See Task.split."""
        import numpy as np

        splits = {group: _split_of(group, shares) for group in set(table["group"].to_pylist())}
        return np.array([splits[group] for group in table["group"].to_pylist()], dtype="U10")

    def untrainable(self, targets: np.ndarray) -> str | None:
        """See Task.untrainable: at least two classes are needed."""
        found = sorted({self.params.classes[label] for label in targets.tolist()})
        if len(found) >= 2:
            return None
        return (
            f"found {len(found)} class ({', '.join(found)}) in the train split; expected at least two"
            if found
            else ("found no records in the train split")
        )

    def rows(self, table: pa.Table) -> Rows:
        """Inputs uint8 [N, H, W, C], targets int64 [N]; a slice `class:NAME` for each class. See Task.rows."""
        import numpy as np
        import pyarrow as pa

        column = table["image"].combine_chunks()
        if isinstance(column, pa.ChunkedArray):
            column = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
        inputs = column.flatten().to_numpy(zero_copy_only=False).astype(np.uint8).reshape(-1, *self.shape)
        targets = table["label"].to_numpy().astype(np.int64)
        slices = {f"class:{name}": targets == label for label, name in enumerate(self.params.classes)}
        return Rows(inputs, targets, np.array(table["id"].to_pylist(), dtype=object), slices)

    def measure(self, outputs: np.ndarray, targets: np.ndarray) -> dict[str, float]:
        """See classification.measure."""
        return classification.measure(outputs, targets)

    def reliability(self, outputs: np.ndarray, targets: np.ndarray) -> list[dict[str, float]]:
        """See classification.reliability."""
        return classification.reliability(outputs, targets)

    def decisions(self, outputs: np.ndarray) -> np.ndarray:
        """The class of the largest logit, int64 [N]."""
        return outputs.argmax(axis=1)

    def answer(self, output: np.ndarray) -> dict[str, Any]:
        """Label, class name and confidence of one row of logits [K]."""
        probabilities = classification.softmax(output[None])[0]
        label = int(probabilities.argmax())
        return {
            "label": label,
            "class": self.params.classes[label],
            "confidence": float(probabilities[label]),
        }

    def signature(self) -> Signature:
        """`image` uint8 [H, W, C] -> `logits` float32 [K]."""
        return Signature(
            inputs=(Tensor("image", "uint8", self.shape),),
            outputs=(Tensor("logits", "float32", (len(self.params.classes),)),),
            summary="image",
            labels=self.params.classes,
        )

    def parity(self, reference: np.ndarray, other: np.ndarray, tolerance: float, exact: bool = True) -> Parity:
        """Logits within `tolerance` and decisions equal where the margin is wider than it; see Task.parity."""
        import numpy as np

        if reference.shape != other.shape:
            return Parity(
                False,
                len(reference),
                float("inf"),
                0.0,
                tolerance,
                f"found outputs of shape {other.shape}; expected {reference.shape}",
            )
        if not len(reference):
            return Parity(False, 0, float("inf"), 0.0, tolerance, "found no rows to compare; expected at least one")
        with np.errstate(invalid="ignore"):
            difference = float(np.abs(reference.astype(np.float64) - other).max())
        agreement = float((reference.argmax(1) == other.argmax(1)).mean())
        finite = bool(np.isfinite(reference).all() and np.isfinite(other).all())
        passed = finite and (difference <= tolerance if exact else agreement >= AGREEMENT)
        rule = f"largest difference <= {tolerance:g}" if exact else f"agreement >= {AGREEMENT:.0%}"
        summary = f"{len(reference)} rows: largest difference {difference:.2e}, agreement {agreement:.2%} ({rule})"
        return Parity(passed, len(reference), difference, agreement, tolerance, summary)

    def read_input(self, path: str) -> np.ndarray:
        """An image file as uint8 [H, W, C]. Raises ValueError naming the file."""
        try:
            image, _ = self.decode(path)
        except ValueError as error:
            raise ValueError(f"found {path}: {error}; expected an image file; give another") from error
        return image

    def decode(self, path: str) -> tuple[np.ndarray, dict[str, Any]]:
        """Open, bound, convert and resize one image file: uint8 [H, W, C], and mode, size and sha256 of the original.

        An image is seen as a viewer shows it: turned as its EXIF says, 16 bits scaled to 8, transparency left out, of
        an animation the first frame. What the bytes are decides, not the name.
        Raises ValueError saying why the file can't be used (unreadable, truncated, too many pixels).
        """
        import io
        import warnings
        from pathlib import Path

        import numpy as np
        from PIL import Image, ImageOps

        try:
            raw = Path(path).read_bytes()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Pillow warns of what it could read all the same
                with Image.open(io.BytesIO(raw), formats=("PNG", "JPEG")) as image:
                    about = {"mode": image.mode, "source_height": image.height, "source_width": image.width}
                    if image.width * image.height > MAX_PIXELS:
                        raise ValueError(f"{image.width} x {image.height} pixels; at most {MAX_PIXELS:,} are read")
                    image.load()
                    wanted = _eight_bits(ImageOps.exif_transpose(image))
                    wanted = wanted.convert("L" if self.params.channels == 1 else "RGB")
                with Image.open(io.BytesIO(raw), formats=("PNG", "JPEG")) as image:
                    image.verify()  # checksums of a PNG, and its end: `load` stops at the last pixel
        except Image.DecompressionBombError as error:
            raise ValueError(f"too many pixels (a decompression bomb): {error}") from error
        except DAMAGE as error:
            # Pillow names the buffer by its address in memory, which differs from run to run.
            reason = re.sub(r"<[\w.]+ object at 0x[0-9a-f]+>", "it", str(error)) or type(error).__name__
            raise ValueError(f"not a readable PNG or JPEG: {reason}") from error
        size = (self.params.width, self.params.height)
        if wanted.size != size:
            wanted = wanted.resize(size, Image.Resampling.BILINEAR)
        pixels = np.asarray(wanted, dtype=np.uint8).reshape(self.shape)
        return pixels, {**about, "sha256": hashlib.sha256(raw).hexdigest()}


def _eight_bits(image: Image) -> Image:
    """A grey image of 16 bits with 8: Pillow's `convert` would clip it to white."""
    import numpy as np
    from PIL import Image

    if not image.mode.startswith("I"):
        return image
    return Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).clip(0, 255).astype(np.uint8))


def _split_of(group: str, shares: Split) -> str:
    place = int.from_bytes(hashlib.sha256(f"split:{group}".encode()).digest()[:8], "big") / 2**64
    if place < shares.test:
        return "test"
    return "validation" if place < shares.test + shares.validation else "train"
