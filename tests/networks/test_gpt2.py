"""GPT-2 by itself: shapes, the cache, limits, and the two ways of storing a linear layer."""

from __future__ import annotations

import math

import pytest
import torch

from wordbrush.networks.gpt2 import GPT2, GPT2Config, gpt2_file_state, gpt2_state

CONFIG = GPT2Config(vocab_size=20, n_positions=8, n_embd=12, n_layer=2, n_head=3, eos_token_id=19)


def network() -> GPT2:
    made = GPT2(CONFIG)
    made.initialise(torch.Generator().manual_seed(1))
    return made


def test_a_token_sees_those_before_it_alone() -> None:
    ids = torch.tensor([[1, 2, 3, 4], [1, 2, 9, 4]])
    logits, seen = network()(ids)
    assert logits.shape == (2, 4, 20)
    assert [tuple(part.shape) for part in seen.layers[1]] == [(2, 3, 4, 4), (2, 3, 4, 4)]
    torch.testing.assert_close(logits[0, :2], logits[1, :2])
    assert not torch.allclose(logits[0, 2:], logits[1, 2:])


def test_more_tokens_than_positions_are_refused() -> None:
    made = network()
    _, seen = made(torch.zeros(1, 8, dtype=torch.long))
    with pytest.raises(ValueError, match="9 tokens; this language model takes 8"):
        made(torch.zeros(1, 1, dtype=torch.long), seen)


def test_files_have_linear_layers_the_other_way_round() -> None:
    state = network().state_dict()
    stored = gpt2_file_state(state)
    assert stored["transformer.h.0.attn.c_attn.weight"].shape == (12, 36)
    again = gpt2_state(stored)
    assert set(again) == set(state)
    assert all(torch.equal(again[name], state[name]) for name in state)
    assert set(gpt2_state({"lm_head.weight": state["wte.weight"]})) == {"wte.weight"}


def test_drawn_weights_have_their_spread() -> None:
    made = GPT2(GPT2Config(vocab_size=200, n_positions=8, n_embd=96, n_layer=3, n_head=3, eos_token_id=0))
    made.initialise(torch.Generator().manual_seed(1))
    state = made.state_dict()
    assert state["h.0.mlp.c_fc.weight"].std().item() == pytest.approx(0.02, rel=0.05)
    assert state["h.0.mlp.c_proj.weight"].std().item() == pytest.approx(0.02 / math.sqrt(6), rel=0.05)
    assert torch.equal(state["h.1.ln_2.weight"], torch.ones(96))
    assert torch.equal(state["h.1.attn.c_attn.bias"], torch.zeros(288))


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"n_head": 5}, "n_embd=12 is not a multiple of n_head=5"),
        ({"n_layer": 0}, "n_layer=0"),
        ({"activation_function": "silu"}, "silu"),
        ({"eos_token_id": 20}, "eos_token_id=20"),
        ({"mystery": 1}, "unknown settings"),
    ],
)
def test_shapes_that_cannot_be(changed: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        GPT2Config.from_dict(CONFIG.to_dict() | changed)
    assert GPT2Config.from_dict(CONFIG.to_dict()) == CONFIG
