import pytest
import torch
from tests.networks.checks import assert_initialise_draws_everything, shake
from torch.distributions import Normal, kl_divergence

from wordbrush.networks.vae import AutoencoderKL, AutoencoderKLConfig, DiagonalGaussian

CONFIG = AutoencoderKLConfig(block_out_channels=(8, 16, 16), norm_num_groups=4, scaling_factor=0.5, shift_factor=0.25)


def _network(config: AutoencoderKLConfig = CONFIG) -> AutoencoderKL:
    network = AutoencoderKL(config)
    network.initialise(torch.Generator().manual_seed(0))
    shake(network)
    return network.eval()


def _images(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_scale_and_shift_are_applied_and_undone() -> None:
    network = _network()
    with torch.no_grad():
        raw, scaled = network.encode_raw(_images(2, 3, 16, 24)), network.encode(_images(2, 3, 16, 24))
        torch.testing.assert_close(scaled.mean, (raw.mean - 0.25) * 0.5)
        torch.testing.assert_close(scaled.logvar.exp(), raw.logvar.exp() * 0.25)
        torch.testing.assert_close(network.decode(scaled.mode()), network.decode_raw(raw.mode()), atol=1e-5, rtol=1e-5)
    assert raw.mean.shape == (2, 4, 4, 6)
    assert network.decode(scaled.mode()).shape == (2, 3, 16, 24)


def test_a_sample_follows_its_distribution_and_its_generator() -> None:
    gaussian = DiagonalGaussian(mean=torch.full((1, 1, 100, 100), 3.0), logvar=torch.full((1, 1, 100, 100), 0.5))
    draw = gaussian.sample(torch.Generator().manual_seed(3))
    assert torch.equal(draw, gaussian.sample(torch.Generator().manual_seed(3)))
    assert draw.mean().item() == pytest.approx(3.0, abs=0.05)
    assert draw.var().item() == pytest.approx(2.718281828**0.5, rel=0.05)


def test_kl_is_the_exact_divergence() -> None:
    mean, logvar = _images(2, 4, 3, 3), _images(2, 4, 3, 3)
    exact = kl_divergence(Normal(mean, (0.5 * logvar).exp()), Normal(0.0, 1.0)).sum(dim=(1, 2, 3))
    torch.testing.assert_close(DiagonalGaussian(mean=mean, logvar=logvar).kl(), exact)


@pytest.mark.parametrize(
    ("height", "width", "said"), [(18, 16, "height=18.*4.*16 and 20"), (16, 7, "width=7.*4.*4 and 8")]
)
def test_a_size_that_does_not_fit_is_refused_with_the_nearest(height: int, width: int, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        _network().encode(_images(1, 3, height, width))


def test_initialise() -> None:
    assert_initialise_draws_everything(lambda: AutoencoderKL(CONFIG))


def test_recording_gradients_changes_no_pixel() -> None:
    network, images = _network(), _images(1, 3, 16, 16)
    with torch.no_grad():
        without = network.decode(network.encode(images).mode())
    torch.testing.assert_close(network.decode(network.encode(images).mode()), without, atol=0, rtol=0)


def test_channels_last_and_bfloat16_go_all_the_way() -> None:
    network, images = _network(), _images(2, 3, 32, 32)
    with torch.no_grad():
        exact = network.decode(network.encode(images).mode())
        network = network.bfloat16().to(memory_format=torch.channels_last)
        low = network.decode(network.encode(images.bfloat16().to(memory_format=torch.channels_last)).mode())
    assert low.dtype == torch.bfloat16
    assert low.is_contiguous(memory_format=torch.channels_last)
    assert (low.float() - exact).std() < 0.1 * exact.std()


def test_a_few_steps_of_training_lower_the_error_and_reach_every_weight() -> None:
    network = AutoencoderKL(CONFIG)
    network.initialise(torch.Generator().manual_seed(0))
    images, noise = (
        _images(4, 3, 4, 4).repeat_interleave(4, 2).repeat_interleave(4, 3),
        torch.Generator().manual_seed(1),
    )
    start = [parameter.detach().clone() for parameter in network.parameters()]
    optimiser = torch.optim.Adam(network.parameters(), lr=3e-3)
    losses = []
    for _ in range(30):
        posterior = network.encode_raw(images)
        loss = (network.decode_raw(posterior.sample(noise)) - images).square().mean() + 1e-6 * posterior.kl().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0], losses
    still = [name for (name, now), was in zip(network.named_parameters(), start, strict=True) if torch.equal(now, was)]
    assert still == []
