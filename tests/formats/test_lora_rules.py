"""Every rule against its formula, written out here index by index in float64, on the layouts that trainers store."""

import math
import random

import pytest
import torch
from torch import Tensor

from wordbrush.formats.lora.layers import AdapterConfig, make_change


def _randn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _check(parts: dict[str, Tensor], weight: Tensor, expected: Tensor, *, scale: float | None = None) -> None:
    change = make_change(parts, scale)
    assert change.misfit(weight.shape, pads=False) is None
    delta = change.delta(weight)
    assert delta.dtype == torch.float32
    torch.testing.assert_close(delta.double(), expected.double(), atol=1e-5, rtol=1e-5)


def _alpha(value: float) -> Tensor:
    return torch.tensor(value)


def test_lora_of_a_linear_layer() -> None:
    down, up = _randn(3, 5, seed=0), _randn(4, 3, seed=1)
    expected = torch.zeros(4, 5, dtype=torch.float64)
    for o in range(4):
        for i in range(5):
            expected[o, i] = sum(up[o, r].double() * down[r, i].double() for r in range(3)) * 1.5 / 3
    _check({"down": down, "up": up, "alpha": _alpha(1.5)}, torch.zeros(4, 5), expected)
    _check({"down": down, "up": up}, torch.zeros(4, 5), expected * 2)  # no alpha: alpha is the rank
    _check({"down": down, "up": up, "alpha": _alpha(0)}, torch.zeros(4, 5), expected * 2)
    _check({"down": down, "up": up}, torch.zeros(4, 5), expected * 2 * 0.3, scale=0.3)  # PEFT's config
    _check({"down": down.bfloat16(), "up": up}, torch.zeros(4, 5), up.double() @ down.bfloat16().double())


@pytest.mark.parametrize("layer", [(4, 5), (4, 5, 1, 1)])
@pytest.mark.parametrize("stored", [(), (1, 1)])
def test_a_pointwise_convolution_and_a_linear_layer_are_one(layer: tuple[int, ...], stored: tuple[int, ...]) -> None:
    down, up = _randn(3, 5, *stored, seed=0), _randn(4, 3, *stored, seed=1)
    _check({"down": down, "up": up}, torch.zeros(layer), (up.flatten(1) @ down.flatten(1)).reshape(layer))


def test_lora_of_a_convolution() -> None:
    """What the two convolutions do one after the other is what the sum of their products does at once."""
    down, up, x = _randn(2, 5, 3, 3, seed=0), _randn(4, 2, 1, 1, seed=1), _randn(1, 5, 6, 6, seed=2)
    delta = make_change({"down": down, "up": up, "alpha": _alpha(1)}, None).delta(torch.zeros(4, 5, 3, 3))
    want = torch.conv2d(torch.conv2d(x, down, padding=1), up) / 2
    torch.testing.assert_close(torch.conv2d(x, delta, padding=1), want, atol=1e-5, rtol=1e-5)


def test_lora_with_a_middle() -> None:
    down, mid, up = _randn(2, 5, 1, 1, seed=0), _randn(2, 2, 3, 3, seed=1), _randn(4, 2, 1, 1, seed=2)
    x = _randn(1, 5, 6, 6, seed=3)
    delta = make_change({"down": down, "mid": mid, "up": up, "alpha": _alpha(1)}, None).delta(torch.zeros(4, 5, 3, 3))
    want = torch.conv2d(torch.conv2d(torch.conv2d(x, down), mid, padding=1), up) / 2
    torch.testing.assert_close(torch.conv2d(x, delta, padding=1), want, atol=1e-5, rtol=1e-5)


def _loha(*shape: int, rank: int, seed: int) -> dict[str, Tensor]:
    out, columns = shape[0], math.prod(shape[1:])
    return {
        "hada_w1_a": _randn(out, rank, seed=seed), "hada_w1_b": _randn(rank, columns, seed=seed + 1),
        "hada_w2_a": _randn(out, rank, seed=seed + 2), "hada_w2_b": _randn(rank, columns, seed=seed + 3),
    }  # fmt: skip


@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 3, 3)])
def test_loha(shape: tuple[int, ...]) -> None:
    parts = _loha(*shape, rank=3, seed=5)
    w1a, w1b, w2a, w2b = (parts[name].double() for name in ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"))
    expected = ((w1a @ w1b) * (w2a @ w2b)).reshape(shape) * 2 / 3
    _check({**parts, "alpha": _alpha(2)}, torch.zeros(shape), expected)


def test_loha_with_cores() -> None:
    parts = {"alpha": _alpha(1)}
    halves = []
    for half in (1, 2):
        a, b, t = _randn(2, 4, seed=half), _randn(2, 5, seed=half + 5), _randn(2, 2, 3, 3, seed=half + 9)
        parts |= {f"hada_w{half}_a": a, f"hada_w{half}_b": b, f"hada_t{half}": t}
        whole = torch.zeros(4, 5, 3, 3, dtype=torch.float64)
        for r in range(2):
            for s in range(2):
                whole += a[r, :, None, None, None].double() * b[s, None, :, None, None] * t[r, s]
        halves.append(whole)
    _check(parts, torch.zeros(4, 5, 3, 3), halves[0] * halves[1] / 2)


def _kron(w1: Tensor, w2: Tensor) -> Tensor:
    """(a, b) ⊗ (c, d, …) by its definition: the block at row i, column j is w1[i, j] · w2."""
    rows = [torch.cat([w1[i, j].double() * w2.double() for j in range(w1.shape[1])], dim=1) for i in range(len(w1))]
    return torch.cat(rows, dim=0)


def test_lokr_of_whole_sides_ignores_alpha() -> None:
    w1, w2 = _randn(2, 3, seed=0), _randn(4, 5, seed=1)
    _check({"lokr_w1": w1, "lokr_w2": w2, "alpha": _alpha(1e10)}, torch.zeros(8, 15), _kron(w1, w2))
    w2 = _randn(4, 5, 3, 3, seed=2)
    _check({"lokr_w1": w1, "lokr_w2": w2}, torch.zeros(8, 15, 3, 3), _kron(w1, w2))


def test_lokr_of_factored_sides() -> None:
    w1a, w1b, w2a, w2b = _randn(2, 3, seed=0), _randn(3, 2, seed=1), _randn(4, 3, seed=2), _randn(3, 5, seed=3)
    w1, w2 = w1a.double() @ w1b.double(), w2a.double() @ w2b.double()
    half = {"lokr_w2_a": w2a, "lokr_w2_b": w2b, "alpha": _alpha(2)}
    _check({"lokr_w1": w1, **half}, torch.zeros(8, 10), _kron(w1, w2) * 2 / 3)
    _check({"lokr_w1_a": w1a, "lokr_w1_b": w1b, **half}, torch.zeros(8, 10), _kron(w1, w2) * 2 / 3)
    whole = {"lokr_w1_a": w1a, "lokr_w1_b": w1b, "lokr_w2": w2a, "alpha": _alpha(2)}
    _check(whole, torch.zeros(8, 6), _kron(w1, w2a) * 2 / 3)


@pytest.mark.parametrize("stored", [(3, 45), (3, 5, 3, 3)], ids=["flat", "shaped"])
def test_lokr_of_a_convolution(stored: tuple[int, ...]) -> None:
    w1, w2a, w2b = _randn(2, 2, seed=0), _randn(4, 3, seed=1), _randn(3, 5, 3, 3, seed=2)
    expected = _kron(w1, torch.einsum("cr,rdhw->cdhw", w2a.double(), w2b.double())) / 3
    parts = {"lokr_w1": w1, "lokr_w2_a": w2a, "lokr_w2_b": w2b.reshape(stored), "alpha": _alpha(1)}
    _check(parts, torch.zeros(8, 10, 3, 3), expected)


def test_lokr_with_a_core() -> None:
    w1, a, b, t = _randn(2, 2, seed=0), _randn(3, 4, seed=1), _randn(3, 5, seed=2), _randn(3, 3, 3, 3, seed=3)
    w2 = torch.zeros(4, 5, 3, 3, dtype=torch.float64)
    for r in range(3):
        for s in range(3):
            w2 += a[r, :, None, None, None].double() * b[s, None, :, None, None] * t[r, s]
    parts = {"lokr_w1": w1, "lokr_w2_a": a, "lokr_w2_b": b, "lokr_t2": t, "alpha": _alpha(1)}
    _check(parts, torch.zeros(8, 10, 3, 3), _kron(w1, w2) / 3)


def test_differences_of_weights_and_biases() -> None:
    for shape in ((4, 5, 3, 3), (4, 5), (6,)):
        diff = _randn(*shape, seed=0)
        _check({"diff": diff, "alpha": _alpha(3)}, torch.zeros(shape), diff)
    change = make_change({"diff_b": _randn(4, seed=1)}, None)
    assert change.rule is None
    assert torch.equal(change.bias, _randn(4, seed=1))
    change = make_change({"down": _randn(2, 3, seed=2), "up": _randn(4, 2, seed=3), "up_bias": torch.ones(4)}, 0.5)
    assert torch.equal(change.bias, torch.full((4,), 0.5))  # PEFT scales the bias as it does the weight


def test_values_that_a_weight_is_set_to() -> None:
    weight, value = _randn(6, seed=1), _randn(6, seed=2)
    change = make_change({"set": value}, None)
    torch.testing.assert_close(weight + change.delta(weight), value)
    half = weight.to(torch.bfloat16)
    assert torch.equal((half + change.delta(half)).to(torch.bfloat16), value.to(torch.bfloat16))
    assert "layer has 5" in str(change.misfit((5,), pads=False))
    with pytest.raises(ValueError, match=r"its scale has shape \[\]"):
        make_change({"set": torch.tensor(1.0)}, None)


@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 3, 3), (5, 5)])
def test_dora_sets_the_lengths_of_rows(shape: tuple[int, ...]) -> None:
    out = shape[0]
    weight, down, up = _randn(*shape, seed=0), _randn(2, *shape[1:], seed=1), _randn(out, 2, seed=2)
    magnitude = _randn(out, seed=3).abs() + 0.5
    merged = weight.double() + (up.double() @ down.double().flatten(1)).reshape(shape) / 2
    rows = [merged[o] * (magnitude[o].double() / merged[o].square().sum().sqrt()) for o in range(out)]
    expected = torch.stack(rows) - weight
    for parts in (
        {"dora_scale": magnitude.reshape(out, *(1 for _ in shape[1:]))},  # LyCORIS
        {"magnitude": magnitude},  # PEFT, linear
        {"magnitude": magnitude.reshape(1, out, *(1 for _ in shape[2:]))},  # PEFT, convolution
    ):
        _check({"down": down, "up": up, "alpha": _alpha(1), **parts}, weight, expected)


@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 3, 3), (5, 5)])
def test_dora_sets_the_lengths_of_columns(shape: tuple[int, ...]) -> None:
    weight, parts = _randn(*shape, seed=0), _loha(*shape, rank=2, seed=1)
    magnitude = _randn(shape[1], seed=9).abs() + 0.5
    w1a, w1b, w2a, w2b = (parts[name].double() for name in ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"))
    merged = weight.double() + ((w1a @ w1b) * (w2a @ w2b)).reshape(shape)
    columns = [
        merged[:, i] * (magnitude[i].double() / merged[:, i].square().sum().sqrt()) for i in range(shape[1])
    ]
    expected = torch.stack(columns, dim=1) - weight
    _check({**parts, "dora_scale": magnitude.reshape(1, shape[1], *(1 for _ in shape[2:]))}, weight, expected)


def test_dora_leaves_a_row_of_zeros() -> None:
    parts = {"down": torch.zeros(1, 3), "up": torch.zeros(2, 1), "magnitude": torch.tensor([1e3, 1])}
    weight = torch.tensor([[0.0, 0, 0], [0, 2, 0]])
    assert torch.equal(make_change(parts, None).delta(weight), torch.tensor([[0.0, 0, 0], [0, -1, 0]]))


def test_further_input_channels_are_left_alone_where_pictures_enter() -> None:
    down, up = _randn(2, 4, 3, 3, seed=0), _randn(6, 2, 1, 1, seed=1)
    change = make_change({"down": down, "up": up}, None)
    assert "6 × 81" in change.misfit((6, 9, 3, 3), pads=False)
    delta = change.delta(torch.zeros(6, 9, 3, 3), pads=True)
    assert torch.equal(delta[:, :4], change.delta(torch.zeros(6, 4, 3, 3)))
    assert not delta[:, 4:].any()


@pytest.mark.parametrize("magnitude", [torch.full((6,), 2.0), torch.full((1, 4, 1, 1), 2.0)], ids=["rows", "columns"])
def test_dora_counts_the_channels_it_knows(magnitude: Tensor) -> None:
    """Those of a mask and a masked picture were not there when it learnt the lengths."""
    weight = _randn(6, 9, 3, 3, seed=0)
    parts = {"down": _randn(2, 4, 3, 3, seed=1), "up": _randn(6, 2, 1, 1, seed=2), "dora_scale": magnitude}
    changed = weight + make_change(parts, None).delta(weight, pads=True)
    others = (1, 2, 3) if len(magnitude) == 6 else (0, 2, 3)
    assert torch.allclose(changed[:, :4].square().sum(others).sqrt(), torch.tensor(2.0))
    assert torch.equal(changed[:, 4:], weight[:, 4:])


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"down": torch.zeros(2, 3)}, "up is missing"),
        ({"up": torch.zeros(2, 3), "alpha": torch.ones(())}, "down is missing"),
        ({"alpha": torch.ones(())}, "alpha alone"),
        ({"dora_scale": torch.ones(3)}, "dora_scale alone"),
        ({"down": torch.zeros(2, 3), "up": torch.zeros(4, 3)}, "ranks 2 and 3"),
        ({"down": torch.zeros(2, 3), "up": torch.zeros(4, 2), "diff": torch.zeros(4, 3)}, "more than one kind"),
        ({"down": torch.zeros(2, 3), "up": torch.zeros(4, 2), "alpha": torch.ones(3)}, "alpha is 3 numbers"),
        ({"down": torch.zeros(2, 3), "up": torch.zeros(4, 2), "alpha": torch.tensor(torch.nan)}, "alpha is nan"),
        ({"down": torch.zeros(6), "up": torch.zeros(4, 2)}, r"shape \[6\]"),
        ({"down": torch.zeros(2, 3, 3, 3), "up": torch.zeros(4, 2), "mid": torch.zeros(2, 2, 3, 3)}, "1×1 down"),
        ({**_loha(4, 5, rank=2, seed=0), "hada_t1": torch.zeros(2, 2, 3, 3)}, "hada_t2 is missing"),
        ({**_loha(4, 5, rank=2, seed=0), "hada_w2_b": torch.zeros(2, 6)}, "halves"),
        ({"lokr_w1": torch.zeros(2, 2), "lokr_w2_a": torch.zeros(2, 2)}, "lokr_w2_b is missing"),
        ({"lokr_w1": torch.zeros(2, 2, 1, 1), "lokr_w2": torch.zeros(2, 2)}, "not a matrix"),
        ({"diff": torch.tensor(1.0)}, r"diff has shape \[\]"),
        ({"down": torch.zeros(2, 3), "up": torch.zeros(4, 2), "dora_scale": torch.tensor(1.0)}, "single number"),
        ({"down": torch.zeros(2, 3), "up": torch.zeros(4, 2), "mid": torch.zeros(2, 2)}, r"mid has shape \[2, 2\]"),
    ],
)  # fmt: skip
def test_tensors_that_do_not_belong_together_are_refused(parts: dict[str, Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_change(parts, None)


KINDS = (
    ("down", "up", "mid", "up_bias", "magnitude", "dora_scale", "alpha"),
    ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2", "dora_scale"),
    ("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2"),
    ("diff", "diff_b"),
)


def test_any_tensors_make_a_change_or_a_plain_error() -> None:
    """Two thousand layers of random tensors, many of them nearly right: a ΔW of the weight's shape, or ValueError."""
    choice = random.Random(0)
    made = 0
    for _ in range(2000):
        names = {name for name in choice.choice(KINDS) if choice.random() < 0.8}
        if choice.random() < 0.1:
            names.add(choice.choice(choice.choice(KINDS)))
        sizes = choice.choice(((2,), (2,), (2,), (1, 2), (0, 1, 2, 3)))
        axes = choice.choice(((2,), (2,), (2, 4), (0, 1, 2, 4)))
        parts = {name: torch.ones([choice.choice(sizes) for _ in range(choice.choice(axes))]) for name in names}
        weight = torch.ones([choice.choice((2, 2, 4)) for _ in range(choice.choice((2, 2, 4, 1)))])
        try:
            change = make_change(parts, choice.choice((None, 2.0)))
            if change.rule is not None:
                assert change.delta(weight, pads=choice.random() < 0.5).shape == weight.shape
                made += 1
        except ValueError:
            continue
    assert made > 50


@pytest.mark.parametrize(
    ("shape", "message"),
    [((4, 6), "4 × 5 numbers, the layer has 4 × 6"), ((5, 5), "5 × 5"), ((4, 4), "4 × 4"), ((20,), "20 × 1")],
)
def test_a_layer_of_another_size_is_refused(shape: tuple[int, ...], message: str) -> None:
    change = make_change({"down": torch.zeros(2, 5), "up": torch.zeros(4, 2)}, None)
    assert message in change.misfit(shape, pads=False)
    with pytest.raises(ValueError, match="numbers, the layer has"):
        change.delta(torch.zeros(shape))


def test_magnitudes_of_another_layer_are_refused() -> None:
    change = make_change({"down": torch.zeros(2, 5), "up": torch.zeros(4, 2), "magnitude": torch.ones(3)}, None)
    assert "3 magnitudes" in change.misfit((4, 5), pads=False)


def test_pefts_config_gives_the_scale() -> None:
    config = AdapterConfig.from_dict(
        {"r": 4, "lora_alpha": 8, "rank_pattern": {"^b.to_q": 16}, "alpha_pattern": {"to_k": 1, "to_q": 2}}
    )
    assert config.scale("a.to_v") == 2
    assert config.scale("a.to_k") == 1 / 4
    assert config.scale("b.to_q") == 2 / 16
    assert config.scale("b.not_to_q") == 2  # a pattern ends a name at a dot
    assert AdapterConfig.from_dict({"r": 4, "lora_alpha": 8, "use_rslora": True}).scale("a") == 4
    assert AdapterConfig.from_dict({"r": 4, "alpha": 2}).scale("a") == 1 / 2
    anchored = AdapterConfig.from_dict({"r": 4, "lora_alpha": 8, "alpha_pattern": {r"^a\.to_q$": 1, "a.to_q": 2}})
    assert anchored.scale("a.to_q") == 1 / 4
    for expression in (".*to_q", "to_(q|k)", "(a+)+", "a[0-9]", ""):
        with pytest.raises(ValueError, match="is not the end of a layer's name"):
            AdapterConfig.from_dict({"rank_pattern": {expression: 2}})
    for bad in ({"r": 0}, {"r": "8"}, {"lora_alpha": None}, {"rank_pattern": [1]}, {"alpha_pattern": {"a": -1}}):
        with pytest.raises(ValueError, match=r"rank|table"):
            AdapterConfig.from_dict(bad)
