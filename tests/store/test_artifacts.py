"""Artifacts: what was changed, lost or not allowed is refused by name; the digest is of what was made, not measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dl_pipelines.store.artifacts import MANIFEST, OUTCOME, Artifact, ArtifactError, Draft, Gate
from dl_pipelines.store.workspace import Partition, Workspace


def build(draft: Draft) -> None:
    draft.write_json("a.json", {"a": 1})
    draft.write_text("below/b.txt", "text")
    draft.file("data.lance/part").write_bytes(b"bytes")
    draft.content("data.lance", "c" * 64)
    draft.gate(Gate("whole", True, "all there", blocking=True, facts={"rows": 3}))
    draft.gate(Gate("good", False, "0.5 < 0.9"))
    draft.measure(seconds_a_row=0.1)
    draft.show(rows=3)


@pytest.fixture
def made(own: Workspace, base: Partition) -> Artifact:
    return own.make("stage", base, build, settings={"s": 1}, parents={})


def refused(action) -> str:
    with pytest.raises(ArtifactError) as caught:
        action()
    return str(caught.value)


def test_an_artifact_says_what_it_holds(made: Artifact):
    assert set(made.files) == {"a.json", "below/b.txt"}
    assert dict(made.contents) == {"data.lance": "c" * 64}
    assert made.read_json("a.json") == {"a": 1}
    assert made.file("below/b.txt").read_text() == "text"
    assert made.measured == {"seconds_a_row": 0.1}
    assert made.show == {"rows": 3}
    assert made.gates == [
        Gate("whole", True, "all there", blocking=True, facts={"rows": 3}),
        Gate("good", False, "0.5 < 0.9"),
    ]
    assert made.path.name == made.short == made.digest[:16]
    assert made.verify() is made
    assert made.require_gates() is made
    assert Artifact.open(made.path) == made


def test_a_file_that_is_not_listed(made: Artifact):
    assert refused(lambda: made.file("c.json")) == (
        f"found no 'c.json' in stage {made.short}; expected one of a.json, below/b.txt"
    )
    (made.path / "c.json").write_text("{}")
    refused(lambda: made.read_json("c.json"))


def test_a_changed_file(made: Artifact):
    (made.path / "a.json").write_text('{"a": 2}')
    expected = (
        f"found a.json of stage {made.short} damaged in {made.path}; expected sha256 {made.files['a.json'][:16]}, "
        "measured "
    )
    for action in (made.verify, lambda: made.read_json("a.json")):
        assert refused(action).startswith(expected)
        assert refused(action).endswith("; remove the folder and run stage again")


def test_a_missing_file(made: Artifact):
    (made.path / "below" / "b.txt").unlink()
    assert refused(made.verify) == (
        f"found No such file or directory for below/b.txt of stage {made.short} in {made.path}; expected a readable "
        "file; remove the folder and run stage again"
    )


@pytest.mark.parametrize("damage", [lambda path: path.write_bytes(b"other"), Path.unlink], ids=["changed", "missing"])
def test_a_stored_dataset_is_checked_byte_by_byte_too(made: Artifact, damage):
    damage(made.path / "data.lance" / "part")
    message = refused(made.verify)
    assert message.startswith("found ")
    assert f"data.lance/part of stage {made.short}" in message


def test_a_changed_manifest(made: Artifact):
    path = made.path / MANIFEST
    manifest = json.loads(path.read_text())
    manifest["settings"]["settings"]["s"] = 2
    path.write_text(json.dumps(manifest))
    assert refused(lambda: Artifact.open(made.path)) == (
        f"found a manifest in {made.path} that was changed after it was written; expected digest {made.digest}; "
        "remove the folder and run stage again"
    )


@pytest.mark.parametrize("text", ['{"stage": ', "[]", "{}", '{"digest": null}', "\xff"])
def test_a_manifest_that_is_none(own: Workspace, base: Partition, made: Artifact, text: str):
    (made.path / MANIFEST).write_text(text, encoding="latin-1")
    message = refused(lambda: Artifact.open(made.path))
    assert str(made.path) in message
    assert "remove the folder" in message
    again = own.make("stage", base, build, settings={"s": 1}, parents={})
    assert again.digest == made.digest
    again.verify()


def test_no_manifest(made: Artifact, tmp_path: Path):
    (made.path / MANIFEST).unlink()
    (tmp_path / "file").touch()
    for place in (made.path, tmp_path / "nowhere", tmp_path / "file"):
        assert refused(lambda place=place: Artifact.open(place)) == (
            f"found no manifest.json in {place}; expected a finished artifact; run the stage again"
        )


@pytest.mark.parametrize("damage", [lambda path: path.write_text("{"), Path.unlink], ids=["changed", "missing"])
def test_no_outcome(made: Artifact, damage):
    damage(made.path / OUTCOME)
    message = refused(Artifact.open(made.path).require_gates)
    assert message.startswith(f"found no readable outcome.json of stage {made.short} (")
    assert message.endswith(f"; expected what it measured; remove the folder {made.path} and run stage again")


@pytest.mark.parametrize(
    ("gates", "what"),
    [
        ([Gate("a", False, "3 leaks", True), Gate("b", True, "fine", True), Gate("c", None, "?", True)],
         "a: 3 leaks; c: ?"),
        ([], "no gate was evaluated"),
    ],
)  # fmt: skip
def test_a_failed_undecided_or_missing_blocking_gate_refuses(own: Workspace, base: Partition, gates, what):
    def gated(draft: Draft) -> None:
        for gate in gates:
            draft.gate(gate)

    made = own.make("stage", base, gated, settings={}, parents={})
    assert refused(made.require_gates) == (
        f"stage {made.short} may not be used: found {what}; expected every blocking gate to pass; mend its input and "
        "run stage again"
    )


def test_a_gate_has_one_verdict(own: Workspace, base: Partition):
    def twice(draft: Draft) -> None:
        draft.gate(Gate("a", True, ""))
        draft.gate(Gate("a", False, ""))

    with pytest.raises(AssertionError, match="gate a twice"):
        own.make("stage", base, twice, settings={}, parents={})


def test_what_was_measured_is_outside_the_digest(own: Workspace, base: Partition):
    def measured(seconds: float, content: str):
        def inner(draft: Draft) -> None:
            draft.write_text("a", content)
            draft.gate(Gate("fast", seconds < 1, f"{seconds}"))
            draft.measure(seconds=seconds)

        return inner

    digests = [
        own.make("stage", base, measured(*given), settings={"s": 1}, parents={}, version=version).digest
        for version, given in enumerate([(0.1, "x"), (9.0, "x"), (0.1, "y")])
    ]
    # The version is a setting, so that a new one is a new artifact even where the files are the same.
    assert len(set(digests)) == 3
    other = Workspace(type(own.home)(own.home.root.parent / "other"), "p")
    assert other.make("stage", base, measured(5.0, "x"), settings={"s": 1}, parents={}, version=0).digest == digests[0]


def test_a_value_that_could_not_be_measured_is_refused(own: Workspace, base: Partition):
    with pytest.raises(ValueError, match="Out of range float values"):
        own.make("stage", base, lambda draft: draft.write_json("a", float("nan")), settings={}, parents={})
    assert own.find("stage", base) is None
