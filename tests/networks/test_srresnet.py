"""SRResNet: the published size, an independent forward pass, what it starts from, and how far it sees."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from wordbrush.networks.srresnet import SRResNet, SRResNetConfig

TINY = {"channels": 6, "blocks": 2, "end_kernel": 5}


def network(**settings: object) -> SRResNet:
    made = SRResNet(SRResNetConfig(**{**TINY, **settings}))  # type: ignore[arg-type]
    made.initialise(torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for value in made.state_dict().values():
            if value.is_floating_point():
                value.copy_(torch.rand(value.shape, generator=generator) * 0.4 - 0.1 * (value.ndim > 1))
    return made.eval()


def by_hand(w: dict[str, Tensor], x: Tensor, *, scale: int, norm: bool, skip: bool) -> Tensor:
    """Ledig 2017, figure 4, from the state dict alone."""

    def conv(name: str, y: Tensor) -> Tensor:
        weight = w[f"{name}.weight"]
        return F.conv2d(y, weight, w.get(f"{name}.bias"), padding=weight.shape[-1] // 2)

    def normed(name: str, y: Tensor) -> Tensor:
        if not norm:
            return y
        mean, var = w[f"{name}.running_mean"][:, None, None], w[f"{name}.running_var"][:, None, None]
        return (y - mean) / (var + 1e-5).sqrt() * w[f"{name}.weight"][:, None, None] + w[f"{name}.bias"][:, None, None]

    def prelu(name: str, y: Tensor) -> Tensor:
        return torch.where(y > 0, y, y * w[f"{name}.weight"][:, None, None])

    first = y = prelu("act_in", conv("conv_in", x))
    for i in range(2):
        h = prelu(f"blocks.{i}.act", normed(f"blocks.{i}.norm1", conv(f"blocks.{i}.conv1", y)))
        y = y + normed(f"blocks.{i}.norm2", conv(f"blocks.{i}.conv2", h))
    y = first + normed("norm_mid", conv("conv_mid", y))
    for i in range({2: 1, 4: 2}[scale]):
        y = conv(f"upsamplers.{i}.conv", y)
        batch, channels, height, width = y.shape  # Shi 2016, eq. 4: channel c*4 + 2*dy + dx goes to pixel (dy, dx)
        y = y.reshape(batch, channels // 4, 2, 2, height, width).permute(0, 1, 4, 2, 5, 3)
        y = prelu(f"upsamplers.{i}.act", y.reshape(batch, channels // 4, 2 * height, 2 * width))
    y = conv("conv_out", y)
    return y + F.interpolate(x, scale_factor=scale, mode="bicubic") if skip else y


@pytest.mark.parametrize("scale", [2, 4])
@pytest.mark.parametrize(("norm", "skip"), [(True, False), (False, True)])
def test_the_forward_pass_is_the_papers(scale: int, norm: bool, skip: bool) -> None:
    net = network(scale=scale, batch_norm=norm, skip_picture=skip)
    images = torch.rand(2, 3, 7, 9, generator=torch.Generator().manual_seed(2)) * 2 - 1
    with torch.no_grad():
        found = net(images)
    wanted = by_hand(net.state_dict(), images, scale=scale, norm=norm, skip=skip)
    assert found.shape == (2, 3, 7 * scale, 9 * scale)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def test_the_published_network_has_its_one_and_a_half_million_parameters() -> None:
    """Layer by layer from figure 4: k9n64, sixteen blocks of k3n64 with BN and PReLU, k3n64, two of k3n256, k9n3."""
    block = 2 * (9 * 64 * 64 + 2 * 64) + 64
    wanted = (81 * 3 * 64 + 64 + 64) + 16 * block + (9 * 64 * 64 + 2 * 64) + 2 * (9 * 64 * 256 + 256 + 64)
    wanted += 81 * 64 * 3 + 3
    assert sum(p.numel() for p in SRResNet(SRResNetConfig()).parameters()) == wanted == 1_548_547


def test_with_skip_picture_training_starts_from_bicubic() -> None:
    net = SRResNet(SRResNetConfig(**TINY, batch_norm=False, skip_picture=True))
    net.initialise(torch.Generator().manual_seed(0))
    images = torch.rand(1, 3, 6, 6)
    with torch.no_grad():
        torch.testing.assert_close(net(images), F.interpolate(images, scale_factor=4.0, mode="bicubic"))


def test_initialise_redraws_everything_from_the_generator() -> None:
    states = []
    for _ in range(2):
        net = SRResNet(SRResNetConfig(**TINY))
        net.initialise(torch.Generator().manual_seed(3))
        states.append(net.state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


@pytest.mark.parametrize("scale", [2, 4])
def test_reach_is_how_far_it_sees(scale: int) -> None:
    net = network(scale=scale, batch_norm=False, skip_picture=True)
    reach, side = net.config.reach, 2 * net.config.reach + 3
    images = torch.zeros(1, 3, 1, side)
    changed = images.clone()
    changed[..., 0] = 1.0
    with torch.no_grad():
        columns = ((net(changed) - net(images)).abs().amax((0, 1, 2)) > 0).nonzero()
    assert int(columns.max()) // scale <= reach
    assert int(columns.max()) // scale >= reach - 2


def test_impossible_settings_are_refused() -> None:
    wrong = (({"scale": 3}, "scale=3"), ({"end_kernel": 4}, "end_kernel=4"), ({"blocks": 0}, "blocks=0"))
    for settings, message in wrong:
        with pytest.raises(ValueError, match=message):
            SRResNetConfig(**settings)
    with pytest.raises(ValueError, match="colour"):
        SRResNetConfig.from_dict({"colour": 1})
    config = SRResNetConfig(**TINY)
    assert SRResNetConfig.from_dict(config.to_dict()) == config
