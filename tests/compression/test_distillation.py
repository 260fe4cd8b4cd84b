"""Students of the session's trained model through the workshop, trained in this process."""

import dataclasses
from pathlib import Path

import pytest
from pydantic import ValidationError
from safetensors.torch import save_file

from dl_pipelines import catalog
from dl_pipelines.brief import BriefError
from dl_pipelines.brief.references import FamilyRef
from dl_pipelines.compression.base import Network, TechniqueError
from dl_pipelines.compression.distillation import Distillation, named, smaller
from dl_pipelines.inference.parity import torch_outputs
from dl_pipelines.models.registry import FAMILIES
from dl_pipelines.training import worker
from dl_pipelines.training.fit import TrainingFailed
from dl_pipelines.training.job import Job
from tests.compressing import workshop


def train_here(command, environment):
    """What the supervisor has a worker do, without their processes."""
    worker.run(Job.read(Path(command[-1])))


@pytest.fixture(scope="module")
def one_shop(trained_model, tmp_path_factory, brief, workspace, partition, task):
    made = workshop(tmp_path_factory.mktemp("distillation"), brief, workspace, partition, task)
    return dataclasses.replace(made, launcher=train_here)


@pytest.fixture
def here(one_shop, request):
    """With a folder of the test's own."""
    return one_shop.of(request.node.name)


def distillation(**params):
    return Distillation(Distillation.Params.model_validate(params))


def test_students_are_trained_exported_and_described(here):
    students = [{"name": "cnn", "params": {"width": 8}}, {"name": "cnn", "params": {"width": 4, "blocks": 1}}]
    made = distillation(students=students, epochs=2, share=0.8, temperature=3).variants(here.trained, here)
    assert [variant.name for variant in made] == ["distilled_cnn_width_8", "distilled_cnn_width_4_blocks_1"]
    for variant, student in zip(made, students, strict=True):
        assert variant.failure is None and variant.precision == "fp32" and variant.technique == "distillation"
        network = variant.network
        assert network.name == variant.name and network.onnx == variant.path
        module = here.module(network)
        own = torch_outputs(module, here.rows.inputs)
        assert abs(here.outputs(variant.path, "onnxruntime") - own).max() < 1e-3
        details = variant.details
        assert details["parameters"] == sum(value.numel() for value in module.parameters())
        assert details["parameters"] < details["teacher_parameters"] / 8
        assert details["loss"] == "0.2 cross_entropy + 0.8 the teacher's logits at temperature 3"
        assert (details["teacher"], details["epochs"], details["features"]) == ("fp32", 2, [])
        assert details["family"] == student
    (job, _) = (Job.read(here.folder / variant.name / "job.json") for variant in made)
    assert job.training.epochs == 2 and [ref.name for ref in job.changes] == ["distilled"]
    assert job.changes[0].params["weights"] == str(here.trained.weights)


def test_what_was_trained_before_is_not_trained_again(here):
    given = distillation(students=[{"name": "cnn", "params": {"width": 4}}], epochs=1)
    (first,) = given.variants(here.trained, here)
    before = first.path.read_bytes()

    def launcher(command, environment):
        raise AssertionError("trained again")

    (again,) = given.variants(here.trained, dataclasses.replace(here, launcher=launcher))
    assert again.name == "distilled_cnn" and again == first and again.path.read_bytes() == before


def test_a_network_with_cuts_is_a_teacher_as_any_other(here):
    """And students that have as much for their last layer learn that too."""
    from dl_pipelines.models.pruned import prune

    plan = here.trained.plan
    cuts = prune(plan.build(here.task), here.task, here.calibrate(4), 0.5)
    plan, weights = dataclasses.replace(plan, cuts=cuts), here.folder / "pruned.safetensors"
    save_file(plan.build(here.task).state_dict(), weights)
    pruned = Network("pruned_50", plan, weights, here.trained.onnx)
    student = {"name": "cnn", "params": {"width": 16}}
    (variant,) = distillation(students=[student], epochs=1).variants(pruned, here)
    assert variant.failure is None and not variant.network.plan.cuts
    assert variant.details["teacher"] == "pruned_50" and variant.details["features"] == [["17", "17"]]
    assert variant.details["teacher_parameters"] < sum(w.numel() for w in here.module(here.trained).parameters()) / 2


def test_a_student_that_fails_keeps_no_other_from_it(here):
    def launcher(command, environment):
        if "rnn_rows" in command[-1]:
            raise TrainingFailed("found a training loss of nan")
        train_here(command, environment)

    students = ["rnn_rows", "gru", {"name": "cnn", "params": {"width": 4}}]
    shop = dataclasses.replace(here, launcher=launcher)
    bad, other, good = distillation(students=students, epochs=1).variants(shop.trained, shop)
    assert (bad.path, bad.failure) == (None, "found a training loss of nan")
    assert other.failure == (
        "found the student gru, which takes inputs of the kind series; expected one that takes those of "
        "image_classification: autoencoder, cnn, conv_attention, gan, rnn_rows, vit; mend students in the params of "
        "distillation"
    )
    assert good.failure is None and good.name == "distilled_cnn"
    assert bad.runtimes == other.runtimes == ("onnxruntime",)


def test_features_that_do_not_fit_are_told(here):
    given = distillation(students=[{"name": "cnn", "params": {"width": 8}}], features=[("1", "1")])
    (variant,) = given.variants(here.trained, here)
    assert variant.failure.startswith("found outputs of '1' and '1' of [8, 8, 8] (student) and [32, 8, 8]; expected")


@pytest.mark.parametrize(
    ("family", "found"),
    [
        (FamilyRef(name="cnn", params={"blocks": 3}), {"cnn_half": {"blocks": 3, "width": 16},
                                                       "cnn_quarter": {"blocks": 3, "width": 8}}),
        (FamilyRef(name="cnn", params={"width": 8}), {"cnn_half": {"width": 4}}),
        (FamilyRef(name="cnn", params={"widths": [24, 32], "depths": [1, 2]}),
         {"cnn_half": {"widths": [12, 16], "depths": [1, 2]}, "cnn_quarter": {"widths": [6, 8], "depths": [1, 2]}}),
        (FamilyRef(name="gru", params={}), {"gru_half": {"hidden": 32}, "gru_quarter": {"hidden": 16}}),
        (FamilyRef(name="gan", params={}), {"gan_half": {"width": 16}, "gan_quarter": {"width": 8}}),
        (FamilyRef(name="patch_transformer", params={"hidden": 24, "heads": 12}), {"patch_transformer_half":
                                                                                 {"hidden": 12, "heads": 12}}),
    ],
)  # fmt: skip
def test_without_students_the_trained_family_is_made_narrower(family, found):
    made = smaller(family)
    assert {name: ref.params for name, ref in made.items()} == found
    assert {ref.name for ref in made.values()} == {family.name}


@pytest.mark.parametrize("params", [{"network": "resnet18"}, {"width": 4}])
def test_a_family_that_has_no_narrower_version(params):
    with pytest.raises(
        TechniqueError,
        match=r"^found no smaller version of the family cnn; expected a widths or width or hidden that can be halved; "
        r"name students in the params of distillation$",
    ):
        smaller(FamilyRef(name="cnn", params=params))


def test_every_family_has_a_narrower_version():
    """At its defaults, so that `techniques: all` has a student whatever is trained."""
    for name in FAMILIES.names:
        assert list(smaller(FamilyRef(name=name))) == [f"{name}_half", f"{name}_quarter"]


def test_students_are_named_by_what_tells_them_apart():
    refs = ("vit", {}), ("cnn", {"dropout": 0.25}), ("cnn", {}), ("cnn", {"dropout": "0.25"})
    made = named(tuple(FamilyRef(name=name, params=params) for name, params in refs))
    assert list(made) == ["vit", "cnn_dropout_0_25", "cnn", "cnn_dropout_0_25_4"]
    assert [ref.params for ref in made.values()] == [params for _, params in refs]


def test_the_brief_tells_wrong_students(brief):
    def told(**params):
        with pytest.raises(BriefError) as caught:
            catalog.with_overrides(brief, {"compression.techniques": [{"name": "distillation", "params": params}]})
        return str(caught.value)

    found = told(students=["ccn"])
    assert "compression.techniques[0].params.students[0].name" in found and "cnn" in found
    assert "compression.techniques[0].params.students[0].params.width" in told(
        students=[{"name": "cnn", "params": {"width": 1}}]
    )
    assert "students that differ, not cnn again" in told(students=["cnn", "vit", "cnn"])
    with pytest.raises(ValidationError, match="less than or equal to 1"):
        Distillation.Params(share=1.5)
