"""Fine-tuning: what is taken over from which file, what moves how fast, and what is said of a file of no use."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from dl_pipelines.brief.sections import Pretrained
from dl_pipelines.models.cnn import Cnn
from dl_pipelines.models.finetune import PretrainedError, prepare, prepared, settings_of
from dl_pipelines.models.timm_names import as_torchvision
from tests.models.test_cnn import COLOUR, GREY, cnn, task

PAGE = (Path(__file__).parents[2] / "docs" / "finetuning.md").read_text(encoding="utf-8")


def network(width: int = 4, classes: int = 10, channels: int = 1, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    made = cnn(width=width, blocks=2).network(
        task(channels=channels, classes=classes), COLOUR if channels == 3 else GREY
    )
    for name, value in made.named_buffers():
        if name.endswith("running_mean"):
            value.normal_()
    return made


def published(name: str = "resnet18", classes: int = 3, channels: int = 1, side: int = 8) -> nn.Module:
    return Cnn(Cnn.Params(network=name)).network(
        task(height=side, width=side, channels=channels, classes=classes), COLOUR if channels == 3 else GREY
    )


@pytest.fixture
def written(tmp_path):
    """A function: tensors as a file, and what the brief says of it."""

    def write(tensors, **settings) -> Pretrained:
        plain = {name: value.contiguous() for name, value in tensors.items()}
        save_file(plain, tmp_path / "weights.safetensors")
        return Pretrained(weights=str(tmp_path / "weights.safetensors"), **settings)

    return write


def test_our_own_weights_are_taken_over_and_factors_fall_towards_the_stem(written):
    before, after = network(classes=7), network(classes=10, seed=1)
    fresh = {name: value.clone() for name, value in after.state_dict().items()}
    factors = prepare(after, written(before.state_dict(), layer_decay=0.5, freeze=0.5))
    for name, value in after.state_dict().items():
        other = fresh if name.startswith(("18.", "0.")) else before.state_dict()
        assert torch.equal(value, other[name]), name
    assert set(factors) == {name for name, _ in after.named_parameters()}
    by_layer = [factors[f"{place}.weight"] for place in (1, 4, 8, 11, 18)]
    assert by_layer == [0, 0, 0.25, 0.5, 1]
    assert (factors["2.weight"], factors["2.bias"]) == (0, 0), "norms go with their layer"


@pytest.mark.parametrize(
    ("freeze", "frozen"), [(0, 0), (0.1, 0), (0.2, 1), (0.5, 2), (0.9, 4), (0.99, 4)]
)  # fmt: skip
def test_the_head_is_never_frozen(written, freeze, frozen):
    found = prepared(network(seed=1), written(network().state_dict(), freeze=freeze))
    assert (found.layers, found.frozen) == (5, frozen)
    assert found.factors["18.weight"] == 1
    assert sum(found.factors[f"{place}.weight"] == 0 for place in (1, 4, 8, 11, 18)) == frozen


def test_what_is_fresh_moves_at_the_full_rate_wherever_it_lies(written):
    tensors = {name: value for name, value in network().state_dict().items() if name != "1.weight"}
    found = prepared(network(seed=1), written(tensors, freeze=0.5, layer_decay=0.5))
    assert (found.fresh, found.factors["1.weight"], found.factors["2.weight"]) == (["1.weight"], 1, 0)
    assert found.plain() == {
        "tensors": len(found.taken),
        "fresh": ["1.weight"],
        "layers": 5,
        "frozen": 2,
        "adapted": None,
    }


def test_telling_changes_nothing(written):
    after = network(seed=1)
    kept = {name: value.clone() for name, value in after.state_dict().items()}
    assert prepared(after, written(network().state_dict()), copy=False).fresh == []
    assert all(torch.equal(value, kept[name]) for name, value in after.state_dict().items())


@pytest.fixture(scope="module")
def state():
    """Of torchvision's ResNet-18 with random weights."""
    import torchvision

    torch.manual_seed(0)
    return torchvision.models.resnet18(num_classes=4).state_dict()


@pytest.mark.parametrize("prefix", ["", "module.", "model.backbone."])
def test_a_torchvision_state_is_found_behind_the_names_of_the_wrapper(written, state, prefix):
    after = published(channels=3)
    found = prepared(after, written({prefix + name: value for name, value in state.items()}, layer_decay=0.7))
    assert found.layers == 10 and found.adapted is None
    assert set(found.fresh) == {"body.conv1.weight", "body.fc.weight", "body.fc.bias"}, "3 x 3 for 7 x 7, 3 classes"
    assert torch.equal(after.body.layer3[1].conv2.weight, state["layer3.1.conv2.weight"])
    assert torch.equal(after.body.bn1.running_var, state["bn1.running_var"])
    assert found.factors["body.layer4.1.conv1.weight"] == pytest.approx(0.7)
    assert found.factors["body.layer1.0.conv1.weight"] == pytest.approx(0.7**8)
    assert found.factors["body.bn1.weight"] == pytest.approx(0.7**9)


def test_a_stem_for_colours_is_made_one_for_grey_and_back(written):
    before, after = network(channels=3), network(channels=1, seed=1)
    assert prepared(after, written(before.state_dict())).adapted == "1.weight"
    shares = torch.rand(2, 1, 8, 8)
    torch.testing.assert_close(after[1](shares), before[1](shares.expand(2, 3, 8, 8)))
    again = network(channels=3, seed=2)
    prepare(again, written(after.state_dict()))
    torch.testing.assert_close(again[1](shares.expand(2, 3, 8, 8)), after[1](shares))


TIMM = {
    "mobilenet_v3_small": ("ds_se", ("ir", "ir"), ("ir_se",) * 3, ("ir_se",) * 2, ("ir_se",) * 3, ("cn",)),
    "mobilenet_v3_large": (
        "ds", ("ir", "ir"), ("ir_se",) * 3, ("ir",) * 4, ("ir_se",) * 2, ("ir_se",) * 3, ("cn",)
    ),
    "efficientnet_b0": (
        "ds_se", ("ir_se",) * 2, ("ir_se",) * 2, ("ir_se",) * 3, ("ir_se",) * 3, ("ir_se",) * 4, ("ir_se",)
    ),
}  # fmt: skip
"""Blocks of each stage, from timm's definitions (mobilenetv3.py, efficientnet.py)."""
UNITS = {
    "ir": ("conv_pw bn1", "conv_dw bn2", "conv_pwl bn3"), "ir_se": ("conv_pw bn1", "conv_dw bn2", "se", "conv_pwl bn3"),
    "ds": ("conv_dw bn1", "conv_pw bn2"), "ds_se": ("conv_dw bn1", "se", "conv_pw bn2"), "cn": ("conv bn1",),
}  # fmt: skip
NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def timm_names(kind: str) -> list[str]:
    """Names of timm's state dict, in the order of its computation, as its modules are written."""
    names = ["conv_stem.weight", *(f"bn1.{value}" for value in NORM)]
    for stage, blocks in enumerate(TIMM[kind]):
        for place, block in enumerate((blocks,) if isinstance(blocks, str) else blocks):
            for unit in UNITS[block]:
                start = f"blocks.{stage}.{place}."
                if unit == "se":
                    names += [f"{start}se.conv_{part}.{value}" for part in ("reduce", "expand") for value in NORM[:2]]
                else:
                    convolution, norm = unit.split()
                    names += [f"{start}{convolution}.weight", *(f"{start}{norm}.{value}" for value in NORM)]
    head = ["conv_head.weight"]
    head += [f"bn2.{value}" for value in NORM] if kind == "efficientnet_b0" else ["conv_head.bias"]
    return [*names, *head, "classifier.weight", "classifier.bias"]


@pytest.mark.parametrize("kind", TIMM)
def test_timm_names_are_told_in_those_of_torchvision(kind):
    with torch.device("meta"):
        import torchvision

        wanted = getattr(torchvision.models, kind)().state_dict()
    names = timm_names(kind)
    assert len(names) == len(wanted)
    # torchvision registers in the order of the computation too: the n-th name of one is the n-th of the other.
    found = [dict(zip(one.values(), one, strict=True)) for one in as_torchvision(dict(zip(names, names, strict=True)))]
    assert dict(zip(names, wanted, strict=True)) in found


def test_a_timm_file_is_taken_over(written):
    torch.manual_seed(0)
    before = published("mobilenet_v3_small", channels=3, side=112, classes=5)
    state = dict(zip(timm_names("mobilenet_v3_small"), before.body.state_dict().values(), strict=True))
    state["conv_head.weight"] = state["conv_head.weight"][:, :, None, None]
    after = published("mobilenet_v3_small", channels=3, side=112)
    found = prepared(after, written(state))
    assert found.fresh == ["body.classifier.3.weight", "body.classifier.3.bias"]
    assert torch.equal(after.body.classifier[0].weight, before.body.classifier[0].weight)
    assert torch.equal(after.body.features[4].block[2].fc1.weight, before.body.features[4].block[2].fc1.weight)


def test_a_file_of_another_network_is_named_with_what_it_lacks(written):
    with pytest.raises(PretrainedError) as error:
        prepare(network(width=8), written(network(width=4).state_dict()))
    told = str(error.value)
    assert "found 0 of 20 tensors before the head in " in told and "by name and shape; expected at least half" in told
    assert "The network lacks 1.weight, 2.weight, 2.bias, 4.weight, 5.weight and 15 more" in told
    assert "the file has 0.mean, 0.std, 1.weight, 11.weight, 12.bias and 19 more. Name the family " in told


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, r"found no file .*none\.safetensors \(architecture\.pretrained\.weights\); expected a safetensors file"),
        (b"", "found no readable safetensors file in .* copy it again, or make it again as docs/finetuning.md says"),
        (b"PK\x03\x04 and so on", "found a PyTorch checkpoint in .* convert it with the command in docs/finetuning.md"),
        (b"\x00" * 100, "found no readable safetensors file in "),
        ("short", "found no readable safetensors file in "),
        ("nan", r"found values in .* that are not finite, in 4\.weight; expected finite weights; use another file"),
    ],
)
def test_a_file_of_no_use_is_told(written, tmp_path, content, told):
    state = network().state_dict()
    if content == "nan":
        state["4.weight"][0] = float("nan")
    given = written(state)
    path = Path(given.weights)
    if content is None:
        given = Pretrained(weights=str(tmp_path / "none.safetensors"))
    elif content == "short":
        path.write_bytes(path.read_bytes()[:-100])
    elif isinstance(content, bytes):
        path.write_bytes(content)
    with pytest.raises(PretrainedError, match=told):
        prepare(network(), given)


def test_settings_hold_the_content_and_not_the_place(written, tmp_path):
    one = written(network().state_dict(), freeze=0.5)
    (tmp_path / "copy.safetensors").write_bytes(Path(one.weights).read_bytes())
    two = one.model_copy(update={"weights": str(tmp_path / "copy.safetensors")})
    assert settings_of(one) == settings_of(two) and settings_of(one)["freeze"] == 0.5
    assert settings_of(None) is None
    other = written(network(seed=3).state_dict(), freeze=0.5)
    assert settings_of(other) != settings_of(two)
    with pytest.raises(PretrainedError, match="found no file "):
        settings_of(Pretrained(weights=str(tmp_path / "none")))


def test_the_documented_command_converts_a_checkpoint(tmp_path, state):
    # As a user's file was once written: in a process of its own, since nothing of ours pickles.
    save_file(state, tmp_path / "state.safetensors")
    made = "import torch, safetensors.torch as s; torch.save(s.load_file('state.safetensors'), 'resnet18.pth')"
    subprocess.run([sys.executable, "-c", made], check=True, cwd=tmp_path)
    block = next(block for block in PAGE.split("```")[1::2] if "weights_only=True" in block)
    command = block.removeprefix("bash\n").strip()
    assert command.startswith("python -c '") and command.endswith("' resnet18.pth resnet18.safetensors")
    code = command.removeprefix("python -c '").split("'")[0]
    subprocess.run([sys.executable, "-c", code, "resnet18.pth", "resnet18.safetensors"], check=True, cwd=tmp_path)
    after = published(channels=3)
    found = prepared(after, Pretrained(weights=str(tmp_path / "resnet18.safetensors")))
    assert len(found.taken) == len(state) - 3
    assert torch.equal(after.body.layer4[1].conv2.weight, state["layer4.1.conv2.weight"])
