"""Which of K classes an image shows. The served model takes raw pixels, uint8 [N, H, W, C], and gives logits [N, K]."""

from __future__ import annotations

import hashlib
import re
import struct
import zlib
from collections.abc import Iterable, Mapping
from datetime import date
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field as ParamField
from pydantic import WithJsonSchema, field_validator

from dl_pipelines.brief.registry import Params as BaseParams
from dl_pipelines.brief.sections import Split, Validation
from dl_pipelines.tasks import classification
from dl_pipelines.tasks.base import (
    BETWEEN,
    IN_SET,
    NOT_NULL,
    Expectation,
    Field,
    Parity,
    Rows,
    Signature,
    Task,
    Tensor,
)  # fmt: skip

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from PIL.Image import Image

AGREEMENT = 0.98
"""Share of validation rows on which a compressed model must decide as the original; its budget is the task's metric."""

MAX_PIXELS = 50_000_000
"""Larger images are refused: a small file can expand to gigabytes (a decompression bomb)."""


CHUNK = 1024
"""Records whose statistics are taken at once: they need eight times the memory of the inputs."""

MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "I;16", "I")
"""Colour modes that Pillow reads PNG and JPEG files in."""

DAMAGE = (OSError, SyntaxError, EOFError, struct.error, zlib.error, OverflowError, LookupError, TypeError, MemoryError)
"""What Pillow raises on damaged files beside ValueError."""

ClassName = Annotated[str, WithJsonSchema({"type": ["string", "number"]})]


class ImageClassification(Task):
    """Classes are the positions in `params.classes`; images are resized to `height` x `width` by the source."""

    name = "image_classification"
    kind = "image"
    family = "cnn"
    primary = "accuracy"
    row_by_row = True
    metrics = classification.METRICS
    not_applicable: ClassVar[Mapping[str, str]] = {"baselines": "image_classification registers none"}

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

    def facts(self, table: pa.Table) -> dict[str, Any]:
        """shape, dtype, label, mean and std of the pixels, mode. See Task.facts."""
        import numpy as np
        import pyarrow.compute as pc

        known = table.set_column(
            table.schema.get_field_index("label"), "label", pc.fill_null(table["label"], 0)
        )  # inputs only
        inputs = self.rows(known).inputs
        mean, std = np.zeros(len(inputs)), np.zeros(len(inputs))
        for start in range(0, len(inputs), CHUNK):
            part = inputs[start : start + CHUNK].reshape(-1, int(np.prod(self.shape)))
            mean[start : start + CHUNK], std[start : start + CHUNK] = part.mean(axis=1), part.std(axis=1)
        kind = table.schema.field("image").type
        return {
            "shape": ["x".join(map(str, inputs.shape[1:]))] * len(inputs),
            "dtype": [str(getattr(kind, "value_type", kind))] * len(inputs),
            "label": table["label"].to_pylist(),
            "mean": mean,
            "std": std,
            "mode": table["mode"].to_pylist(),
        }

    def expectations(self, validation: Validation) -> tuple[Expectation, ...]:
        """See Task.expectations."""
        low, high = validation.mean_range or (0, 255)
        most = {"mostly": round(1 - validation.max_quarantined, 9)}
        top = len(self.params.classes) - 1
        return (
            Expectation("shape", IN_SET, {"column": "shape", "value_set": ["x".join(map(str, self.shape))]},
                        f"shape {self.shape}"),
            Expectation("dtype", IN_SET, {"column": "dtype", "value_set": ["uint8"]}, "dtype uint8"),
            Expectation("label_present", NOT_NULL, {"column": "label", **most}, "each record has a label"),
            Expectation("label_range", BETWEEN, {"column": "label", "min_value": 0, "max_value": top, **most},
                        f"label from 0 to {top}"),
            Expectation("mean_range", BETWEEN, {"column": "mean", "min_value": low, "max_value": high},
                        f"mean from {low} to {high} intensity"),
            Expectation("not_blank", BETWEEN, {"column": "std", "min_value": 0, "strict_min": True, "mostly": 0.99},
                        "99 % of the records are not one flat value"),
            Expectation("mode", IN_SET, {"column": "mode", "value_set": list(MODES)}, "a known colour mode"),
        )  # fmt: skip

    def split(self, table: pa.Table, as_of: date, shares: Split) -> np.ndarray:
        """By the hash of the record's group: a group is never torn, its split never changes. See Task.split."""
        import numpy as np

        splits = {group: _split_of(group, shares) for group in set(table["group"].to_pylist())}
        return np.array([splits[group] for group in table["group"].to_pylist()], dtype="U10")

    def untrainable(self, table: pa.Table, splits: np.ndarray) -> str | None:
        """See Task.untrainable: at least two classes are needed."""
        labels = table["label"].to_numpy()[splits == "train"]
        found = sorted({self.params.classes[label] for label in labels.tolist()})
        if len(found) >= 2:
            return None
        return (
            f"found {len(found)} class ({', '.join(found)}) in the train split; expected at least two"
            if found
            else ("found no records in the train split")
        )

    def rows(self, table: pa.Table, chosen: np.ndarray | None = None, training: bool = False) -> Rows:
        """Inputs uint8 [N, H, W, C], targets int64 [N]; a slice `class:NAME` for each class. See Task.rows."""
        import numpy as np
        import pyarrow as pa

        if chosen is not None:
            table = table.filter(pa.array(chosen))
        column = table["image"].combine_chunks()
        if isinstance(column, pa.ChunkedArray):
            column = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
        inputs = column.flatten().to_numpy(zero_copy_only=False).astype(np.uint8).reshape(-1, *self.shape)
        targets = table["label"].to_numpy().astype(np.int64)
        slices = {f"class:{name}": targets == label for label, name in enumerate(self.params.classes)}
        return Rows(inputs, targets, np.array(table["id"].to_pylist(), dtype=object), slices)

    def fit(self, table: pa.Table, chosen: np.ndarray) -> dict[str, Any]:
        """`mean` and `std` of each channel, scaled to 0..1; `class_counts`, rows of each class. See Task.fit."""
        return self.fit_pieces([(table, chosen)])

    def fit_pieces(self, pieces: Iterable[tuple[pa.Table, np.ndarray]]) -> dict[str, Any]:
        """From how often each intensity is there. See Task.fit_pieces."""
        import numpy as np

        counts = np.zeros((self.params.channels, 256), np.int64)
        classes = np.zeros(len(self.params.classes), np.int64)
        for table, chosen in pieces:
            rows = self.rows(table, chosen)
            classes += np.bincount(rows.targets, minlength=len(classes))
            pixels = rows.inputs.reshape(-1, self.params.channels)
            counts += [np.bincount(channel, minlength=256) for channel in pixels.T]
        scaled, total = np.arange(256) / 255, np.maximum(1, counts.sum(axis=1))
        mean = counts @ scaled / total
        std = np.sqrt((counts * (scaled - mean[:, None]) ** 2).sum(axis=1) / total)
        return {
            "mean": [round(float(value), 8) for value in mean],
            "std": [round(float(max(value, 1e-3)), 8) for value in std],
            "class_counts": classes.tolist(),
        }

    def described(self, statistics: Mapping[str, Any]) -> dict[str, str]:
        """See Task.described."""
        told = ", ".join(f"{name} {'/'.join(f'{value:.4g}' for value in statistics[name])}" for name in ("mean", "std"))
        return {
            "normalization": f"mean 0, deviation 1 by the train rows' {told}",
            "transformations": "inside the model: the served model takes raw inputs; values are scaled to 0..1",
        }

    def told(self) -> dict[str, str]:
        """See Task.told."""
        return {
            "split": "by the hash of the group",
            "output": "one number for each answer that the task allows",
            "activation": "none: the decision needs no probabilities",
        }

    def label_type(self) -> pa.DataType:
        """The position in the classes."""
        return self.arrow_schema().field("label").type

    def labels_of(self, targets: np.ndarray) -> list[Any]:
        """See Task.labels_of."""
        return targets.tolist()

    def targets_of(self, labels: list[Any]) -> np.ndarray:
        """See Task.targets_of."""
        import numpy as np

        return np.array(labels, np.int64)

    def measure(self, outputs: np.ndarray, targets: np.ndarray) -> dict[str, float]:
        """See classification.measure."""
        return classification.measure(outputs, targets)

    def reliability(self, outputs: np.ndarray, targets: np.ndarray) -> list[dict[str, float]]:
        """See classification.reliability."""
        return classification.reliability(outputs, targets)

    score = "right answers"

    def scores(self, outputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """1 where the class is right, else 0; see Task.scores."""
        return (self.decisions(outputs) == targets).astype(float)

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
