"""The task: params, split, rows, parity, and reading images that are odd, broken or hostile."""

from __future__ import annotations

import hashlib
import io
import struct
import zlib
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pydantic import ValidationError

from dl_pipelines.brief.sections import Split
from dl_pipelines.tasks.base import Task
from dl_pipelines.tasks.image_classification import AGREEMENT, MAX_PIXELS, ImageClassification

DAY = date(2026, 1, 1)


def make(**params: Any) -> ImageClassification:
    given = {"classes": ["a", "b", "c"], "height": 8, "width": 6, "channels": 3} | params
    return ImageClassification(ImageClassification.Params.model_validate(given))


@pytest.fixture
def rgb() -> ImageClassification:
    return make()


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"classes": ["a"]}, "at least 2 items"),
        ({"classes": ["a", "b", "a"]}, "class names that differ"),
        ({"classes": [1, "1"]}, "class names that differ"),
        ({"classes": [True, False]}, "class names as text; YAML reads yes, no, on, off as truth values: quote them"),
        ({"classes": "ab"}, "valid tuple"),
        ({"channels": 2}, r"1 \(grey\) or 3 \(RGB\) channels"),
        ({"channels": 4}, "less than or equal to 3"),
        ({"height": 3}, "greater than or equal to 4"),
        ({"width": 1025}, "less than or equal to 1024"),
        ({"depth": 3}, "Extra inputs are not permitted"),
    ],
)
def test_wrong_params(params: dict[str, Any], message: str):
    with pytest.raises(ValidationError, match=message):
        make(**params)


def test_numbers_may_name_classes():
    assert make(classes=[0, 1.5, "x"]).params.classes == ("0", "1.5", "x")


def test_the_signature_is_of_raw_pixels(rgb: ImageClassification):
    signature = rgb.signature()
    assert [(item.name, item.dtype, item.shape) for item in (*signature.inputs, *signature.outputs)] == [
        ("image", "uint8", (8, 6, 3)),
        ("logits", "float32", (3,)),
    ]
    assert signature.labels == ("a", "b", "c")
    assert rgb.arrow_schema().names == [field.name for field in rgb.fields()]
    assert rgb.arrow_schema().field("image").type == pa.list_(pa.uint8(), 144)


def grouped(count: int, per_group: int = 1) -> pa.Table:
    return pa.table({"group": [f"g{number // per_group}" for number in range(count)]})


@pytest.mark.parametrize(("validation", "test"), [(0.15, 0.15), (0.05, 0.4), (0.5, 0.1)])
def test_shares_are_as_asked(rgb: ImageClassification, validation: float, test: float):
    found = rgb.split(grouped(20_000), DAY, Split(validation=validation, test=test))
    for name, share in (("validation", validation), ("test", test), ("train", 1 - validation - test)):
        # Four standard deviations of a binomial share.
        assert abs((found == name).mean() - share) < 4 * (share * (1 - share) / 20_000) ** 0.5


def test_a_group_is_never_torn_and_never_moves(rgb: ImageClassification):
    table, shares = grouped(3000, per_group=3), Split()
    first = rgb.split(table, DAY, shares).reshape(-1, 3)
    assert (first == first[:, :1]).all()
    assert set(first.ravel()) == {"train", "validation", "test"}
    order = np.random.default_rng(0).permutation(3000)
    later = rgb.split(pa.concat_tables([grouped(6000).slice(4000), table.take(order)]), date(2027, 5, 1), shares)
    assert (later[2000:] == first.ravel()[order]).all()


def test_a_smaller_test_share_moves_no_record_into_test(rgb: ImageClassification):
    table = grouped(5000)
    large, small = (rgb.split(table, DAY, Split(test=share)) for share in (0.3, 0.1))
    assert set(np.flatnonzero(small == "test")) < set(np.flatnonzero(large == "test"))


def test_no_records_have_a_split(rgb: ImageClassification):
    assert rgb.split(grouped(3).slice(3), DAY, Split()).shape == (0,)


@pytest.mark.parametrize(
    ("targets", "reason"),
    [
        ([0, 1], None),
        ([2, 2], "found 1 class (c) in the train split; expected at least two"),
        ([], "found no records in the train split"),
    ],
)
def test_what_cant_be_trained_on(rgb: ImageClassification, targets: list[int], reason: str | None):
    table = pa.table({"label": pa.array([*targets, 1], pa.int64())})
    assert rgb.untrainable(table, np.array(["train"] * len(targets) + ["test"])) == reason


def records(count: int) -> tuple[pa.Table, np.ndarray]:
    pixels = np.random.default_rng(0).integers(0, 256, (count, 8, 6, 3), dtype=np.uint8)
    images = pa.FixedSizeListArray.from_arrays(pa.array(pixels.reshape(-1)), 144)
    labels = pa.array(np.arange(count) % 3)
    return pa.table({"id": [f"r{number}" for number in range(count)], "image": images, "label": labels}), pixels


def test_rows_are_arrays_in_order(rgb: ImageClassification):
    table, pixels = records(10)
    for part, expected in ((table, pixels), (table.slice(4, 3), pixels[4:7]), (table.slice(10), pixels[10:])):
        rows = rgb.rows(part)
        assert rows.inputs.dtype == np.uint8
        assert (rows.inputs == expected).all()
        assert rows.inputs.shape == expected.shape
        assert rows.ids.tolist() == part["id"].to_pylist()
        assert rows.targets.tolist() == part["label"].to_pylist()
        assert {name: chosen.tolist() for name, chosen in rows.slices.items()} == {
            f"class:{name}": [label == place for label in part["label"].to_pylist()] for place, name in enumerate("abc")
        }
    chunked = rgb.rows(pa.concat_tables([table.slice(7), table.slice(0, 7)]))
    assert (chunked.inputs == np.concatenate([pixels[7:], pixels[:7]])).all()


def test_it_is_fitted_on_the_chosen_rows(rgb: ImageClassification):
    table, pixels = records(10)
    chosen = np.arange(10) != 3
    found = rgb.fit(table, chosen)
    scaled = pixels[chosen].reshape(-1, 3) / 255
    assert found["mean"] == pytest.approx(scaled.mean(axis=0), abs=1e-8)
    assert found["std"] == pytest.approx(scaled.std(axis=0), abs=1e-8)
    assert found["class_counts"] == [3, 3, 3]  # the row that is left out is of the first class, as are four of ten


def test_pieces_are_fitted_as_the_whole_is(rgb: ImageClassification):
    table, _ = records(10)
    chosen = np.arange(10) != 3
    pieces = [(table.slice(start, 4), chosen[start : start + 4]) for start in (0, 4, 8)]
    assert rgb.fit_pieces(iter(pieces)) == rgb.fit(table, chosen)
    assert Task.fit_pieces(rgb, iter(pieces)) == rgb.fit(table, chosen), "joined, as a task does that needs the whole"


def test_an_answer_is_for_people(rgb: ImageClassification):
    answer = rgb.answer(np.log(np.array([0.2, 0.7, 0.1], np.float32)))
    assert answer == {"label": 1, "class": "b", "confidence": pytest.approx(0.7)}
    assert rgb.decisions(np.array([[0, 1, 0], [3, 1, 2]])).tolist() == [1, 0]


@pytest.fixture
def logits() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(100, 3)).astype(np.float32)


def test_parity_within_the_tolerance(rgb: ImageClassification, logits: np.ndarray):
    found = rgb.parity(logits, logits + np.float32(5e-4), 1e-3)
    assert (found.passed, found.rows, found.agreement) == (True, 100, 1.0)
    assert found.max_difference == pytest.approx(5e-4, rel=1e-3)
    assert found.summary == "100 rows: largest difference 5.00e-04, agreement 100.00% (largest difference <= 0.001)"
    assert not rgb.parity(logits, logits + np.float32(2e-3), 1e-3).passed


def test_parity_of_a_compressed_model_is_of_its_decisions(rgb: ImageClassification, logits: np.ndarray):
    wrong = round(100 * (1 - AGREEMENT))
    for count, passed in ((wrong, True), (wrong + 1, False)):
        other = 3 * logits
        other[:count] = -other[:count]
        found = rgb.parity(logits, other, 1e-3, exact=False)
        assert (found.passed, found.agreement) == (passed, pytest.approx(1 - count / 100))
    assert found.summary.endswith("agreement 97.00% (agreement >= 98%)")


@pytest.mark.parametrize("exact", [True, False])
def test_parity_fails_on_what_cant_be_compared(rgb: ImageClassification, logits: np.ndarray, exact: bool):
    found = rgb.parity(logits, logits[:, :2], 1e-3, exact)
    assert not found.passed
    assert found.summary == "found outputs of shape (100, 2); expected (100, 3)"
    found = rgb.parity(logits[:0], logits[:0], 1e-3, exact)
    assert not found.passed
    assert found.summary == "found no rows to compare; expected at least one"
    for bad in (np.nan, np.inf, -np.inf):
        broken = logits.copy()
        broken[5, logits[5].argmin()] = bad
        for pair in ((logits, broken), (broken, logits), (broken, broken)):
            assert not rgb.parity(*pair, 1e-3, exact).passed


GREY = np.arange(48, dtype=np.uint8).reshape(8, 6) * 5
COLOUR = np.stack([GREY, 255 - GREY, np.full_like(GREY, 90)], axis=-1)


def saved(path: Path, image: Image.Image, **options: Any) -> Path:
    image.save(path, **options)
    return path


def test_a_png_is_read_pixel_by_pixel(rgb: ImageClassification, tmp_path: Path):
    path = saved(tmp_path / "a.png", Image.fromarray(COLOUR))
    pixels, about = rgb.decode(str(path))
    assert pixels.dtype == np.uint8
    assert (pixels == COLOUR).all()
    assert about == {
        "mode": "RGB", "source_height": 8, "source_width": 6, "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
    }  # fmt: skip
    assert (rgb.read_input(str(path)) == COLOUR).all()
    grey = make(channels=1).read_input(str(path))
    assert grey.shape == (8, 6, 1)
    # ITU-R 601-2 luma, which Pillow's documentation gives for `L`.
    assert np.abs(grey[..., 0] - COLOUR @ np.array([0.299, 0.587, 0.114])).max() <= 1


@pytest.mark.parametrize(
    ("mode", "convert"),
    [
        ("L", lambda: Image.fromarray(GREY)),
        ("LA", lambda: Image.fromarray(np.dstack([GREY, GREY]))),
        ("I;16", lambda: Image.fromarray(GREY.astype(np.uint16) * 257)),
    ],
)
def test_grey_images_of_other_modes(rgb: ImageClassification, tmp_path: Path, mode: str, convert):
    pixels, about = rgb.decode(str(saved(tmp_path / "a.png", convert())))
    assert about["mode"] == mode
    assert (pixels == GREY[..., None]).all()


def test_palette_and_transparency(rgb: ImageClassification, tmp_path: Path):
    palette = Image.fromarray(COLOUR).quantize(48)
    exact = np.asarray(palette.convert("RGB"))
    for name, options in (("p.png", {}), ("t.png", {"transparency": b"\x00\x80" * 24})):
        pixels, about = rgb.decode(str(saved(tmp_path / name, palette, **options)))
        assert about["mode"] == "P"
        assert (pixels == exact).all()
    pixels, about = rgb.decode(str(saved(tmp_path / "rgba.png", Image.fromarray(np.dstack([COLOUR, GREY])))))
    assert about["mode"] == "RGBA"
    assert (pixels == COLOUR).all()


@pytest.mark.parametrize("mode", ["RGB", "CMYK"])
def test_a_jpeg_is_read_nearly(rgb: ImageClassification, tmp_path: Path, mode: str):
    path = saved(tmp_path / "a.jpg", Image.fromarray(COLOUR).convert(mode), quality=100, subsampling=0)
    pixels, about = rgb.decode(str(path))
    assert about["mode"] == mode
    assert np.abs(pixels.astype(int) - COLOUR).max() <= 4


def test_another_size_is_resized(rgb: ImageClassification, tmp_path: Path):
    large = Image.fromarray(np.repeat(np.repeat(COLOUR, 4, axis=0), 4, axis=1))
    pixels, about = rgb.decode(str(saved(tmp_path / "a.png", large)))
    assert (about["source_height"], about["source_width"]) == (32, 24)
    assert pixels.shape == (8, 6, 3)
    assert np.abs(pixels.astype(int) - COLOUR).max() <= 40


def refused(task: ImageClassification, path: Path) -> str:
    with pytest.raises(ValueError) as caught:
        task.decode(str(path))
    return str(caught.value)


def test_files_that_are_no_images(rgb: ImageClassification, tmp_path: Path):
    (tmp_path / "text.png").write_text("hello")
    (tmp_path / "empty.jpg").touch()
    saved(tmp_path / "image.gif", Image.fromarray(GREY))
    for name in ("text.png", "empty.jpg", "image.gif"):
        assert refused(rgb, tmp_path / name).startswith("not a readable PNG or JPEG: cannot identify image file")
    assert "No such file or directory" in refused(rgb, tmp_path / "missing.png")
    assert "Is a directory" in refused(rgb, tmp_path)


@pytest.mark.parametrize("kind", ["png", "jpg"])
def test_a_file_that_is_cut_anywhere(rgb: ImageClassification, tmp_path: Path, kind: str):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    whole = saved(tmp_path / f"a.{kind}", Image.fromarray(noise)).read_bytes()
    for share in (0.01, 0.2, 0.5, 0.9):
        path = tmp_path / f"cut.{kind}"
        path.write_bytes(whole[: int(len(whole) * share)])
        assert refused(rgb, path).startswith("not a readable PNG or JPEG: ")


def test_a_changed_byte_is_no_crash(rgb: ImageClassification, tmp_path: Path):
    whole = saved(tmp_path / "a.png", Image.fromarray(COLOUR)).read_bytes()
    wrong = 0
    for place in range(0, len(whole), 3):
        data = bytearray(whole)
        data[place] ^= 0x55
        (tmp_path / "b.png").write_bytes(data)
        try:
            rgb.decode(str(tmp_path / "b.png"))
        except ValueError:
            wrong += 1
    assert wrong > 10


def bomb(path: Path, width: int, height: int) -> Path:
    """A PNG of a few bytes that says it is `width` x `height`."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    end = chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + end)
    return path


def test_a_bomb_is_not_unpacked(rgb: ImageClassification, tmp_path: Path):
    path = bomb(tmp_path / "a.png", 10_000, MAX_PIXELS // 10_000 + 1)
    assert refused(rgb, path) == "10000 x 5001 pixels; at most 50,000,000 are read"
    assert refused(rgb, bomb(path, 100_000, 100_000)).startswith("too many pixels (a decompression bomb): Image size ")
    allowed = refused(rgb, bomb(path, 10_000, MAX_PIXELS // 10_000))
    assert allowed.startswith("not a readable PNG or JPEG: ")


def test_text_that_unpacks_to_megabytes_is_refused(rgb: ImageClassification, tmp_path: Path):
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_text("comment", "x" * 5_000_000, zip=True)
    buffer = io.BytesIO()
    Image.fromarray(COLOUR).save(buffer, "png", pnginfo=info)
    path = tmp_path / "a.png"
    path.write_bytes(buffer.getvalue())
    assert len(buffer.getvalue()) < 10_000
    assert "Decompressed data too large" in refused(rgb, path)
