"""Running averages: power functions by hand, and lengths chosen after training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from torch import nn

from wordbrush.errors import ModelFileError, RequestError, WorkFailed
from wordbrush.training.ema import Averages, Snapshots, combination, gamma_of, overlap, power_decay, width_of

STEPS = 200


def profile(gamma: float, steps: int) -> np.ndarray:
    """(steps,) how much the weights after each step count in the average, by the recursion itself."""
    weights = np.zeros(steps)
    for step in range(1, steps + 1):
        decay = power_decay(step, gamma)
        weights *= decay
        weights[step - 1] = 1 - decay
    return weights


@pytest.mark.parametrize(("width", "gamma"), [(0.05, 16.97), (0.10, 6.94), (0.25, 0.72)])
def test_widths_and_exponents_are_the_papers(width: float, gamma: float) -> None:
    assert gamma_of(width) == pytest.approx(gamma, abs=0.005)
    assert width_of(gamma_of(width)) == pytest.approx(width, rel=1e-9)


def test_a_width_that_does_not_exist_is_refused() -> None:
    assert width_of(0.0) == pytest.approx(1 / (2 * 3**0.5))  # a uniform average
    for width in (0.0, 0.29):
        with pytest.raises(RequestError, match=r"between 0 and 0\.2887"):
            gamma_of(width)


def test_the_recursion_weighs_steps_by_the_power_function() -> None:
    gamma = gamma_of(0.1)
    weights = profile(gamma, STEPS)
    times = np.arange(1, STEPS + 1) / STEPS
    assert weights.sum() == pytest.approx(1.0)
    wanted = times ** (gamma + 1) - (times - 1 / STEPS) ** (gamma + 1)  # its integral over each step
    assert np.abs(weights - wanted).max() < 0.05 * wanted.max()
    middle = (weights * times).sum()
    assert np.sqrt((weights * (times - middle) ** 2).sum()) == pytest.approx(0.1, rel=0.02)


def test_by_hand() -> None:
    """γ = 1, so β_t = (1 - 1/t)²: after 1, 2 and 3 steps at weights 4, 8 and 9."""
    layer = nn.Linear(1, 1, bias=False)
    width = width_of(1.0)
    averages = Averages({"net": layer}, 0.5, [width])
    expected = (4.0, 8 - 4 * 1 / 4, 9 - 2 * 4 / 9)
    for step, (weight, wanted) in enumerate(zip((4.0, 8.0, 9.0), expected, strict=True), 1):
        with torch.no_grad():
            layer.weight.fill_(weight)
        averages.update(step)
        assert averages.powers[width]["net"]["weight"].item() == pytest.approx(wanted)


@pytest.mark.parametrize(
    ("one", "other"), [((3.0, 2.0), (5.0, 0.5)), ((5.0, 7.0), (5.0, 7.0)), ((9.0, 1.0), (2.0, 6.0))]
)
def test_overlaps_are_integrals(one: tuple[float, float], other: tuple[float, float]) -> None:
    def power(time: float, end: float, gamma: float) -> float:
        return (gamma + 1) * time**gamma / end ** (gamma + 1)

    wanted = quad(lambda time: power(time, *one) * power(time, *other), 0, min(one[0], other[0]))[0]
    assert overlap(*one, *other) == pytest.approx(wanted, rel=1e-6)


def test_a_kept_profile_is_combined_of_itself_alone() -> None:
    kept = [(step, gamma_of(width)) for step in (50, 100, 150, 200) for width in (0.05, 0.1)]
    factors = combination(kept, 200, gamma_of(0.1))
    assert factors == pytest.approx([0.0] * 7 + [1.0], abs=1e-6)


@pytest.mark.parametrize("width", [0.07, 0.13, 0.2])
def test_lengths_chosen_afterwards_are_those_kept_all_along(width: float, tmp_path: Path) -> None:
    """A network whose weights wander, averaged three ways at once; the third is found again from the other two."""
    layer = nn.Linear(16, 16)
    layer.bias.requires_grad_(False)
    averages = Averages({"net": layer}, 0.9, [0.05, 0.1, width])
    snapshots = Snapshots(tmp_path / "ema")
    generator = torch.Generator().manual_seed(0)
    for step in range(1, STEPS + 1):
        with torch.no_grad():
            layer.weight += torch.randn(layer.weight.shape, generator=generator)
        averages.update(step)
        if step % 10 == 0:
            snapshots.add(step, {length: track for length, track in averages.snapshot().items() if length != width})
    found = snapshots.average(width, averages.whole())["net"]
    wanted = averages.powers[width]["net"]["weight"]
    nearest = averages.powers[0.05 if width < 0.075 else 0.1]["net"]["weight"]
    error = (found["weight"] - wanted).norm()
    assert error < 0.05 * (nearest - wanted).norm()
    assert torch.equal(found["bias"], layer.bias)
    assert "bias" not in averages.snapshot()[0.05]["net"]  # what is not trained is not kept


def test_without_snapshots_or_with_a_damaged_one_it_says_so(tmp_path: Path) -> None:
    snapshots = Snapshots(tmp_path / "ema")
    with pytest.raises(RequestError, match="ema_lengths"):
        snapshots.average(0.1, {})
    snapshots.add(5, {0.05: {}})
    snapshots.add(9, {0.05: {}})
    snapshots.forget_after(5)
    assert list(snapshots.steps()) == [5]
    snapshots.steps()[5].write_bytes(b"half")
    with pytest.raises(ModelFileError, match=r"000000005\.pt is damaged"):
        snapshots.average(0.1, {})


def test_a_full_disk_is_said_and_leaves_nothing_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(state: object, path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(WorkFailed, match=r"000000005\.pt could not be written .*No space left"):
        Snapshots(tmp_path).add(5, {0.05: {}})
    assert list(tmp_path.iterdir()) == []


def test_weights_come_back_bit_by_bit_after_the_average_took_their_place() -> None:
    network = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Dropout())
    network[2].eval()  # stays as it is
    averages = Averages({"net": network}, 0.9)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.1
    network[1](torch.randn(4, 3, generator=torch.Generator().manual_seed(0)))
    averages.update(1)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    with averages.in_place():
        assert not network.training
        assert torch.equal(network[0].weight, averages.plain["net"]["0.weight"])
        assert not torch.equal(network[0].weight, before["0.weight"])
        assert not network(torch.ones(2, 3)).requires_grad
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert [part.training for part in network.modules()] == [True, True, True, False]
