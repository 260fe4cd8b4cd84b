import gc
import json
import weakref
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from dl_pipelines.compression.base import TechniqueError
from dl_pipelines.evaluation.slices import GATED_ROWS
from dl_pipelines.inference.parity import torch_outputs
from dl_pipelines.tasks.base import Rows
from dl_pipelines.training.fit import TrainingFailed
from dl_pipelines.training.job import FINAL, RESULT, Job
from dl_pipelines.training.warm import START
from tests.quantizing import shop_of
from tests.series import make_table, make_task


def test_a_technique_has_a_folder_and_names_of_its_own(shop):
    own = shop.of("pruning")
    assert own.folder == shop.folder / "pruning" and own.folder.is_dir()
    assert own.decide_once("best", lambda: 1) == 1
    assert shop.of("sparsity").decide_once("best", lambda: 2) == 2
    assert shop.decide_once("pruning/best", lambda: 3) == 1


def test_a_job_is_how_the_model_was_trained(shop, trained_model, brief):
    own = shop.of("distillation")
    job = own.job_for("student", shop.trained.plan)
    assert job.folder == own.folder / "student"
    assert job.family == shop.trained.plan.family
    assert job.training.epochs == brief.training.epochs
    assert job.training.compile == "off"
    assert job.distributed == brief.distributed
    assert job.augmentation == brief.data.augmentation
    assert (job.rows / "train_inputs.npy").exists()
    assert not (job.folder / START).exists()


def test_a_job_may_start_from_weights_and_change_its_training(shop):
    job = shop.job_for("tuned", shop.trained.plan, start=shop.trained.weights, epochs=2, learning_rate=1e-4)
    assert (job.training.epochs, job.training.learning_rate) == (2, 1e-4)
    assert (job.folder / START).read_bytes() == shop.trained.weights.read_bytes()


def test_a_job_of_the_pool_has_all_workers_batch_in_one_process(make_shop, brief):
    two = brief.distributed.model_copy(update={"communicator": "horovod", "workers": 2})
    made = make_shop()
    shop = replace(made, make_job=lambda folder: replace(made.make_job(folder), distributed=two))
    pooled = shop.job_for("one", shop.trained.plan, pooled=True)
    assert (pooled.distributed.communicator, pooled.distributed.workers) == ("single", 1)
    assert pooled.training.batch_size == 2 * brief.training.batch_size
    own = shop.job_for("two", shop.trained.plan)
    assert (own.distributed.workers, own.training.batch_size) == (2, brief.training.batch_size)


def test_a_job_is_plain_data_that_a_worker_reads(shop):
    job = shop.job_for("read", shop.trained.plan, epochs=1)
    assert Job.read(job.write()) == job


def test_a_training_is_done_once(shop):
    job = shop.job_for("short", shop.trained.plan, start=shop.trained.weights, epochs=1)
    weights = shop.train(job)
    assert weights == job.folder / FINAL
    assert sorted(load_file(weights)) == sorted(load_file(shop.trained.weights))
    assert not (job.folder / "checkpoints").exists()
    launched = []
    again = replace(shop, launcher=lambda *given: launched.append(given))
    assert again.train(job).read_bytes() == weights.read_bytes()
    assert launched == []


def test_a_training_that_fails_is_the_techniques_reason(shop, monkeypatch):
    def fail(job, launcher, say):
        assert json.loads((job.folder / "job.json").read_text())["training"]["epochs"] == 1
        raise TrainingFailed("the training by 1 single worker(s) failed: out of memory")

    monkeypatch.setattr("dl_pipelines.compression.workshop.fit", fail)
    job = shop.job_for("failed", shop.trained.plan, epochs=1)
    with pytest.raises(TechniqueError, match="failed: out of memory"):
        shop.train(job)
    assert not (job.folder / RESULT).exists()


def test_an_exported_network_answers_as_its_weights_say(shop, tmp_path):
    state = load_file(shop.trained.weights)
    save_file({name: value * np.float32(0.9) if "weight" in name else value for name, value in state.items()},
              tmp_path / "other.safetensors")  # fmt: skip
    made = shop.of("test").export("other", shop.trained.plan, tmp_path / "other.safetensors")
    assert (made.name, made.weights.name, made.onnx.name) == ("other", "other.safetensors", "other.onnx")
    own = torch_outputs(shop.module(made), shop.rows.inputs)
    np.testing.assert_allclose(shop.outputs(made.onnx, "onnxruntime"), own, atol=1e-3)
    assert np.abs(own - shop.bench.reference).max() > 0.1


def test_an_outputs_loss_is_against_the_trained_model(shop):
    found = shop.outputs(shop.trained.onnx, "onnxruntime")
    assert shop.loss(found) == {"value": 0, "low": 0, "high": 0}
    assert shop.within_budget(found)
    wrong = np.roll(shop.bench.reference, 1, axis=1)
    assert shop.loss(wrong)["value"] > 0.8
    assert not shop.within_budget(wrong)


def test_a_slice_that_loses_more_than_the_budget_is_not_within(shop):
    """As the ledger decides: what repairs an int8 that is over the budget has to see it too."""
    rows, changed = shop.rows, shop.bench.reference.copy()
    order = np.argsort(rows.targets, kind="stable")
    chosen = np.zeros(len(rows), bool)
    chosen[order[:GATED_ROWS]] = True
    changed[order[:4]] = np.roll(changed[order[:4]], 1, axis=1)
    overall = shop.loss(changed)["high"]
    sliced = Rows(rows.inputs, rows.targets, rows.ids, {"chosen": chosen})
    tight = shop.compression.model_copy(update={"max_loss": overall})
    assert replace(shop, compression=tight).within_budget(changed)
    seen = replace(shop, compression=tight, bench=replace(shop.bench, rows=sliced))
    assert seen.loss(changed)["high"] == overall < seen.worst(changed)
    assert not seen.within_budget(changed)


def test_rows_that_do_not_determine_the_metric_are_the_techniques_reason(tmp_path):
    """Of items that sold nothing there is no share that a forecast is off by."""
    task = make_task()
    table = make_table(task, np.zeros((3, 90)))
    rows = task.rows(table, np.ones(len(table), bool))
    answers = np.ones((len(rows), 3, 4), np.float32)
    assert len(rows) and task.primary == "wape" not in task.measure(answers, rows.targets)
    shop = shop_of(tmp_path / "work", tmp_path / "model.onnx", task, rows, answers)
    for asked in (shop.loss, shop.worst, shop.within_budget, shop.score):
        with pytest.raises(TechniqueError) as caught:
            asked(answers)
        assert str(caught.value).startswith("found answers or rows that don't determine wape; expected answers that ")


def test_a_score_is_higher_where_the_metric_is_better(shop, monkeypatch):
    found = shop.outputs(shop.trained.onnx, "onnxruntime")
    accuracy = shop.task.measure(found, shop.rows.targets)["accuracy"]
    assert shop.score(found) == accuracy
    lower = {**shop.task.metrics, "accuracy": replace(shop.task.metrics["accuracy"], better="lower")}
    monkeypatch.setattr(type(shop.task), "metrics", lower)
    assert shop.score(found) == -accuracy


def test_a_file_that_does_not_open_is_the_techniques_reason(shop, tmp_path):
    (tmp_path / "cut.onnx").write_bytes(shop.trained.onnx.read_bytes()[:500])
    with pytest.raises(TechniqueError, match=r"found cut\.onnx, which onnxruntime can't load"):
        shop.outputs(tmp_path / "cut.onnx", "onnxruntime")


def test_files_are_timed_in_turns(shop):
    timed = shop.time({"one": (shop.trained.onnx, "onnxruntime"), "other": (shop.trained.onnx, "onnxruntime")}, 6)
    assert list(timed) == ["one", "other"]
    assert [len(found["samples"]) for found in timed.values()] == [6, 6]


def test_calibration_rows_of_a_count_are_read_once_and_are_of_the_train_split(make_shop, monkeypatch):
    from dl_pipelines.data import batches

    read, inputs = [], []
    window_rows = batches.window_rows

    def counted(workspace, window, split, *rest, **given):
        rows = window_rows(workspace, window, split, *rest, **given)
        if split == "train":
            read.append(len(rows))
            inputs.append(weakref.ref(rows.inputs))
        return rows

    monkeypatch.setattr(batches, "window_rows", counted)
    shop = make_shop()
    first, more = shop.calibrate(8), shop.calibrate(64)
    np.testing.assert_array_equal(shop.calibrate(8), first)
    assert (len(first), len(more)) == (8, 64)
    assert len(read) == 2 and read[0] > 64
    gc.collect()
    assert [found() for found in inputs] == [None, None], "all the others are let go"
    validation = {row.tobytes() for row in shop.rows.inputs}
    assert not validation & {row.tobytes() for row in more}


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_rows_to_calibrate_are_the_techniques_reason(make_shop, monkeypatch, count):
    from dl_pipelines.data import batches

    window_rows = batches.window_rows

    def few(workspace, window, split, *rest, **given):
        rows = window_rows(workspace, window, split, *rest, **given)
        return rows.take(np.arange(count)) if split == "train" else rows

    monkeypatch.setattr(batches, "window_rows", few)
    with pytest.raises(TechniqueError) as caught:
        make_shop().calibrate(16)
    assert str(caught.value) == (
        f"found {count} train row(s) to calibrate with; expected at least 2; widen the window (data.window_days) or "
        "lower data.split.validation and data.split.test"
    )
