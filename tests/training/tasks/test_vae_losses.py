"""The autoencoder's perceptual loss and adversary: by hand, and against the textbook's two optimisers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from wordbrush.errors import RequestError
from wordbrush.formats.clip_files import read_clip
from wordbrush.formats.open import locate_model
from wordbrush.networks.vae import AutoencoderKL
from wordbrush.training.adversary import adaptive_weight, hinge
from wordbrush.training.perceptual import perceptual_distance
from wordbrush.training.recipe import Recipe
from wordbrush.training.tasks.recipes import PerceptualRecipe
from wordbrush.training.tasks.vae import VAETask, edges, standardising

NETWORK = {
    "latent_channels": 16, "block_out_channels": [16, 16], "layers_per_block": 1, "norm_num_groups": 1,
    "mid_block_add_attention": False, "use_quant_conv": False, "use_post_quant_conv": False,
}  # fmt: skip
ADVERSARY = {"weight": 0.7, "start": 10, "channels": 16, "layers": 2, "rate": 0.5}


def task(batch: int = 2, **train: Any) -> VAETask:
    recipe = Recipe.model_validate(
        {"name": "t", "seed": 1, "steps": 20, "batch": batch, "train": {"task": "vae", "network": NETWORK, **train}}
    )
    made = VAETask(recipe, recipe.train)  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():  # the residual branches too
        for parameter in made.network.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return made


def test_hinge_by_hand() -> None:
    # relu(1 - r): 0, 0.5, 3; relu(1 + f): 0, 1.5
    loss = hinge(torch.tensor([2.0, 0.5, -2.0]), torch.tensor([-3.0, 0.5]))
    assert loss.item() == pytest.approx(0.5 * (3.5 / 3 + 1.5 / 2))


def test_adaptive_weight_by_hand() -> None:
    assert adaptive_weight(torch.tensor([3.0, 4.0]), torch.tensor([0.0, 2.0])).item() == pytest.approx(5 / 2.0001)
    assert adaptive_weight(torch.tensor([3.0, 4.0]), torch.zeros(2)).item() == 1e4  # bounded


def test_gradients_are_those_of_two_optimisers() -> None:
    own = task(adversary=ADVERSARY, perceptual={"weight": 0.3}, half_scale_every=3)
    batch, step = own.batch(0, range(2)), 10
    loss, figures = own.loss(batch, step)
    loss.backward()
    got = {name: p.grad for module in own.modules.values() for name, p in module.named_parameters()}

    # the textbook: every loss has its own graph and backward pass, and the weight needs two more
    network, discriminator, images = own.network, own.discriminator, batch["images"]
    posterior = network.encode_raw(images)
    decoded = network.decode_raw(posterior.mean + (0.5 * posterior.logvar).exp() * batch["eps"])
    reconstruction = (decoded - images).abs().mean() + 0.3 * own.frozen["perceptual"](decoded, images).mean()
    for a, b in zip(edges(decoded), edges(images), strict=True):
        reconstruction = reconstruction + (a - b).abs().mean()
    deceive, last = -discriminator(decoded).mean(), network.decoder.conv_out.weight
    first, second = (torch.autograd.grad(x, last, retain_graph=True)[0] for x in (reconstruction, deceive))
    weight = 0.7 * (first.norm() / (second.norm() + 1e-4)).clamp(0, 1e4).detach()
    kl = posterior.kl().mean() / batch["eps"][0].numel()
    generator_loss = reconstruction + weight * deceive + 1e-3 * kl
    of_generator = torch.autograd.grad(generator_loss, list(network.parameters()))
    real, fake = discriminator(images), discriminator(decoded.detach())
    discriminator_loss = 0.5 * (F.relu(1 - real).mean() + F.relu(1 + fake).mean())
    of_discriminator = torch.autograd.grad(discriminator_loss, list(discriminator.parameters()))

    assert loss.item() == pytest.approx((generator_loss + discriminator_loss).item(), rel=1e-5)
    assert figures["adversary_weight"].item() == pytest.approx(weight.item(), rel=1e-4)
    names = [*dict(network.named_parameters()), *dict(discriminator.named_parameters())]
    for name, wanted in zip(names, (*of_generator, *of_discriminator), strict=True):
        assert got[name] is not None, name
        assert torch.allclose(got[name], wanted, rtol=1e-3, atol=1e-6), name
    assert own.rates == {"discriminator": 0.5}


@pytest.mark.parametrize(("step", "half"), [(9, 0), (12, 3)])
def test_before_its_start_and_at_half_size_the_adversary_rests(step: int, half: int) -> None:
    own, plain = task(adversary=ADVERSARY, half_scale_every=half), task(half_scale_every=half)
    batch = own.batch(0, range(2))
    loss, _ = own.loss(batch, step)
    loss.backward()
    wanted, _ = plain.loss(batch, step)
    wanted.backward()
    assert loss.item() == wanted.item()
    for one, other in zip(own.network.parameters(), plain.network.parameters(), strict=True):
        assert torch.equal(one.grad, other.grad)  # type: ignore[arg-type]
    for parameter in own.discriminator.parameters():  # there, for processes wait for each other's, and zero
        assert parameter.grad is not None
        assert not parameter.grad.any()


def test_perceptual_distance_of_clip_by_an_independent_pass() -> None:
    distance = perceptual_distance(PerceptualRecipe())
    generator = torch.Generator().manual_seed(0)
    one = torch.rand(2, 3, 64, 64, generator=generator) * 2 - 1
    other = (one + 0.2 * torch.randn(one.shape, generator=generator)).clamp(-1, 1)
    got = distance(one, other)
    from transformers import CLIPVisionModel

    reference = CLIPVisionModel.from_pretrained(locate_model(None) / "clip", dtype=torch.float32)
    states = []
    for images in (one, other):
        large = F.interpolate(images, (128, 128), mode="bilinear", align_corners=False)  # mean and std are 0.5
        with torch.no_grad():
            states.append(reference(large, output_hidden_states=True).hidden_states[1:])
    total = torch.zeros(2)
    for a, b in zip(*states, strict=True):
        a, b = F.normalize(a[:, 1:], dim=2), F.normalize(b[:, 1:], dim=2)
        total += (2 - 2 * (a * b).sum(2)).mean(1)  # of unit vectors
    assert torch.allclose(got, total / len(states[0]), rtol=1e-4)
    assert (got > 0.01).all()
    assert distance(one, one).tolist() == pytest.approx([0.0, 0.0], abs=1e-6)
    assert not any(p.requires_grad for p in distance.parameters())
    assert read_clip(locate_model(None)).mean == (0.5, 0.5, 0.5)


def test_latents_are_standardised_behind_convolutions_of_their_own() -> None:
    own = task().network
    config = own.config.__class__(**{**vars(own.config), "use_quant_conv": True, "use_post_quant_conv": True})
    network = AutoencoderKL(config)
    images = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        before = network.encode_raw(images)
        flat = before.mean.transpose(0, 1).flatten(1)
        painted = network.decode_raw(before.mean)
        network.load_state_dict(network.state_dict() | standardising(network, flat.mean(1), flat.std(1)))
        after = network.encode_raw(images)
        flat, spread = after.mean.transpose(0, 1).flatten(1), flat.std(1)
        assert torch.allclose(flat.mean(1), torch.zeros(16), atol=1e-4)
        assert torch.allclose(flat.std(1), torch.ones(16), atol=1e-3)
        assert torch.allclose(after.logvar, before.logvar - 2 * spread.log().view(1, -1, 1, 1), atol=1e-4)
        assert torch.allclose(network.decode_raw(after.mean), painted, atol=1e-4)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "pictures"
    place.mkdir()
    for number in range(5):
        pixels = np.random.default_rng(number).integers(0, 255, (50, 60, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(place / f"{number}.png")
    return place


def test_any_pictures_train_it(folder: Path, tmp_path: Path) -> None:
    made = task(batch=4, data={"kind": "folder", "path": str(folder), "size": 32})
    batch = made.batch(3, range(4))
    assert batch["images"].shape == (4, 3, 32, 32)
    assert batch["eps"].shape == (4, 16, 16, 16)
    part = made.batch(3, range(2, 4))
    assert all(torch.equal(part[key], batch[key][2:]) for key in batch)
    loss, _ = made.loss(batch, 1)
    assert torch.isfinite(loss)
    made.export(tmp_path / "out", {"vae": made.network.state_dict()})
    from diffusers import AutoencoderKL as Reference

    latents = Reference.from_pretrained(tmp_path / "out/vae").encode(batch["images"]).latent_dist.mode()
    assert latents.shape == (4, 16, 16, 16)


def test_sizes_that_the_autoencoder_cannot_divide_are_named(folder: Path) -> None:
    with pytest.raises(RequestError, match=r"33.*multiple of 2.*32.*34"):
        task(data={"kind": "folder", "path": str(folder), "size": 33})
    with pytest.raises(RequestError, match=r"crop=33.*multiple of 2.*32 and 34"):
        task(crop=33)
    with pytest.raises(ValueError, match="crop is the side of crops of scenes"):
        task(crop=32, data={"kind": "folder", "path": str(folder), "size": 32})


def test_the_source_is_pickled_without_networks(folder: Path) -> None:
    import pickle

    made = task(batch=4, data={"kind": "folder", "path": str(folder), "size": 32})
    stored = pickle.dumps(made.source)
    assert len(stored) < 200_000
    again: Any = pickle.loads(stored)  # noqa: S301
    first: dict[str, Tensor] = again(2, range(4))
    assert all(torch.equal(value, made.batch(2, range(4))[key]) for key, value in first.items())
