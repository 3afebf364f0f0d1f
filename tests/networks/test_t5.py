import pytest
import torch
from tests.networks.checks import assert_initialise_draws_everything, shake

from wordbrush.networks.t5 import T5Config, T5Encoder, encoder_state, relative_buckets

CONFIG = T5Config(vocab_size=40, d_model=12, d_kv=5, d_ff=20, num_layers=2, num_heads=3)


def _network() -> T5Encoder:
    network = T5Encoder(CONFIG)
    network.initialise(torch.Generator().manual_seed(0))
    shake(network)
    return network.eval()


def _ids(rows: int = 2, length: int = 9) -> torch.Tensor:
    return torch.randint(0, 40, (rows, length), generator=torch.Generator().manual_seed(1))


def test_buckets_hold_one_distance_first_and_grow_after() -> None:
    buckets = relative_buckets(200, 32, 128)
    assert torch.equal(buckets[0, :8], torch.tensor([0, *range(17, 24)]))  # keys after the query
    assert torch.equal(buckets[:8, 0], torch.arange(8))  # keys before it
    # log(distance / 8) / log(128 / 8) of the eight wide buckets: 16 is a quarter and 32 half of the way
    assert buckets[16, 0] == 8 + 2
    assert buckets[32, 0] == 8 + 4
    assert buckets[128, 0] == buckets[199, 0] == 15
    assert buckets.min() == 0
    assert buckets.max() == 31


def test_a_token_sees_all_others_and_where_they_are() -> None:
    network, ids = _network(), _ids(1)
    changed, turned = ids.clone(), ids.flip(1)
    changed[0, 8] = (ids[0, 8] + 1) % 40
    with torch.no_grad():
        out = network(ids)
        assert (network(changed) - out).abs().amax(dim=2).min() > 1e-5
        assert not torch.allclose(network(turned).flip(1), out, atol=1e-3)


def test_texts_of_a_batch_do_not_mix() -> None:
    network, ids = _network(), _ids(3)
    with torch.no_grad():
        alone = torch.cat([network(ids[i : i + 1]) for i in range(3)])
        torch.testing.assert_close(network(ids), alone, atol=1e-6, rtol=1e-5)


def test_numbers_too_large_for_float16_are_finite_in_bfloat16() -> None:
    network = _network()
    with torch.no_grad():
        network.encoder.block[0].layer[1].DenseReluDense.wo.weight.mul_(1e6)
        exact = network(_ids())
        low = network.bfloat16()(_ids())
        assert low.dtype == torch.bfloat16
        assert (low.float() - exact).std() < 0.05 * exact.std()
        assert not network.half()(_ids()).isfinite().all(), "the warning against float16 in t5.py is out of date"


def test_either_name_of_the_embeddings_is_read_and_the_decoder_is_not() -> None:
    state = _network().state_dict()
    again = {key: value for key, value in state.items() if key != "shared.weight"}
    again["encoder.embed_tokens.weight"] = state["shared.weight"]
    whole = state | {"encoder.embed_tokens.weight": state["shared.weight"], "lm_head.weight": torch.zeros(1)}
    whole["decoder.block.0.layer.0.layer_norm.weight"] = torch.zeros(1)
    for tensors in (state, again, whole):
        found = encoder_state(tensors)
        assert found.keys() == state.keys()
        assert torch.equal(found["shared.weight"], state["shared.weight"])


def test_initialise() -> None:
    assert_initialise_draws_everything(lambda: T5Encoder(CONFIG))


def test_queries_start_so_that_unscaled_scores_have_unit_variance() -> None:
    network = T5Encoder(T5Config(vocab_size=4, d_model=256, d_kv=64, d_ff=8, num_layers=1, num_heads=4))
    network.initialise(torch.Generator().manual_seed(0))
    attention = network.encoder.block[0].layer[0].SelfAttention
    x = torch.randn(1, 200, 256, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        query, key = (layer(x).unflatten(2, (4, 64)) for layer in (attention.q, attention.k))
        scores = torch.einsum("blhd,bshd->bhls", query, key)
    assert scores.std().item() == pytest.approx(1.0, rel=0.1)
