"""Records: the digest is of the content, whatever the order, the chunks or Lance's bytes; damage is told."""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from dl_pipelines.store.artifacts import Artifact, ArtifactError, Draft, Gate
from dl_pipelines.store.digest import digest_folder
from dl_pipelines.store.records import RECORDS, open_records, read_pieces, read_records, records_digest, write_records
from dl_pipelines.store.workspace import Partition, Workspace

PIXELS = pa.list_(pa.uint8(), 6)


def table(rows: int = 20) -> pa.Table:
    images = np.random.default_rng(0).integers(0, 256, rows * 6, dtype=np.uint8)
    return pa.table({
        "id": [f"r{number}" for number in range(rows)],
        "date": [date(2026, 1, 1)] * rows,
        "event_time": [datetime(2026, 1, 1, 12, tzinfo=UTC)] * rows,
        "image": pa.FixedSizeListArray.from_arrays(pa.array(images), 6),
        "label": pa.array(np.arange(rows) % 3),
        "note": [None if number % 2 else "x" for number in range(rows)],
    })  # fmt: skip


def stored(workspace: Workspace, partition: Partition, records: pa.Table, **settings) -> Artifact:
    def build(draft: Draft) -> None:
        write_records(draft, records)
        draft.gate(Gate("schema", True, "fine", blocking=True))

    return workspace.make("raw_data", partition, build, settings=settings, parents={})


def test_the_digest_is_of_the_records_in_any_order_and_in_any_chunks():
    whole = table()
    digest = records_digest(whole)
    assert records_digest(whole.take(np.random.default_rng(1).permutation(20))) == digest
    assert records_digest(pa.concat_tables([whole.slice(0, 7), whole.slice(7)])) == digest
    assert records_digest(pa.concat_tables([table(40).slice(5, 3), whole]).slice(3)) == digest


def test_the_digest_sees_every_value_name_and_type():
    whole = table()
    others = [
        whole.slice(1),
        pa.concat_tables([whole, whole.slice(0, 1)]),
        whole.rename_columns(["id", "day", *whole.column_names[2:]]),
        whole.set_column(4, "label", whole["label"].cast(pa.int32())),
        whole.drop_columns(["note"]),
    ]
    for position, name in enumerate(whole.column_names):
        values = whole[name].to_pylist()
        values[3] = {
            "id": "other", "date": date(2026, 1, 2), "event_time": datetime(2026, 1, 1, 13, tzinfo=UTC),
            "image": [0] * 6, "label": 9, "note": "None",
        }[name]  # fmt: skip
        others.append(whole.set_column(position, name, pa.array(values, whole.schema.field(name).type)))
    digests = {records_digest(other) for other in [whole, *others]}
    assert len(digests) == len(others) + 1


def test_values_do_not_run_together():
    pairs = [{"a": ["xy"], "b": ["z"]}, {"a": ["x"], "b": ["yz"]}]
    assert len({records_digest(pa.table(pair)) for pair in pairs}) == 2
    swapped = [{"a": ["x", "y"], "b": ["1", "2"]}, {"a": ["x", "y"], "b": ["2", "1"]}]
    assert len({records_digest(pa.table(item)) for item in swapped}) == 2


def test_no_records_have_a_digest():
    assert records_digest(table().slice(0, 0)) == records_digest(table(3).slice(3))
    assert records_digest(table().slice(0, 0)) != records_digest(table(1))


def test_written_twice_the_bytes_differ_and_the_artifact_does_not(tmp_path: Path, own: Workspace, base: Partition):
    first = stored(own, base, table())
    other = Workspace(type(own.home)(tmp_path / "other"), "p")
    again = stored(other, base, table().take(list(reversed(range(20)))))
    assert again.digest == first.digest
    assert digest_folder(again.path / RECORDS) != digest_folder(first.path / RECORDS)


def test_records_are_read_back(own: Workspace, base: Partition):
    made = stored(own, base, table())
    assert read_records(made).equals(table())
    assert read_records(made, ["label"]).column_names == ["label"]
    assert open_records(made).take([5, 2]).column("id").to_pylist() == ["r5", "r2"]


def test_an_artifact_without_records(own: Workspace, base: Partition):
    made = own.make("empty", base, lambda draft: draft.write_text("a", "x"), settings={}, parents={})
    with pytest.raises(ArtifactError) as caught:
        read_records(made)
    assert str(caught.value) == f"found no records.lance in empty {made.short}; expected a dataset of records"


def files_of(made: Artifact) -> list[str]:
    return sorted(path.relative_to(made.path).as_posix() for path in (made.path / RECORDS).rglob("*") if path.is_file())


def test_every_file_of_a_dataset_is_watched(own: Workspace, base: Partition):
    names = files_of(stored(own, base, table()))
    assert len(names) >= 3
    for number, name in enumerate(names):
        made = stored(own, base, table(), number=number)
        path = made.path / files_of(made)[number]
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
        with pytest.raises(
            ArtifactError, match=rf"found {RECORDS}/.* of raw_data {made.short} damaged in .*"
        ) as caught:
            read_records(made)
        assert str(caught.value).endswith("remove the folder and run raw_data again"), name


def test_what_is_no_lance_dataset_is_told(own: Workspace, base: Partition):
    """Bytes that fit the manifest and are no dataset: a fault of ours, or of another version of Lance."""

    def build(draft: Draft) -> None:
        draft.file(f"{RECORDS}/data/part.lance").write_bytes(b"no lance")
        draft.content(RECORDS, "0" * 64)

    made = own.make("raw_data", base, build, settings={}, parents={})
    with pytest.raises(ArtifactError) as caught:
        read_records(made)
    assert str(caught.value).startswith(f"found a corrupt dataset in {made.path / RECORDS} (")
    assert f"remove the folder {made.path} and run raw_data again" in str(caught.value)


def test_pages_that_lance_cant_read_are_told(own: Workspace, base: Partition):
    def build(draft: Draft) -> None:
        write_records(draft, table())
        for path in (draft.path / RECORDS / "data").iterdir():
            path.write_bytes(path.read_bytes()[:-40])

    made = own.make("raw_data", base, build, settings={}, parents={})
    with pytest.raises(ArtifactError, match="found a corrupt dataset in"):
        read_records(made)
    with pytest.raises(ArtifactError, match="found a corrupt dataset in"):
        list(read_pieces(made, 100))


@pytest.mark.parametrize(("most", "largest"), [(1, 1), (300, 8), (10**6, 20)])
def test_pieces_are_the_dataset_in_its_order(own: Workspace, base: Partition, most: int, largest: int):
    def build(draft: Draft) -> None:
        write_records(draft, table())

    made = own.make("validated_data", base, build, settings={}, parents={})
    pieces = list(read_pieces(made, most))
    assert pa.concat_tables(pieces).combine_chunks().equals(table())
    assert max(piece.num_rows for piece in pieces) <= largest
    assert len(pieces) == 1 or most < 10**6
