from dataclasses import replace

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file

from dl_pipelines.brief.references import FamilyRef
from dl_pipelines.brief.sections import Compression
from dl_pipelines.compression import workshop as workshop_module
from dl_pipelines.compression.base import Network
from dl_pipelines.compression.pruning import Pruning
from dl_pipelines.compression.trials import Bench
from dl_pipelines.inference import export
from dl_pipelines.inference.parity import session_outputs, torch_outputs
from dl_pipelines.inference.runtimes import open_runtime
from dl_pipelines.models import pruned
from dl_pipelines.models.plan import NetworkPlan
from dl_pipelines.store import durable
from dl_pipelines.training.fit import TrainingFailed
from dl_pipelines.training.job import FINAL, RESULT, Job
from dl_pipelines.training.warm import START
from tests.compressing import workshop


def technique(**params):
    return Pruning(Pruning.Params(**params))


LADDER = {"shares": (0.3, 0.5), "epochs": 1}


@pytest.fixture(scope="module")
def room(trained_model, tmp_path_factory, brief, workspace, partition, task):
    """A workshop on the session's trained model, whose budget an epoch of fine-tuning is enough for."""
    compression = Compression(max_loss=0.2)
    return workshop(tmp_path_factory.mktemp("pruning"), brief, workspace, partition, task, compression)


@pytest.fixture
def shop(room, request):
    """The same with a folder of the test's own."""
    return room.of(request.node.name)


@pytest.fixture(scope="module")
def really(room):
    """The workshop in which two shares were really trained, and their variants."""
    shop = room.of("really")
    return shop, technique(**LADDER).variants(shop.trained, shop)


@pytest.fixture
def untrained(monkeypatch):
    """Weights that were begun from are the trained ones, and nothing is exported; the jobs, in order.

    `change(state)` may alter the weights.
    """
    jobs: list[Job] = []

    def install(change=lambda state: None):
        def fit(job, launcher, say):
            jobs.append(job)
            state = load_file(job.folder / START)
            change(state)
            save_file(state, job.folder / FINAL)
            durable.write_json(job.folder / RESULT, {})

        monkeypatch.setattr(workshop_module, "fit", fit)
        monkeypatch.setattr(export, "export_onnx", lambda module, task, path: path)
        return jobs

    return install


@pytest.fixture
def forbidden(monkeypatch):
    """Nothing may be trained and no channels chosen."""

    def refuse(*_, **__):
        raise AssertionError("done before")

    monkeypatch.setattr(workshop_module, "fit", refuse)
    monkeypatch.setattr(pruned, "prune", refuse)


def sizes_of(widths):
    """Parameters and multiply-adds of the demo's network on 8 x 8 pixels, by hand."""
    one, two, three, four = widths
    convolutions = 9 * (one + one * two + two * three + three * four)
    macs = 9 * (64 * (one + one * two) + 16 * (two * three + three * four)) + 10 * four
    return convolutions + 2 * (one + two + three + four) + 10 * four + 10, macs


def test_each_share_is_a_smaller_network_begun_from_the_last(really):
    shop, variants = really
    assert [variant.name for variant in variants] == ["pruned_30", "pruned_50"]
    first, second = (variant.network for variant in variants)
    assert second.plan.cuts[: len(first.plan.cuts)] == first.plan.cuts
    for variant, widths in zip(variants, ([24, 24, 48, 48], [16, 16, 32, 32]), strict=True):
        before, after = sizes_of([32, 32, 64, 64]), sizes_of(widths)
        assert variant.details["parameters"] == [before[0], after[0]]
        assert variant.details["macs"] == [before[1], after[1]]
        assert variant.details["begun_from"] == {"pruned_30": "fp32", "pruned_50": "pruned_30"}[variant.name]
        assert [channels for _, channels in variant.details["channels"].values()] == [*widths, 10]
        assert variant.path.stat().st_size < 0.7 * shop.trained.onnx.stat().st_size
        assert (variant.precision, variant.failure, variant.path) == ("fp32", None, variant.network.onnx)


def test_what_is_exported_is_what_was_trained(really):
    shop, variants = really
    for variant in variants:
        network = shop.module(variant.network)
        expected = torch_outputs(network, shop.rows.inputs)
        found = session_outputs(open_runtime("onnxruntime", variant.path), shop.rows.inputs)
        assert np.abs(found - expected).max() < 1e-4
        assert variant.details["loss"] == shop.loss(expected)
        start = load_file(shop.folder / variant.name / START)
        moved = [float((value.detach() - start[name]).abs().max()) for name, value in network.named_parameters()]
        assert min(moved) > 0
        assert {name: value.shape for name, value in start.items()} == {
            name: value.shape for name, value in network.state_dict().items()
        }


def test_pruned_and_fine_tuned_it_still_answers_well(really):
    shop, variants = really
    accuracy = [shop.task.measure(shop.outputs(each.path, "onnxruntime"), shop.rows.targets) for each in variants]
    assert min(found["accuracy"] for found in accuracy) > 0.8  # an epoch each; by chance it would be 0.1


def test_what_is_done_is_not_done_again(really, forbidden):
    shop, variants = really
    written = [variant.path.read_bytes() for variant in variants]
    for variant in variants:
        variant.path.unlink()
    again = technique(**LADDER).variants(shop.trained, shop)
    assert again == variants
    assert [variant.path.read_bytes() for variant in again] == written


def test_an_interrupted_share_goes_on_from_the_same_cuts(shop, monkeypatch, untrained):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(workshop_module, "fit", interrupt)
    with pytest.raises(KeyboardInterrupt):
        technique(shares=(0.5,)).variants(shop.trained, shop)
    recorded = NetworkPlan.read(durable.read_json(shop.folder / "pruned_50" / "cuts.json"))
    jobs = untrained()
    monkeypatch.setattr(pruned, "prune", interrupt)
    made = technique(shares=(0.5,)).variants(shop.trained, shop)
    assert made[0].network.plan == recorded
    assert [job.folder.name for job in jobs] == ["pruned_50"]


def test_fine_tuning_is_the_briefs_training_but_for_its_length_and_rate(shop, untrained):
    jobs = untrained()
    technique(shares=(0.5,), learning_rate=0.1, epochs=3).variants(shop.trained, shop)
    technique(shares=(0.25,)).variants(shop.trained, shop)
    given = shop.make_job(shop.folder).training
    changed = {"epochs": 3, "learning_rate": 0.1 * given.learning_rate}
    assert jobs[0].training.model_dump() == {**given.model_dump(), "loss": jobs[0].training.loss, **changed}
    assert (jobs[1].training.epochs, jobs[1].training.learning_rate) == (given.epochs, given.learning_rate)
    assert [change.name for change in jobs[0].changes] == ["cut"]


def test_the_ladder_ends_where_a_share_loses_far_more_than_the_budget(shop, untrained):
    jobs = untrained(lambda state: state["18.weight"].zero_())  # what is left answers the same to everything
    variants = technique().variants(shop.trained, shop)
    assert [variant.name for variant in variants] == ["pruned_30"]
    assert len(jobs) == 1
    lost = variants[0].details["loss"]["value"]
    assert lost > 0.5
    assert variants[0].details["ladder"] == f"ends here: loses {lost:.3g}, more than 2 times the budget"


def test_a_share_beyond_the_budget_is_tried_at_once_and_the_better_one_is_gone_on_from(shop, untrained):
    jobs = untrained(lambda state: state["18.weight"].zero_() if len(jobs) == 2 else None)  # the ladder's second share
    shop = replace(shop, compression=Compression(max_loss=0.45))
    variants = technique(shares=(0.1, 0.2, 0.3), multiple=1).variants(shop.trained, shop)
    assert [(variant.name, variant.details["begun_from"]) for variant in variants][:4] == [
        ("pruned_10", "fp32"), ("pruned_20", "pruned_10"), ("pruned_20_at_once", "fp32"),
        ("pruned_30", "pruned_20_at_once"),
    ]  # fmt: skip
    assert len(variants[2].network.plan.cuts) < len(variants[3].network.plan.cuts)


def test_a_share_beyond_the_budget_on_a_slice_alone_is_tried_at_once_too(shop, untrained, monkeypatch):
    untrained()
    shop = replace(shop, compression=Compression(max_loss=0.99))
    monkeypatch.setattr(Bench, "_slices", lambda self, outputs: {"dark": {"value": 0.9, "low": 0.8, "high": 1.0}})
    variants = technique(shares=(0.1, 0.2), multiple=1).variants(shop.trained, shop)
    assert [variant.name for variant in variants] == ["pruned_10", "pruned_20", "pruned_20_at_once"]
    assert variants[1].details["loss"]["high"] < 0.99 < variants[1].details["worst"] == 1.0


def test_rows_that_do_not_determine_the_metric_are_told_of_each_share(shop, untrained, monkeypatch):
    untrained()
    monkeypatch.setattr(type(shop.task), "measure", lambda *_: {})
    variants = technique(shares=(0.1, 0.2), multiple=1).variants(shop.trained, shop)
    assert [variant.path for variant in variants] == [None, None]
    assert all(
        variant.failure.startswith("found answers or rows that don't determine accuracy; ") for variant in variants
    )


def test_after_a_training_that_failed_the_next_share_begins_from_the_last_sound_one(shop, monkeypatch, untrained):
    jobs = untrained()
    sound = workshop_module.fit

    def fail(job, launcher, say):
        if job.folder.name == "pruned_30":
            raise TrainingFailed("found a training loss of nan")
        sound(job, launcher, say)

    monkeypatch.setattr(workshop_module, "fit", fail)
    variants = technique(**LADDER).variants(shop.trained, shop)
    assert [(variant.name, variant.failure) for variant in variants] == [
        ("pruned_30", "found a training loss of nan"), ("pruned_50", None),
    ]  # fmt: skip
    assert [wide for _, wide in variants[1].details["channels"].values()] == [16, 16, 32, 32, 10]
    assert len(jobs) == 1


def test_by_taylor_the_train_rows_tell_what_matters(shop, untrained):
    untrained()
    by_loss = technique(shares=(0.5,), importance="taylor").variants(shop.trained, shop.of("taylor"))[0]
    by_size = technique(shares=(0.5,)).variants(shop.trained, shop.of("magnitude"))[0]
    assert by_loss.details["channels"] == by_size.details["channels"]
    assert by_loss.network.plan.cuts != by_size.network.plan.cuts
    assert by_loss.details["importance"] == "taylor"


def network_of(shop, family, **params):
    plan = NetworkPlan(FamilyRef(name=family, params=params), shop.trained.plan.statistics)
    torch.manual_seed(0)
    weights = shop.folder / f"{family}.safetensors"
    save_file(plan.build(shop.task).state_dict(), weights)
    return Network(family, plan, weights, shop.trained.onnx)


def test_a_family_with_a_second_network_has_nothing_to_try(shop):
    found = technique().unsuited(network_of(shop, "gan"), shop)
    assert found is not None
    assert found.startswith("found the phase 'adversarial', which trains generator too; expected one of the served")
    assert technique().unsuited(shop.trained, shop) is None
    assert technique().unsuited(network_of(shop, "autoencoder"), shop) is None


def test_a_recurrent_network_fails_by_name_and_trains_nothing(shop, untrained):
    jobs = untrained()
    variants = technique(**LADDER).variants(network_of(shop, "rnn_rows"), shop)
    assert [variant.name for variant in variants] == ["pruned_30", "pruned_50"]
    assert all("rows is recurrent (GRU)" in variant.failure for variant in variants)
    assert all(variant.path is None and variant.network is None for variant in variants)
    assert not jobs


def test_shares_that_differ_by_less_than_a_percent_are_cut_and_trained_apart(shop, untrained):
    jobs, shop = untrained(), replace(shop, compression=Compression(max_loss=1.0))
    made = technique(shares=(0.116, 0.12, 0.18), multiple=1).variants(shop.trained, shop)
    assert [variant.name for variant in made] == ["pruned_11_6", "pruned_12", "pruned_18"]
    assert [job.folder.name for job in jobs] == ["pruned_11_6", "pruned_12", "pruned_18"]
    assert [variant.details["share"] for variant in made] == [0.116, 0.12, 0.18]
    plans = [NetworkPlan.read(durable.read_json(shop.folder / variant.name / "cuts.json")) for variant in made]
    assert plans == [variant.network.plan for variant in made]


@pytest.mark.parametrize("shares", [(0.5, 0.3), (0.3, 0.3), (0.3, 0.300001), (0.0,), (1.0,), ()])
def test_shares_rise_between_nothing_and_everything(shares):
    with pytest.raises(ValidationError, match=r"shares between 0 and 1, each larger|at least 1 item"):
        Pruning.Params(shares=shares)
