"""The inspector's shapes, its boxes and its config."""

from __future__ import annotations

import math

import pytest
import torch

from wordbrush.networks.inspector import Inspector, InspectorConfig

TINY = InspectorConfig(
    kinds=("cat", "dog", "fox"), colours=("red", "own"), backgrounds=("white", "blue"), size=32, widths=(32, 32, 32),
    depths=(1, 0, 1), neck=32, group_channels=16,
)  # fmt: skip


@pytest.fixture
def network() -> Inspector:
    network = Inspector(TINY)
    network.initialise(torch.Generator().manual_seed(0))
    return network


def test_shapes(network: Inspector) -> None:
    features = network.features(torch.zeros(2, 3, 32, 32))
    assert features.cells.shape == (2, 4, 4, 32)
    assert features.embedding.shape == (2, 32)
    assert network.presence(features.cells).shape == (2, 4, 4)
    answers = network.answers(features.cells[:, 0])
    assert (answers.kind.shape, answers.colour.shape, answers.box.shape) == ((2, 4, 3), (2, 4, 2), (2, 4, 4))
    assert network.background(features.embedding).shape == (2, 2)


def test_at_first_few_cells_hold_a_thing(network: Inspector) -> None:
    cells = network.features(torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))).cells
    assert torch.allclose(network.presence(cells).sigmoid(), torch.tensor(0.01))


def test_boxes_and_raw_boxes_are_inverse(network: Inspector) -> None:
    boxes = torch.tensor([[1.0, 2.0, 9.0, 30.0], [8.0, 0.0, 32.0, 16.0]])
    rows, columns = torch.tensor([2, 1]), torch.tensor([0, 2])
    raw = network.raw_boxes(boxes, rows, columns)
    assert torch.allclose(network.boxes(raw, rows, columns), boxes, atol=1e-5)
    # the second box: middle (20, 8), 24 x 16; its cell (row 1, column 2) of 8 pixels has its middle at (20, 12)
    assert torch.allclose(raw[1], torch.tensor([0.0, -0.5, math.log(24 / 48), math.log(16 / 48)]))


def test_a_wrong_size_is_named(network: Inspector) -> None:
    with pytest.raises(ValueError, match=r"\(1, 3, 64, 64\) given; wanted is \(B, 3, 32, 32\)"):
        network.features(torch.zeros(1, 3, 64, 64))


def test_config_round_trip() -> None:
    assert InspectorConfig.from_dict(TINY.to_dict()) == TINY


@pytest.mark.parametrize(
    ("change", "message"),
    [({"size": 40}, "size=40"), ({"widths": (32, 32)}, "widths"), ({"kinds": ()}, "kinds"), ({"depth": 1}, "depth")],
)
def test_config_refuses(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        InspectorConfig.from_dict(TINY.to_dict() | change)
