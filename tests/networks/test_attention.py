import pytest
import torch

from wordbrush.networks import attention
from wordbrush.networks.attention import attend


def _inputs(batch: int, queries: int, keys: int, width: int, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(batch, length, width, generator=generator).to(dtype) for length in (queries, keys, keys)]


def _by_hand(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, heads: int, *, causal: bool = False) -> torch.Tensor:
    """The formula in float64, one head after another."""
    outs = []
    for qh, kh, vh in zip(
        q.double().chunk(heads, 2), k.double().chunk(heads, 2), v.double().chunk(heads, 2), strict=True
    ):
        scores = torch.einsum("bld,bsd->bls", qh, kh) / qh.shape[2] ** 0.5
        if causal:
            later = torch.arange(k.shape[1])[None, :] > torch.arange(q.shape[1])[:, None]
            scores[:, later] = -float("inf")
        outs.append(torch.einsum("bls,bsd->bld", scores.softmax(2), vh))
    return torch.cat(outs, dim=2)


@pytest.mark.parametrize("keys", [5, attention.PLAIN_MAX_KEYS, attention.PLAIN_MAX_KEYS + 1])
@pytest.mark.parametrize("heads", [1, 4])
def test_both_ways_give_the_formula(keys: int, heads: int) -> None:
    q, k, v = _inputs(2, 7, keys, 16)
    torch.testing.assert_close(attend(q, k, v, heads).double(), _by_hand(q, k, v, heads), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("limit", [0, 256])
def test_causal_positions_see_no_later_ones(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "PLAIN_MAX_KEYS", limit)
    q, k, v = _inputs(2, 6, 6, 8)
    out = attend(q, k, v, 2, causal=True)
    torch.testing.assert_close(out.double(), _by_hand(q, k, v, 2, causal=True), atol=1e-6, rtol=1e-5)


def test_a_mask_is_added_to_the_scores() -> None:
    q, k, v = _inputs(2, 4, 6, 8)
    mask = torch.zeros(6)
    mask[4:] = -float("inf")
    torch.testing.assert_close(attend(q, k, v, 2, mask=mask), attend(q, k[:, :4], v[:, :4], 2))


@pytest.mark.parametrize("limit", [0, 256])
def test_scores_may_have_another_scale(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "PLAIN_MAX_KEYS", limit)
    q, k, v = _inputs(2, 4, 6, 8)
    torch.testing.assert_close(attend(q, k, v, 2, scale=1.0), attend(2 * q, k, v, 2), atol=1e-6, rtol=1e-5)


def test_pieces_of_queries_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v = _inputs(2, 100, 300, 256)
    whole = attend(q, k, v, 1)
    monkeypatch.setattr(attention, "PLAIN_MAX_WEIGHTS", 2 * 300 * 7)
    torch.testing.assert_close(attend(q, k, v, 1), whole, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(whole.double(), _by_hand(q, k, v, 1), atol=1e-5, rtol=1e-5)


def test_one_row_of_keys_serves_the_whole_batch() -> None:
    q, k, v = _inputs(3, 4, 6, 8)
    expected = attend(q, k[:1].expand(3, -1, -1), v[:1].expand(3, -1, -1), 2)
    torch.testing.assert_close(attend(q, k[:1], v[:1], 2), expected)


@pytest.mark.parametrize("keys", [20, 300])
def test_bfloat16_stays_near_float32(keys: int) -> None:
    q, k, v = _inputs(2, 9, keys, 32)
    low = attend(*(x.bfloat16() for x in (q, k, v)), 2)
    assert low.dtype == torch.bfloat16
    torch.testing.assert_close(low.float(), attend(q, k, v, 2), atol=0.02, rtol=0.02)
