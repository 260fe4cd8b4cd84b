"""What the families of images are made of, against PyTorch's own layers and formulas written out."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import nn
from torch.nn import functional

from dl_pipelines.brief.sections import Training
from dl_pipelines.models.attention_modules import SelfAttention, fitting_patch
from dl_pipelines.models.autoencoder import Autoencoder
from dl_pipelines.models.gan import Gan
from dl_pipelines.models.gan_modules import real_or_generated
from dl_pipelines.models.image_modules import halvings_to
from dl_pipelines.models.rnn_rows import RnnRows
from dl_pipelines.models.vit import ConvAttention, Vit
from dl_pipelines.tasks.image_classification import ImageClassification

GREY = {"mean": [0.3], "std": [0.4]}


def task(height: int = 8, width: int = 8) -> ImageClassification:
    return ImageClassification(ImageClassification.Params(classes=("a", "b", "c"), height=height, width=width))


def pixels(count: int = 5, height: int = 8, width: int = 8) -> torch.Tensor:
    torch.manual_seed(1)
    return torch.randint(0, 256, (count, height, width, 1), dtype=torch.uint8)


def test_attention_is_pytorchs():
    torch.manual_seed(0)
    mine, reference = SelfAttention(12, 3), nn.MultiheadAttention(12, 3, batch_first=True)
    reference.load_state_dict({
        "in_proj_weight": mine.asked.weight, "in_proj_bias": mine.asked.bias,
        "out_proj.weight": mine.out.weight, "out_proj.bias": mine.out.bias,
    })  # fmt: skip
    parts = torch.randn(2, 5, 12)
    torch.testing.assert_close(mine(parts), reference(parts, parts, parts, need_weights=False)[0])


@pytest.mark.parametrize(
    ("height", "width", "patch"), [(4, 4, 2), (8, 8, 2), (28, 28, 4), (32, 32, 4), (5, 64, 2), (112, 112, 14)]
)  # fmt: skip
def test_patches_fit_the_image(height: int, width: int, patch: int):
    assert fitting_patch(height, width) == patch


def test_a_transformer_sees_every_pixel_and_its_place():
    """Also where patches of 4 do not cover 9 x 10 pixels: what is missing is the mean."""
    family: Any = Vit(Vit.Params(patch=4, width=8, heads=2, depth=1, dropout=0))
    network = family.network(task(9, 10), GREY).eval()
    assert network.position.shape == (3 * 3, 8)
    given = pixels(1, 9, 10)
    changed = given.clone()
    changed[0, 8, 9] = 255 - changed[0, 8, 9]
    assert not torch.equal(network(given), network(changed))
    turned = pixels(1, 8, 8)
    whole = family.network(task(8, 8), GREY).eval()
    assert not torch.allclose(whole(turned), whole(turned.roll(4, dims=2)), atol=1e-4)


def test_a_stem_leaves_about_eight_places():
    for side, left in ((8, 4), (32, 8), (112, 7), (224, 7)):
        network: Any = ConvAttention(ConvAttention.Params(width=8, heads=2)).network(task(side, side), GREY)
        assert network.position.shape == (left * left, 8)
    assert [halvings_to(side, 4) for side in (4, 8, 9, 32, 33)] == [1, 1, 2, 3, 4]


def test_the_width_is_shared_by_whole_heads():
    for family in (Vit, ConvAttention):
        with pytest.raises(ValidationError, match=r"width: a multiple of heads \(4\)"):
            family.Params(width=30)


@pytest.mark.parametrize("cell", ["gru", "lstm"])
@pytest.mark.parametrize("both", [True, False])
def test_a_recurrent_network_decides_by_its_last_states(cell: Any, both: bool):
    params = RnnRows.Params(cell=cell, hidden=6, bidirectional=both, dropout=0)
    network: Any = RnnRows(params).network(task(5, 8), GREY).eval()
    given = pixels(4, 5, 8)
    _, last = network.rows(network.normalise(given)[:, 0])
    last = last[0] if cell == "lstm" else last  # [directions, N, hidden]
    torch.testing.assert_close(network(given), network.head(last.transpose(0, 1).flatten(1)))


def test_an_autoencoder_learns_to_mend_before_it_learns_classes():
    recipe = Autoencoder(Autoencoder.Params(width=8, noise=0.4, pretraining=0.25)).recipe(task(), GREY, Training())
    first, second = recipe.phases
    assert (first.name, first.share, first.objectives[0].modules) == ("denoising", 0.25, ("encoder", "decoder"))
    assert (second.name, second.share, second.objectives[0].modules) == ("supervised", 0.75, ("network",))
    network: Any = recipe.network
    assert recipe.modules["encoder"] is network.encoder
    given, clean = pixels(), network.normalise(pixels())
    torch.manual_seed(7)
    loss = first.objectives[0].loss(recipe.modules, given, torch.zeros(5))
    torch.manual_seed(7)
    mended = recipe.modules["decoder"](network.encoder(clean + 0.4 * torch.randn_like(clean)))
    assert loss.item() == pytest.approx(((mended - clean) ** 2).mean().item(), rel=1e-5)


def test_an_autoencoder_without_pretraining_is_supervised_only():
    recipe = Autoencoder(Autoencoder.Params(pretraining=0)).recipe(task(), GREY, Training(loss="focal"))
    assert [(phase.name, phase.share) for phase in recipe.phases] == [("supervised", 1.0)]
    assert recipe.phases[0].objectives[0].name == "focal"


def test_generated_is_a_further_class_whose_logit_is_zero():
    torch.manual_seed(0)
    real, generated = torch.randn(6, 3) * 4, torch.randn(6, 3) * 4
    shares = [functional.pad(logits, (0, 1)).softmax(dim=1)[:, 3] for logits in (real, generated)]
    expected = -0.5 * (torch.log(1 - shares[0]).mean() + torch.log(shares[1]).mean())
    assert real_or_generated(real, generated).item() == pytest.approx(expected.item(), rel=1e-5)


def test_a_gans_objectives_move_what_is_theirs():
    recipe = Gan(Gan.Params(width=8, latent=4, unsupervised=2, dropout=0)).recipe(task(9, 10), GREY, Training())
    (phase,) = recipe.phases
    assert [(item.name, item.modules) for item in phase.objectives] == [
        ("discriminator", ("network",)), ("generator", ("generator",)),
    ]  # fmt: skip
    network, generator = recipe.modules["network"], recipe.modules["generator"]
    made = generator(torch.randn(3, 4))
    assert made.shape == (3, 1, 9, 10)
    assert 0 <= made.min() <= made.max() <= 1
    given, targets = pixels(5, 9, 10), torch.tensor([0, 1, 2, 1, 0])
    torch.manual_seed(7)
    losses = [item.loss(recipe.modules, given, targets).item() for item in phase.objectives]
    torch.manual_seed(7)
    first, second = (network.normalise.scaled(generator(torch.randn(5, 4))) for _ in range(2))  # pyright: ignore
    logits = network(given)
    told = functional.cross_entropy(logits, targets) + 2 * real_or_generated(
        logits, network.head(network.features(first))
    )
    assert losses[0] == pytest.approx(told.item(), rel=1e-5)
    apart = network.features(second).mean(dim=0) - network.features(network.normalise(given)).mean(dim=0)
    assert losses[1] == pytest.approx((apart**2).mean().item(), rel=1e-5)
