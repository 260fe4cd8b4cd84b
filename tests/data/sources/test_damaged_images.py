"""Damaged files: each is kept out with its reason, none ends the day, and what is let through is whole."""

from __future__ import annotations

import io
import os
import struct
import zlib
from datetime import date

import numpy as np
import pytest
from PIL import Image, ImageFile

from dl_pipelines.brief.sections import Data
from dl_pipelines.data.sources.image_folder import ImageFolder
from dl_pipelines.tasks.image_classification import ImageClassification

DAY, NOON = date(2026, 3, 1), (1772366400, 1772366400)


def encoded(kind: str, mode: str = "L", seed: int = 0, **save) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (24, 20, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, kind, **save)
    return buffer.getvalue()


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(width: int, height: int, *more: bytes, depth: int = 8, colour: int = 0, data: bytes = b"") -> bytes:
    """A PNG with any header; `data` are the unpacked rows."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    parts = [chunk(b"IHDR", header), *more, chunk(b"IDAT", zlib.compress(data)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def damaged() -> dict[str, bytes]:
    """20 files, each broken in its own way."""
    rng, whole, photo = np.random.default_rng(1), encoded("PNG"), encoded("JPEG")
    cut = {f"cut-{share}.png": whole[: len(whole) * share // 100] for share in (0, 1, 5, 25, 50, 75, 95)}
    cut |= {f"cut-{share}.jpg": photo[: len(photo) * share // 100] for share in (1, 25, 50, 75, 99)}
    broken = bytearray(whole)
    broken[len(whole) // 2] ^= 0xFF
    return cut | {
        "random.png": rng.bytes(500),
        "random-after-header.png": whole[:8] + rng.bytes(500),
        "random-after-header.jpg": photo[:20] + rng.bytes(500),
        "flipped-byte.png": bytes(broken),
        "bomb.png": png(60_000, 60_000, data=b"\0" * 1000),
        "large.png": png(8_000, 7_000, data=b"\0" * 1000),
        "text-bomb.png": png(4, 4, chunk(b"zTXt", b"a\0\0" + zlib.compress(b" " * 80_000_000)), data=b"\0" * 20),
        "no-size.png": png(0, 0),
    }


def test_twenty_damaged_files_are_twenty_reasons(tmp_path, paint, animals):
    files = damaged()
    assert len(files) == 20
    for name, content in files.items():
        (tmp_path / "cat").mkdir(exist_ok=True)
        (tmp_path / "cat" / name).write_bytes(content)
        os.utime(tmp_path / "cat" / name, NOON)
    paint(tmp_path / "dog/fine.png", 1)
    table, quarantined = ImageFolder(ImageFolder.Params(path=tmp_path)).read_day(DAY, animals)
    assert table["id"].to_pylist() == ["dog/fine.png"]
    found = {item.uri.removeprefix("cat/"): item.reason for item in quarantined}
    assert set(found) == set(files)
    assert all("truncated" in found[f"cut-{share}.jpg"].lower() for share in (25, 50, 75, 99))
    assert found["bomb.png"].startswith("too many pixels (a decompression bomb): Image size (3600000000 pixels)")
    assert found["large.png"] == "8000 x 7000 pixels; at most 50,000,000 are read"
    assert "Decompressed data too large" in found["text-bomb.png"]
    assert all(reason and str(tmp_path) not in reason for reason in found.values())


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path, animals, monkeypatch):
    path, unpacked, load = tmp_path / "bomb.png", [], ImageFile.ImageFile.load
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: unpacked.append(1) or load(self))
    path.write_bytes(png(8_000, 7_000, data=b"\0" * (8_001 * 7_000)))
    assert path.stat().st_size < 100_000
    with pytest.raises(ValueError, match="8000 x 7000 pixels; at most 50,000,000 are read"):
        animals.decode(str(path))
    assert not unpacked
    path.write_bytes(png(8, 8, data=b"\0" * 72))
    animals.decode(str(path))
    assert unpacked


@pytest.mark.parametrize(
    ("kind", "mode"), [("PNG", "L"), ("PNG", "RGB"), ("PNG", "P"), ("JPEG", "L"), ("JPEG", "CMYK")]
)
def test_a_cut_file_is_refused_or_whole(tmp_path, animals, kind, mode):
    content, path = encoded(kind, mode), tmp_path / "image"
    path.write_bytes(content)
    whole, _ = animals.decode(str(path))
    passed = []
    for length in [*range(0, len(content), 7), *range(len(content) - 16, len(content))]:
        path.write_bytes(content[:length])
        try:
            pixels, _ = animals.decode(str(path))
        except ValueError:
            continue
        assert (pixels == whole).all()
        passed.append(len(content) - length)
    assert max(passed, default=0) <= 4, "only the checksum of the end of a PNG may be missing"


@pytest.mark.parametrize("seed", range(4))
def test_a_hundred_mutated_files_never_crash_a_day(tmp_path, animals, seed):
    """Bytes changed, inserted, removed, doubled, and files spliced, in every part of 100 files in all."""
    rng, folder = np.random.default_rng(seed), tmp_path / "owl"
    folder.mkdir()
    kinds = [("PNG", "L"), ("PNG", "RGBA"), ("PNG", "P"), ("JPEG", "L"), ("JPEG", "RGB"), ("JPEG", "CMYK")]
    for number in range(25):
        kind, mode = kinds[int(rng.integers(len(kinds)))]
        content = bytearray(encoded(kind, mode, int(rng.integers(1000)), **({"exif": exif()} if number % 3 else {})))
        for _ in range(int(rng.integers(1, 8))):
            place, length = int(rng.integers(len(content))), int(rng.integers(1, 20))
            match int(rng.integers(5)):
                case 0:
                    content[place] = int(rng.integers(256))
                case 1:
                    content[place:place] = rng.bytes(length)
                case 2:
                    del content[place : place + length]
                case 3:
                    content[place:place] = content[place : place + length]
                case _:
                    content[place : place + length] = encoded(kind, mode, 7)[place : place + length]
        path = folder / f"{number}.{'png' if kind == 'PNG' else 'jpg'}"
        path.write_bytes(bytes(content))
        os.utime(path, NOON)
    table, quarantined = ImageFolder(ImageFolder.Params(path=tmp_path)).read_day(DAY, animals)
    assert table.num_rows + len(quarantined) == 25
    assert len(quarantined) >= 5
    assert animals.rows(table).inputs.shape[1:] == (8, 8, 1)


def exif(orientation: int = 1) -> bytes:
    found = Image.Exif()
    found[0x0112] = orientation
    return found.tobytes()


@pytest.mark.parametrize("orientation", [1, 2, 3, 4, 5, 6, 7, 8])
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_an_image_is_turned_as_its_exif_says(tmp_path, orientation, kind):
    """Against the definition of the eight orientations by turns and mirror images."""
    task = ImageClassification(ImageClassification.Params(classes=("a", "b"), height=16, width=16))
    stored = np.zeros((16, 16), np.uint8)
    stored[:8, :8], stored[:8, 8:], stored[8:, :8] = 250, 170, 90
    Image.fromarray(stored).save(tmp_path / "image", kind, exif=exif(orientation))
    shown = {1: stored, 2: stored[:, ::-1], 3: np.rot90(stored, 2), 4: stored[::-1], 5: stored.T,
             6: np.rot90(stored, -1), 7: np.rot90(stored, 2).T, 8: np.rot90(stored, 1)}[orientation]  # fmt: skip
    assert np.abs(task.read_input(str(tmp_path / "image"))[..., 0].astype(int) - shown).max() <= 3


def test_sixteen_bits_are_scaled_not_clipped(tmp_path):
    task = ImageClassification(ImageClassification.Params(classes=("a", "b"), height=8, width=8))
    deep = (np.arange(64).reshape(8, 8) * 1023).astype(np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    pixels, about = task.decode(str(tmp_path / "deep.png"))
    assert about["mode"] == "I;16"
    assert (pixels[..., 0] == deep // 256).all()


def test_of_an_animation_the_first_frame(tmp_path):
    task = ImageClassification(ImageClassification.Params(classes=("a", "b"), height=8, width=8))
    frames = [Image.new("L", (8, 8), shade) for shade in (40, 200)]
    frames[0].save(tmp_path / "moving.png", save_all=True, append_images=frames[1:])
    assert (task.read_input(str(tmp_path / "moving.png")) == 40).all()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"])
def test_every_colour_mode_is_read_and_passes_validation(tmp_path, mode, animals):
    from dl_pipelines.data.validation import expectations

    image = Image.new("L", (8, 8), 130).convert(mode)
    image.save(tmp_path / "image", "JPEG" if mode == "CMYK" else "PNG")
    pixels, about = animals.decode(str(tmp_path / "image"))
    assert about["mode"] == mode
    assert len(np.unique(pixels)) == 1 or mode == "1"
    suite = expectations(Data.model_validate({"source": "digits"}), animals)
    assert about["mode"] in next(item for item in suite if item.name == "mode").arguments["value_set"]


def test_transparency_is_left_out(tmp_path):
    task = ImageClassification(ImageClassification.Params(classes=("a", "b"), height=8, width=8, channels=3))
    palette = Image.new("P", (8, 8), 3)
    palette.putpalette([value for shade in range(256) for value in (shade, 2 * shade % 256, 7)])
    palette.save(tmp_path / "palette.png", transparency=bytes(range(256)))
    assert (task.read_input(str(tmp_path / "palette.png")) == [3, 6, 7]).all()
