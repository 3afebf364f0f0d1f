"""Guidance: the formula, its off switch, and what it costs."""

from __future__ import annotations

import pytest
import torch
from tests.diffusion.gaussian import PROCESSES
from torch import Tensor

from wordbrush.diffusion.guidance import (
    Guidance,
    batched_pair,
    classifier_free,
    clipped,
    composed,
    edited,
    pair,
    rescaled,
)
from wordbrush.diffusion.prediction import PREDICTIONS

PROCESS = PROCESSES["vp"]
X = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(3))


def positive(x: Tensor, t: float) -> Tensor:
    return torch.tanh(x) + t


def negative(x: Tensor, t: float) -> Tensor:
    return 0.5 * torch.sin(x)


def doubled(x: Tensor, t: float) -> Tensor:
    first, second = x.chunk(2)
    return torch.cat([positive(first, t), negative(second, t)])


def guided(guidance: Guidance, prediction: str = "v", t: float = 0.6) -> Tensor:
    return classifier_free(positive, pair(positive, negative), guidance, PROCESS, prediction)(X, t)


def test_formula() -> None:
    expected = negative(X, 0.6) + 5.0 * (positive(X, 0.6) - negative(X, 0.6))
    assert torch.allclose(guided(Guidance(scale=5.0)), expected)
    assert torch.allclose(guided(Guidance(scale=0.0)), negative(X, 0.6))


def test_one_is_off_and_costs_one_call() -> None:
    def never(x: Tensor, t: float) -> tuple[Tensor, Tensor]:
        raise AssertionError("the negative prompt was computed for nothing")

    assert classifier_free(positive, never, Guidance(scale=1.0, rescale=0.7), PROCESS, "v") is positive


def test_one_call_for_both_is_the_same() -> None:
    one = classifier_free(positive, batched_pair(doubled), Guidance(scale=4.0, rescale=0.3), PROCESS, "v")(X, 0.5)
    two = classifier_free(positive, pair(positive, negative), Guidance(scale=4.0, rescale=0.3), PROCESS, "v")(X, 0.5)
    assert torch.equal(one, two)


@pytest.mark.parametrize("prediction", ["epsilon", "v", "flow"])
def test_guidance_of_x0_is_guidance_of_the_network_s_output(prediction: str) -> None:
    space, alpha, sigma = PREDICTIONS[prediction], PROCESS.alpha(0.6), PROCESS.sigma(0.6)
    outputs = [space.from_x0(f(X, 0.6), X, alpha, sigma) for f in (positive, negative)]
    expected = space.to_x0(outputs[1] + 5.0 * (outputs[0] - outputs[1]), X, alpha, sigma)
    assert torch.allclose(guided(Guidance(scale=5.0), prediction), expected, atol=1e-4)


def test_full_rescale_restores_the_spread_of_each_picture_s_prediction() -> None:
    space, alpha, sigma = PREDICTIONS["v"], PROCESS.alpha(0.6), PROCESS.sigma(0.6)
    result = space.from_x0(guided(Guidance(scale=6.0, rescale=1.0)), X, alpha, sigma)
    expected = space.from_x0(positive(X, 0.6), X, alpha, sigma)
    assert torch.allclose(result.std((1, 2, 3)), expected.std((1, 2, 3)), rtol=1e-4)
    half = rescaled(2.0 * X, X, 0.5)
    assert torch.allclose(half, 1.5 * X)


def test_interval() -> None:
    guidance = Guidance(scale=5.0, interval=(0.3, 0.7))
    for t, acts in ((0.2, False), (0.3, True), (0.7, True), (0.71, False)):
        assert torch.equal(guided(guidance, t=t), positive(X, t)) is not acts


def test_impossible_values_are_refused() -> None:
    with pytest.raises(ValueError, match=r"rescale=1\.5"):
        Guidance(rescale=1.5)
    with pytest.raises(ValueError, match="interval="):
        Guidance(interval=(0.8, 0.2))


def test_clipping() -> None:
    assert float(clipped(lambda x, t: 3.0 * x, 1.0)(X, 0.5).abs().max()) == 1.0


def third(x: Tensor, t: float) -> Tensor:
    return torch.cos(x) - t


def stacked(x: Tensor, t: float) -> Tensor:
    parts = x.chunk(3)
    return torch.cat([positive(parts[0], t), third(parts[1], t), negative(parts[2], t)])


def test_composed_prompts_add_their_directions() -> None:
    away, two, one = negative(X, 0.6), positive(X, 0.6), third(X, 0.6)
    expected = away + 5.0 * (1.2 * (two - away) - 0.5 * (one - away))
    both = composed(stacked, torch.tensor([1.2, -0.5]))
    found = classifier_free(positive, both, Guidance(scale=5.0), PROCESS, "v")(X, 0.6)
    assert torch.allclose(found, expected, atol=1e-5)


def test_composed_weights_may_differ_between_pictures() -> None:
    first, second = torch.tensor([1.2, -0.5]), torch.tensor([0.0, 1.0])
    found = composed(stacked, torch.stack([first, second], dim=1))(X, 0.6)[0]
    for row, weights in enumerate((first, second)):
        assert torch.allclose(found[row], composed(stacked, weights)(X, 0.6)[0][row], atol=1e-6)


def test_one_composed_prompt_of_weight_one_is_plain_guidance() -> None:
    for one, two in zip(composed(doubled, torch.ones(1))(X, 0.5), batched_pair(doubled)(X, 0.5), strict=True):
        assert torch.equal(one, two)


def test_an_edited_picture_is_a_second_direction() -> None:
    bare, away, towards = third(X, 0.6), negative(X, 0.6), positive(X, 0.6)
    both = edited(pair(positive, negative), third, 1.5)
    found = classifier_free(positive, both, Guidance(scale=5.0), PROCESS, "v")(X, 0.6)
    assert torch.allclose(found, bare + 5.0 * (towards - away) + 1.5 * (away - bare), atol=1e-5)
