"""GPT-2 against transformers: logits, tokens and what options leave of the logits, on small random weights."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from transformers import GPT2Config as PeerConfig
from transformers import GPT2LMHeadModel, GPT2Model, GPT2Tokenizer
from transformers.generation import (
    LogitsProcessorList,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from wordbrush.conditioning import gpt2_tokenizer
from wordbrush.conditioning.expansion import Expander, scored
from wordbrush.errors import ModelFileError
from wordbrush.formats.gpt2_folder import read_gpt2
from wordbrush.request_fields import Expansion

TEXTS = (
    "a fox on a blue background",
    "A Fox,  on\ta blue   background ",
    "it's 12 o'clock: they'll (not) come!",
    "naïve café — 狐 🦊\nnew line",
    "",
    "<|endoftext|>a fox<|endoftext|>",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small GPT-2 as transformers writes it, with a vocabulary learnt here."""
    place = tmp_path_factory.mktemp("gpt2")
    tokenizer = gpt2_tokenizer.GPT2Tokenizer.learnt([text for text in TEXTS[:3] for _ in range(4)], 300)
    for name, text in tokenizer.files().items():
        (place / name).write_text(text, encoding="utf-8")
    torch.manual_seed(1)
    config = PeerConfig(
        vocab_size=len(tokenizer.vocab), n_positions=32, n_embd=24, n_layer=3, n_head=4, bos_token_id=tokenizer.end_id,
        eos_token_id=tokenizer.end_id, initializer_range=0.3,
    )  # fmt: skip
    GPT2LMHeadModel(config).save_pretrained(place)
    return place


def test_logits_are_those_of_transformers(folder: Path) -> None:
    ids = torch.randint(0, 290, (3, 20), generator=torch.Generator().manual_seed(2))
    network = read_gpt2(folder).network
    with torch.no_grad():
        wanted = GPT2LMHeadModel.from_pretrained(folder)(ids).logits
        whole, _ = network(ids)
        torch.testing.assert_close(whole, wanted, rtol=1e-4, atol=1e-4)
        first, seen = network(ids[:, :7])
        then, seen = network(ids[:, 7:8], seen)
        last, seen = network(ids[:, 8:], seen)
    assert seen.length == 20
    torch.testing.assert_close(torch.cat([first, then, last], dim=1), wanted, rtol=1e-4, atol=1e-4)


def test_the_forms_of_the_weights(folder: Path, tmp_path: Path) -> None:
    """pytorch_model.bin, names without their first part, causal masks and the output layer a second time."""
    peer = GPT2LMHeadModel.from_pretrained(folder)
    for name in ("config.json", "vocab.json", "merges.txt"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    bare = {key.removeprefix("transformer."): value for key, value in peer.state_dict().items()}
    bare["h.0.attn.bias"] = torch.ones(1, 1, 32, 32).tril()
    bare["h.0.attn.masked_bias"] = torch.tensor(-1e4)
    torch.save(bare, tmp_path / "pytorch_model.bin")
    ids = torch.arange(10)[None]
    found = read_gpt2(tmp_path).network(ids)[0]
    torch.testing.assert_close(found, read_gpt2(folder).network(ids)[0])
    bare["lm_head.weight"] = bare["lm_head.weight"] + 1
    torch.save(bare, tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelFileError, match="must be one table"):
        read_gpt2(tmp_path)


def test_transformers_opens_what_we_write(folder: Path, tmp_path: Path) -> None:
    from wordbrush.networks.gpt2 import gpt2_file_state
    from wordbrush.training.export import write_network

    network = read_gpt2(folder).network
    state = gpt2_file_state(network.state_dict())
    write_network(tmp_path, network.config.to_dict(), state, dtype=torch.float32, weights_name="model")
    ids = torch.arange(12)[None]
    with torch.no_grad():
        torch.testing.assert_close(
            GPT2LMHeadModel.from_pretrained(tmp_path)(ids).logits, network(ids)[0], rtol=1e-4, atol=1e-4
        )
        assert GPT2Model.from_pretrained(tmp_path)(ids).last_hidden_state.shape == (1, 12, 24)


def test_tokens_are_those_of_transformers(folder: Path) -> None:
    ours, theirs = read_gpt2(folder).tokenizer, GPT2Tokenizer.from_pretrained(folder)
    for text in TEXTS:
        assert ours.encode(text) == theirs.encode(text), text
    for text in TEXTS[:5]:
        assert ours.decode(ours.encode(text)) == text


def test_options_cut_the_logits_as_transformers_does() -> None:
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(40, generator=generator, dtype=torch.float64) * 3
    before = [3, 9, 4, 3, 9, 7, 3, 9]
    options = Expansion(temperature=1.7, top_k=12, top_p=0.8, repetition=1.4, no_repeat=3)
    chain = LogitsProcessorList(
        [
            RepetitionPenaltyLogitsProcessor(1.4), NoRepeatNGramLogitsProcessor(3), TemperatureLogitsWarper(1.7),
            TopKLogitsWarper(12), TopPLogitsWarper(0.8),
        ]
    )  # fmt: skip
    wanted = chain(torch.tensor([before]), logits[None].clone())[0]
    torch.testing.assert_close(scored(logits, before, options), wanted)
    assert torch.isinf(wanted[[4, 7]]).all(), "both would repeat a run of three"


def test_the_likeliest_continuation_is_that_of_transformers(folder: Path) -> None:
    expander = Expander(read_gpt2(folder))
    text, options = "a fox on a", Expansion(temperature=0, top_k=0, top_p=1, tokens=8)
    ids = expander.model.tokenizer.encode(text)
    added = expander.addition(text, options, random.Random(0))
    peer = GPT2LMHeadModel.from_pretrained(folder)
    banned = [int(index) for index in expander._syntax.nonzero()]
    first = [int(index) for index in expander._no_beginning.nonzero()]
    with torch.no_grad():
        for place in range(8):
            scores = peer(torch.tensor([ids])).logits[0, -1]
            scores[first if place == 0 else banned] = -torch.inf
            token = int(scores.argmax())
            if token == expander.model.tokenizer.end_id:
                break
            ids.append(token)
    whole = expander.model.tokenizer.decode(ids)
    assert (text + added).rstrip(" ,") == whole.rstrip(" ,")
