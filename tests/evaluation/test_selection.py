"""The architecture comparison on the digits: trained, measured, chosen, replayed; the test rows are left alone."""

from __future__ import annotations

from datetime import date

import numpy as np
import pytest

from dl_pipelines.brief.references import FamilyRef
from dl_pipelines.brief.sections import Comparison, Training
from dl_pipelines.data import row_cache
from dl_pipelines.evaluation import candidate_model, selection
from dl_pipelines.evaluation import candidates as measuring
from dl_pipelines.evaluation.candidates import Candidate, ComparisonFailed, candidates_of, loss_of
from dl_pipelines.evaluation.evaluate import answer
from dl_pipelines.evaluation.selection import choice, make_architecture_comparison
from dl_pipelines.evaluation.test_reads import count_test_reads
from dl_pipelines.inference import timing
from dl_pipelines.store.artifacts import ArtifactError
from dl_pipelines.store.workspace import Partition
from dl_pipelines.training import pool as pools
from dl_pipelines.training.selected import CHOICE, selected

SMALL, BAD = FamilyRef(name="cnn", params={"width": 4, "blocks": 1}), FamilyRef(name="cnn", params={"width": 6})


@pytest.fixture
def make(workspace, training_window, partition, brief, task):
    """A function: the comparison of an experiment; `comparison`, `problem`, `training` and others are changed."""

    def made(experiment="compared", day=None, keep=False, **changed):
        comparison = {"candidates": (SMALL,), "seeds": 2, "epochs": 1, "max_rows": 200, **changed.pop("comparison", {})}
        architecture = brief.architecture.model_copy(update={"comparison": Comparison(**comparison)})
        sections = {
            name: getattr(brief, name).model_copy(update=changed.pop(name, {}))
            for name in ("problem", "training", "distributed", "evaluation", "compression")
        }
        given = Partition(day or partition.day, experiment)
        return make_architecture_comparison(
            workspace, given, sections["problem"], architecture, sections["training"], sections["distributed"],
            sections["evaluation"], sections["compression"], brief.serving, brief.data, task,
        )  # fmt: skip

    return made


@pytest.fixture(scope="module")
def watched():
    """Splits of which rows were made."""
    return []


@pytest.fixture
def compared(make, monkeypatch, watched):
    """With the real pool, once; and which splits were read."""
    read = row_cache._write

    def write(folder, settings, workspace, window, data, task):
        rows = type(task).rows

        def noted(self, table, chosen=None, training=False):
            found = rows(self, table, chosen, training)
            watched.extend(found.ids.tolist())
            return found

        with monkeypatch.context() as patch:
            patch.setattr(type(task), "rows", noted)
            read(folder, settings, workspace, window, data, task)

    monkeypatch.setattr(row_cache, "_write", write)
    return make()


def test_what_it_says_is_what_the_models_answer(compared, workspace, training_window, brief, task, make, watched):
    found, whole = compared.read_json("comparison.json"), compared.measured["comparison"]
    assert [row["candidate"] for row in found["rows"]] == ["cnn (width 32)", "cnn (width 4, blocks 1)"]
    assert (found["train_rows"], found["seeds"], found["epochs"]) == (200, 2, 1)
    big, small = whole["rows"]
    assert big["parameters"] > small["parameters"] and big["size_mb"] > small["size_mb"]
    for row in (big, small):
        assert row["metric"]["value"] == pytest.approx(np.mean(row["values"]), abs=2e-6)
        assert row["metric"]["low"] <= row["metric"]["value"] <= row["metric"]["high"]
        assert row["template_row"] == "CNN (ConvNet)" and 0 < row["fit"] <= 10
        assert row["latency_ms"]["value"] > 0 and row["throughput"]["low"] <= row["throughput"]["high"]
        price = row["train_seconds"]["value"] * 0.1 / 3600
        assert row["train_seconds"]["value"] > 0 and row["cost"] == pytest.approx(price, rel=0.01), "the brief's price"
        assert set(row["metrics"]) >= {"accuracy", "f1", "loss"}
    best = max(whole["rows"], key=lambda row: row["metric"]["value"])
    assert best["behind"] == {"value": 0.0, "low": 0.0, "high": 0.0}
    assert not set(found["rows"][0]) & set(selection.OF_A_CLOCK), "what a clock said is outside the digest"
    assert compared.show["chosen"] == found["chosen"] and found["why"] in compared.show["why"]
    assert f"**{found['chosen']}**" in compared.show["comparison"]["md"]


def test_no_test_row_is_read(compared, workspace, training_window, task, brief, watched):
    from dl_pipelines.data.batches import window_rows

    assert watched, "rows were decoded for this comparison"
    test = set(window_rows(workspace, training_window, "test", brief.data, task).ids.tolist())
    assert test and not test & set(watched)
    assert count_test_reads(workspace, Partition(date(2026, 1, 1), "compared")) == 0


def test_a_second_run_finds_it_and_a_lost_artifact_is_replayed(compared, make, monkeypatch, workspace):
    monkeypatch.setattr(pools, "Pool", None)
    assert make().digest == compared.digest
    (compared.path / "manifest.json").rename(compared.path / "gone")
    try:
        again = make()
        assert again.digest == compared.digest and again.measured["comparison"] == compared.measured["comparison"]
    finally:
        (compared.path / "gone").unlink(missing_ok=True)


def test_later_days_go_by_it(compared, make, workspace, monkeypatch, training_window):
    monkeypatch.setattr(pools, "Pool", None)
    workspace.point("training_window", Partition(date(2026, 1, 20)), training_window)
    assert make(day=date(2026, 1, 20)) == compared
    assert workspace.find("architecture_comparison", Partition(date(2026, 1, 20), "compared")) == compared


def fake(monkeypatch, ended):
    """A pool that trains nothing: `ended(job)` gives the error of a job, or writes what a training leaves."""

    class Pool:
        def __init__(self):
            self.jobs = []

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        @property
        def waiting(self):
            return len(self.jobs)

        def submit(self, job):
            job.folder.mkdir(parents=True, exist_ok=True)
            self.jobs.append(job)

        def wait(self):
            job = self.jobs.pop(0)
            curves = [{"validation": {"accuracy": 0.5}, "seconds": 1.5}]
            return [pools.Ended(job, curves, 1.5, ended(job))]

    monkeypatch.setattr(pools, "Pool", Pool)


class Session:
    """Answers at once."""

    def __init__(self, network):
        self.network = network

    def run(self, inputs):
        return inputs


@pytest.fixture
def unexported(monkeypatch):
    """Candidates are timed by a session of no work."""

    def export(bench, candidate, network):
        path = bench.job.folder / f"{candidate.key}.onnx"
        path.write_bytes(b"0" * sum(value.numel() for value in network.parameters()))
        return path, Session(network)

    monkeypatch.setattr(candidate_model, "_exported", export)


def leave(job, task, scale=1.0):
    """The files of a training: weights by seed."""
    import torch
    from safetensors.torch import save_file

    from dl_pipelines.models.registry import FAMILIES
    from dl_pipelines.store import durable

    torch.manual_seed(job.training.seed)
    network = FAMILIES.make(job.family).network(task, job.statistics)
    save_file({name: value * scale for name, value in network.state_dict().items()}, job.folder / "final.safetensors")
    durable.write_json(job.folder / "result.json", {"curves": [{"seconds": 1.5}, {"seconds": 2.5}]})


def test_one_that_fails_is_a_row_with_its_reason(make, monkeypatch, task, unexported):
    jobs = []

    def ended(job):
        jobs.append(job)
        return "found a training loss of nan\nmore" if job.family == BAD else leave(job, task)

    fake(monkeypatch, ended)
    price = {"price_per_hour": 7.2, "communicator": "torch", "workers": 2}
    made = make("failing", comparison={"candidates": (SMALL, BAD), "seeds": 3, "max_rows": 101}, distributed=price)
    rows = {row["candidate"]: row for row in made.measured["comparison"]["rows"]}
    bad = rows["cnn (width 6)"]
    assert bad["reason"] == "its training with seed 0 failed: found a training loss of nan"
    assert not bad["chosen"] and not bad["tied"] and bad["fit"] is None and "metric" not in bad
    assert "| cnn (width 6) | its training" in made.show["comparison"]["md"]
    good = rows["cnn (width 32)"]
    assert good["train_seconds"] == {"value": 4.0, "low": 4.0, "high": 4.0} and good["cost"] == 0.008
    assert {job.training.batch_size for job in jobs} == {128}, "the steps of both workers' batches"
    assert sorted({job.training.seed for job in jobs}) == [0, 1, 2] == sorted({job.augmentation.seed for job in jobs})
    assert {(job.distributed.communicator, job.training.compile, job.pretrained) for job in jobs} == {
        ("single", "off", None)
    }  # fmt: skip


def test_without_any_model_it_fails(make, monkeypatch):
    fake(monkeypatch, lambda job: "found no space")
    with pytest.raises(ComparisonFailed, match=r"no candidate that could be trained \(cnn .*: found no space; cnn"):
        make("hopeless", comparison={"max_rows": 102})


def test_one_that_cannot_be_exported_is_a_row_with_its_reason(make, monkeypatch, task):
    from dl_pipelines.inference import export

    export_for_real = candidate_model._exported

    def refuse(*_):
        raise export.ExportError("found a graph that ONNX's checker refuses")

    def exported(bench, candidate, network):
        if candidate.family != SMALL:
            path = bench.job.folder / "large.onnx"
            path.touch()
            return path, Session(network)
        return export_for_real(bench, candidate, network)

    monkeypatch.setattr(export, "export_onnx", refuse)
    monkeypatch.setattr(candidate_model, "_exported", exported)
    fake(monkeypatch, lambda job: leave(job, task))
    made = make("unserved", comparison={"seeds": 1, "max_rows": 103})
    row = made.measured["comparison"]["rows"][1]
    assert row["reason"] == "it can't be served: found a graph that ONNX's checker refuses"
    assert made.read_json(CHOICE) == {
        "overrides": {}, "why": "cnn (width 32) is the only candidate that could be trained and run"
    }  # fmt: skip


def test_an_interrupted_one_goes_on(make, monkeypatch, task, unexported):
    asked = []

    def stop(job):
        if len(asked) == 3:
            raise KeyboardInterrupt
        asked.append(job.folder.name)
        return leave(job, task)

    fake(monkeypatch, stop)
    with pytest.raises(KeyboardInterrupt):
        make("interrupted", comparison={"max_rows": 104})
    first, asked[:] = list(asked), []
    fake(monkeypatch, lambda job: asked.append(job.folder.name) or leave(job, task))
    make("interrupted", comparison={"max_rows": 104})
    assert len(first) == 3 and len(asked) == 1 and asked[0] not in first


def test_what_is_chosen_is_trained(make, monkeypatch, task, workspace, partition, brief, unexported):
    """Neither has learned anything; the small one answers sooner."""
    monkeypatch.setattr(timing, "time_interleaved", lambda calls, rounds, warmup=5: {
        key: {"p50_ms": ms, "low": ms, "high": ms} for key, ms in zip(calls, (2.0, 1.0), strict=True)
    })  # fmt: skip
    fake(monkeypatch, lambda job: leave(job, task, 1e-6))
    made = make("chosen", problem={"priority": "latency"}, training={"loss": "focal"}, comparison={"max_rows": 105})
    assert made.read_json(CHOICE)["overrides"] == {"architecture.family": SMALL.model_dump(mode="json")}
    architecture, _, parents = selected(workspace, Partition(partition.day, "chosen"), brief.architecture, Training())
    assert architecture.family == SMALL and parents == {"architecture_comparison": made}
    kept = make("kept", problem={"priority": "latency"}, comparison={"choose": False, "max_rows": 105})
    assert kept.read_json(CHOICE)["overrides"] == {}
    assert kept.read_json(CHOICE)["why"].endswith("the brief keeps its own (architecture.comparison.choose)")


def test_a_loss_that_the_chosen_family_lacks_is_left_to_it(monkeypatch):
    monkeypatch.setattr(measuring, "loss_of", lambda family, loss: None)
    rows = [{"chosen": False}, {"chosen": True}]
    found = choice(rows, [Candidate("one", SMALL), Candidate("other", BAD)], True, "focal", "why")
    assert found["overrides"] == {"architecture.family": BAD.model_dump(mode="json"), "training.loss": None}
    assert choice([{"chosen": True}], [Candidate("one", SMALL)], True, "focal", "why") == {
        "overrides": {},
        "why": "why",
    }


def test_a_family_keeps_the_losses_that_it_has():
    assert loss_of(SMALL, "focal") == "focal"
    assert loss_of(SMALL, "hinge") is None and loss_of(FamilyRef(name="gru"), None) is None


def test_candidates_are_named_apart_and_count_once(brief):
    given = (FamilyRef(name="cnn", params={"width": 32, "blocks": 2}), SMALL, FamilyRef(name="gru"))
    architecture = brief.architecture.model_copy(update={"comparison": Comparison(candidates=given)})
    assert [one.name for one in candidates_of(architecture)] == ["cnn (width 32)", "cnn (width 4, blocks 1)", "gru"]


def test_when_not_asked_for_it_says_so(make, monkeypatch):
    monkeypatch.setattr(pools, "Pool", None)
    made = make("unasked", comparison={"candidates": ()})
    reason = "architecture.comparison.candidates names none: the brief's own family is trained"
    assert made.read_json(CHOICE) == {"overrides": {}, "why": reason}
    assert made.read_json("comparison.json")["rows"] == [] and made.show == {"reason": reason} and not made.parents


def test_a_window_without_a_passing_report_is_refused(make, workspace):
    with pytest.raises(ArtifactError, match="no training_window"):
        make(day=date(2030, 1, 1))


def test_answers_are_scored_on_validation_rows(
    workspace, training_window, brief, task, monkeypatch, make, unexported
):  # fmt: skip
    """The figures against working them out by hand from models of known weights."""
    from dl_pipelines.data.batches import splits_of, window_rows, window_table
    from dl_pipelines.models.registry import FAMILIES

    fake(monkeypatch, lambda job: leave(job, task))
    made = make("by hand", comparison={"max_rows": 106})
    import torch

    table = window_table(workspace, training_window, task)
    statistics = task.fit(table, splits_of(training_window, table, brief.data, task) == "train")
    rows, values = window_rows(workspace, training_window, "validation", brief.data, task), []
    for seed in range(2):
        torch.manual_seed(brief.training.seed + seed)
        network = FAMILIES.make(SMALL).network(task, statistics).eval()
        values.append(task.measure(answer(network, rows.inputs), rows.targets)["accuracy"])
    np.testing.assert_allclose(made.read_json("comparison.json")["rows"][1]["values"], values, atol=1e-6)
