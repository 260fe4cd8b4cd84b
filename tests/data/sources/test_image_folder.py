"""A folder of images: which files are of which day, what is kept out and why, and folders that can't be read."""

from __future__ import annotations

import os
import re
import shutil
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dl_pipelines.data.sources import image_folder
from dl_pipelines.data.sources.base import SourceError
from dl_pipelines.data.sources.image_folder import ImageFolder
from dl_pipelines.tasks.image_classification import ImageClassification

DAY = date(2026, 3, 1)


def source(root: Path, **params) -> ImageFolder:
    return ImageFolder(ImageFolder.Params(path=root, **params))


def reasons(items) -> dict[str, str]:
    return {item.uri: item.reason for item in items}


def test_a_day_is_that_of_the_file_time(album, animals):
    folder = source(album)
    assert folder.days() == [DAY, date(2026, 3, 2)]
    assert folder.days(date(2026, 3, 2)) == [date(2026, 3, 2)]
    assert folder.default_day() == date(2026, 3, 2)
    table, quarantined = folder.read_day(DAY, animals)
    assert (table.num_rows, quarantined) == (60, [])
    assert table.schema.equals(animals.arrow_schema())
    assert table["id"].to_pylist() == sorted(table["id"].to_pylist())
    assert folder.read_day(date(2026, 3, 3), animals)[0].num_rows == 0


def test_a_record_is_what_the_file_says(album, animals):
    table, _ = source(album).read_day(DAY, animals)
    row = table.slice(table["id"].to_pylist().index("dog/001.png"), 1).to_pylist()[0]
    with Image.open(album / "dog/001.png") as image:
        wanted = np.asarray(image.resize((8, 8), Image.Resampling.BILINEAR))
    assert (np.array(row["image"]).reshape(8, 8) == wanted).all()
    facts = {name: row[name] for name in ("id", "group", "uri", "label", "mode", "source_height", "source_width")}
    assert facts == {"id": "dog/001.png", "group": "dog/001.png", "uri": "dog/001.png", "label": 1, "mode": "L",
                     "source_height": 10, "source_width": 12}  # fmt: skip
    assert (row["date"], row["event_time"]) == (DAY, datetime(2026, 3, 1, 12, tzinfo=UTC))


@pytest.mark.parametrize(
    ("zone", "days"),
    [("UTC", [date(2026, 3, 1), date(2026, 3, 2)]), ("Europe/Berlin", [date(2026, 3, 2)]),
     ("America/New_York", [date(2026, 3, 1)])],
)  # fmt: skip
def test_a_day_begins_at_midnight_of_the_time_zone(tmp_path, paint, set_time, zone, days):
    set_time(paint(tmp_path / "cat/late.png", 1), datetime(2026, 3, 1, 23, 59, 59, tzinfo=UTC))
    set_time(paint(tmp_path / "cat/early.png", 2), datetime(2026, 3, 2, 0, 0, tzinfo=UTC))
    assert source(tmp_path, timezone=zone).days() == days


def test_an_unknown_time_zone(tmp_path):
    with pytest.raises(ValueError, match="an IANA time zone such as UTC or Europe/Berlin"):
        source(tmp_path, timezone="Berlin")


def test_a_late_record_keeps_its_time_and_enters_the_day_it_arrived(tmp_path, paint, animals):
    for name in ("cat/1.png", "elsewhere/2.png", "dog/3.png"):
        paint(tmp_path / name, len(name))
    (tmp_path / "days.csv").write_text(
        "file,date,class,event_time,group\n"
        "cat/1.png,2026-03-05,,2026-02-01T08:00:00Z,camera 7\n"
        "elsewhere/2.png,2026-03-05,owl,,\n"
    )
    folder = source(tmp_path, manifest="days.csv")
    assert folder.days() == [date(2026, 3, 5)]
    rows = folder.read_day(date(2026, 3, 5), animals)[0].to_pylist()
    assert [(row["id"], row["label"], row["group"]) for row in rows] == [
        ("cat/1.png", 0, "camera 7"), ("elsewhere/2.png", 2, "elsewhere/2.png")]  # fmt: skip
    assert rows[0]["event_time"] == datetime(2026, 2, 1, 8, tzinfo=UTC)
    assert reasons(folder.overlooked()) == {"dog/3.png": "not in the manifest"}


def test_a_manifest_names_files_that_can_not_be_used(tmp_path, paint, animals):
    paint(tmp_path / "in/cat/1.png", 1)
    paint(tmp_path / "out.png", 2)
    long = "x" * 300
    (tmp_path / "in/days.csv").write_text(
        f"file,date\ncat/1.png,2026-03-05\ncat/2.png,2026-03-05\n../out.png,2026-03-05\ncat/{long}.png,2026-03-05\n"
        "dog/1.png,tomorrow\n"
    )
    folder = source(tmp_path / "in", manifest="days.csv")
    table, quarantined = folder.read_day(date(2026, 3, 5), animals)
    assert table["id"].to_pylist() == ["cat/1.png"]
    assert reasons(quarantined) == {
        "cat/2.png": "no such file in the folder",
        "../out.png": "line 4 of the manifest: a file outside the folder",
        f"cat/{long}.png": f"[Errno 36] File name too long: 'cat/{long}.png'",
    }
    assert reasons(folder.overlooked()) == {
        "dog/1.png": "line 6 of the manifest: found the date 'tomorrow'; expected YYYY-MM-DD"
    }


def test_what_is_kept_out_and_why(album, paint, animals, tmp_path):
    paint(album / "fox/1.png", 901)
    paint(album / "top.png", 902)
    paint(album / ".thumbs/cat/1.png", 903)
    paint(album / "cat/.hidden.png", 904)
    paint(album / "cat/note.txt", 905, format="PNG")
    paint(tmp_path / "secret.png", 906)
    (album / "cat/empty.png").write_bytes(b"")
    (album / "cat/text.jpg").write_text("not an image")
    (album / "cat/gif.png").write_bytes(b"GIF89a" + b"\0" * 20)
    (album / "cat/link.png").symlink_to(tmp_path / "secret.png")
    (album / "dog/within.png").symlink_to(album / "dog/001.png")
    (album / "cat/broken.png").symlink_to(tmp_path / "nowhere.png")
    (album / "puma").symlink_to(album / "cat")
    for path in ("cat/empty.png", "cat/text.jpg", "cat/gif.png"):
        os.utime(album / path, (1772366400, 1772366400))
    folder = source(album)
    table, quarantined = folder.read_day(DAY, animals)
    assert "dog/within.png" in table["id"].to_pylist()
    assert reasons(quarantined) == {
        "fox/1.png": "the class 'fox' is none of cat, dog, owl",
        "cat/note.txt": "not named as a PNG or JPEG (.png, .jpg, .jpeg)",
        "cat/link.png": "a link that leaves the folder",
        "cat/empty.png": "not a readable PNG or JPEG: cannot identify image file it",
        "cat/text.jpg": "not a readable PNG or JPEG: cannot identify image file it",
        "cat/gif.png": "not a readable PNG or JPEG: cannot identify image file it",
    }
    assert reasons(folder.overlooked()) == {
        "top.png": "not in a class folder",
        "cat/broken.png": "a link to nothing",
        "puma": "a link to a folder, which is not followed",
    }


def test_a_name_is_no_promise(tmp_path, paint, animals):
    paint(tmp_path / "cat/really.jpg", 1, format="PNG")
    paint(tmp_path / "dog/really.PNG", 2, format="JPEG", quality=95)
    table, quarantined = source(tmp_path).read_day(DAY, animals)
    assert (table["id"].to_pylist(), quarantined) == (["cat/really.jpg", "dog/really.PNG"], [])


def test_odd_names(tmp_path, paint, animals):
    names = [
        "a b.png",
        "a|b*[c].png",
        "line\nbreak.png",
        "Käuzchen 梟.png",
        "'quoted\".png",
        "<b>.png",
        "$(x).png",
        "-.png",
    ]
    for seed, name in enumerate(names):
        paint(tmp_path / "cat" / name, seed)
    table, quarantined = source(tmp_path).read_day(DAY, animals)
    assert table["id"].to_pylist() == sorted(f"cat/{name}" for name in names)
    assert not quarantined


def test_a_name_that_is_not_utf_8(tmp_path, paint, animals):
    paint(tmp_path / "cat/fine.png", 1)
    shutil.copy2(tmp_path / "cat/fine.png", os.fsencode(tmp_path) + b"/cat/\xff.png")
    shutil.copytree(tmp_path / "cat", os.fsencode(tmp_path).decode() + "/\udcfe")
    table, quarantined = source(tmp_path).read_day(DAY, animals)
    assert table["id"].to_pylist() == ["cat/fine.png"]
    assert reasons(quarantined) == dict.fromkeys(
        ["cat/\\udcff.png", "\\udcfe/fine.png", "\\udcfe/\\udcff.png"], "a file name that is not UTF-8"
    )


def test_a_file_that_vanishes_while_the_folder_is_looked_at(tmp_path, paint, monkeypatch):
    paint(tmp_path / "cat/1.png", 1)
    monkeypatch.setattr(image_folder, "_look", lambda root, manifest: ({"cat/1.png", "cat/2.png"}, []))
    folder = source(tmp_path)
    assert folder.days() == [DAY]
    assert reasons(folder.overlooked()) == {
        "cat/2.png": "no usable file time: [Errno 2] No such file or directory: 'cat/2.png'"
    }


def test_a_large_file_is_not_read(tmp_path, paint, animals):
    paint(tmp_path / "cat/1.png", 1)
    with paint(tmp_path / "cat/2.png", 2).open("ab") as file:
        file.truncate(100_000_001)
    os.utime(tmp_path / "cat/2.png", (1772366400, 1772366400))
    _, quarantined = source(tmp_path).read_day(DAY, animals)
    assert reasons(quarantined) == {"cat/2.png": "100,000,001 bytes; at most 100,000,000 are read"}


def test_one_object_sees_one_state(tmp_path, paint, animals):
    paint(tmp_path / "cat/1.png", 1)
    gone = paint(tmp_path / "cat/2.png", 2)
    folder = source(tmp_path)
    assert folder.days() == [DAY]
    gone.unlink()
    paint(tmp_path / "cat/3.png", 3)
    table, quarantined = folder.read_day(DAY, animals)
    assert table["id"].to_pylist() == ["cat/1.png"]
    assert reasons(quarantined) == {"cat/2.png": "no such file in the folder"}
    assert source(tmp_path).read_day(DAY, animals)[0]["id"].to_pylist() == ["cat/1.png", "cat/3.png"]


def said(call) -> str:
    with pytest.raises(SourceError) as caught:
        call()
    return str(caught.value)


def test_a_missing_folder(tmp_path):
    mend = "mend data.source.params.path, or run from the folder that it is relative to"
    what = "expected a folder with one folder a class"
    assert said(source(tmp_path / "no").days) == f"found nothing at {tmp_path}/no; {what}; {mend}"
    (tmp_path / "file").write_text("x")
    assert said(source(tmp_path / "file").days) == f"found a file at {tmp_path}/file; {what}; {mend}"


def test_a_folder_without_images(tmp_path, paint):
    end = f"expected {tmp_path}/CLASS/FILE.png; put images there, or mend data.source.params.path"
    assert said(source(tmp_path).default_day) == f"found no PNG or JPEG below {tmp_path}; {end}"
    paint(tmp_path / "1.png", 1)
    paint(tmp_path / "2.png", 2)
    assert said(source(tmp_path).days) == (
        f"found no PNG or JPEG below {tmp_path}; 2 others, the first: 1.png: not in a class folder; {end}"
    )
    (tmp_path / "days.csv").write_text("file,date\n")
    assert said(source(tmp_path, manifest="days.csv").days) == (
        f"found no PNG or JPEG listed in {tmp_path}/days.csv; 2 others, the first: 1.png: not in the manifest; {end}"
    )


def test_classes_that_the_brief_does_not_name(tmp_path, paint, animals):
    paint(tmp_path / "Cat/1.png", 1)
    paint(tmp_path / "Dog/1.png", 2)
    assert said(lambda: source(tmp_path).read_day(DAY, animals)) == (
        f"found the classes Cat, Dog in {tmp_path}; expected some of cat, dog, owl; rename the folders, or list the "
        "classes in problem.task.params.classes"
    )


def test_a_task_that_reads_no_files(album):
    class Other:
        name = "forecasting"

    assert said(lambda: source(album).read_day(DAY, Other())) == (
        "found the task forecasting, which reads no image files; expected image_classification for image_folder; "
        "change problem.task or data.source"
    )


def test_a_source_that_holds_nothing_back(album, animals):
    assert said(lambda: source(album).live(0, 5, animals)) == (
        "found no held-back records in the source image_folder; expected one that holds some back (demand, digits); "
        "set monitoring.traffic to clients"
    )


def test_what_the_report_says(album):
    assert source(album).describe()["update_frequency"] == "as files arrive; the day is the file time"
    assert source(album, manifest="m.csv").describe()["update_frequency"] == (
        "as files arrive; the day is the manifest's date"
    )


def test_many_days_are_read_in_one_look(tmp_path, paint, animals, monkeypatch):
    for number in range(5):
        paint(tmp_path / "cat" / f"{number}.png", number, DAY + timedelta(days=number))
    folder, looks = source(tmp_path), []
    monkeypatch.setattr(Path, "rglob", lambda self, pattern, real=Path.rglob: looks.append(1) or real(self, pattern))
    for day in folder.days():
        assert folder.read_day(day, animals)[0].num_rows == 1
    assert folder.overlooked() == []
    assert looks == [1]


def test_a_reason_is_the_same_everywhere(tmp_path, paint, animals):
    """No address in memory, no folder of this machine: a digest is made of the reasons."""
    paint(tmp_path / "cat/1.png", 1)
    (tmp_path / "cat/2.png").write_bytes(b"\x89PNG\r\n\x1a\nrubbish")
    os.utime(tmp_path / "cat/2.png", (1772366400, 1772366400))
    ((_, reason),) = reasons(source(tmp_path).read_day(DAY, animals)[1]).items()
    assert not re.search(r"0x[0-9a-f]{6}", reason)
    assert str(tmp_path) not in reason


def test_colour(tmp_path, paint):
    task = ImageClassification(ImageClassification.Params(classes=("cat", "dog"), height=10, width=12, channels=3))
    path = paint(tmp_path / "cat/1.png", 1, mode="RGB")
    table, _ = source(tmp_path).read_day(DAY, task)
    with Image.open(path) as image:
        assert (task.rows(table).inputs[0] == np.asarray(image)).all()
