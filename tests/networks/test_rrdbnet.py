"""RRDBNet and SRVGG against a second implementation, with tiny random weights."""

from __future__ import annotations

import pytest
import torch
from tests.networks.upscaler_oracles import random_state, rrdbnet, srvgg

from wordbrush.networks.rrdbnet import RRDBNet, RRDBNetConfig
from wordbrush.networks.srvgg import SRVGG, SRVGGConfig


@pytest.mark.parametrize(("doublings", "unshuffle", "scale"), [(2, 1, 4), (1, 1, 2), (0, 1, 1), (2, 2, 2), (2, 4, 1)])
def test_rrdbnet(doublings: int, unshuffle: int, scale: int) -> None:
    config = RRDBNetConfig(features=8, growth=4, blocks=2, doublings=doublings, unshuffle=unshuffle)
    net = RRDBNet(config).eval()
    state = random_state(net)
    net.load_state_dict(state)
    images = torch.rand(2, 3, 8, 12, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        found = net(images)
    assert config.scale == scale
    assert found.shape == (2, 3, 8 * scale, 12 * scale)
    wanted = rrdbnet(state, images, blocks=2, doublings=doublings, unshuffle=unshuffle)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def test_sides_that_cannot_be_folded_are_filled_up() -> None:
    net = RRDBNet(RRDBNetConfig(features=4, growth=2, blocks=1, unshuffle=2))
    assert net(torch.rand(1, 3, 5, 7)).shape == (1, 3, 10, 14)


@pytest.mark.parametrize("scale", [1, 2, 4])
def test_srvgg(scale: int) -> None:
    net = SRVGG(SRVGGConfig(features=6, convolutions=3, scale=scale)).eval()
    state = random_state(net)
    net.load_state_dict(state)
    images = torch.rand(2, 3, 5, 7, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(net(images), srvgg(state, images, convolutions=3, scale=scale), rtol=1e-4, atol=1e-5)


def test_the_published_networks_have_their_sizes() -> None:
    """16.7 million parameters of RealESRGAN_x4plus, 1.2 of realesr-general-x4v3, 0.6 of realesr-animevideov3."""
    with torch.device("meta"):
        sizes = [
            sum(p.numel() for p in net.parameters())
            for net in (RRDBNet(RRDBNetConfig()), SRVGG(SRVGGConfig(convolutions=32)), SRVGG(SRVGGConfig()))
        ]
    assert sizes == [16_697_987, 1_213_296, 621_424]


def test_impossible_settings_are_refused() -> None:
    for settings, message in (
        ({"unshuffle": 3}, "unshuffle=3"), ({"doublings": 4}, "doublings=4"),
        ({"doublings": 0, "unshuffle": 2}, "smaller"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            RRDBNetConfig(**settings)
    with pytest.raises(ValueError, match="features=0"):
        SRVGGConfig(features=0)
