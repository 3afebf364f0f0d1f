"""Learning a byte-pair vocabulary from captions (Sennrich 2016), in CLIP's file format."""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

from wordbrush.conditioning.tokenizer import WORDS, ClipTokenizer, SpecialTokens
from wordbrush.data.scenes import caption, sample_scene
from wordbrush.data.scenes.glyphs import glyph_names
from wordbrush.data.scenes.objects import object_types
from wordbrush.metadata import write_whole


def training_captions(count: int) -> list[str]:
    """Captions of training scenes, every taught noun and plural, and once each CLDR name in the pack."""
    texts = [caption(sample_scene("train", 0, index)) for index in range(count)]
    for kind in object_types():
        texts += [kind.noun, kind.plural, *kind.synonyms] * 20
    return texts + [str(entry["name"]) for entry in glyph_names().values()]


def learn_tokenizer(texts: list[str], *, size: int, max_length: int) -> ClipTokenizer:
    """A vocabulary of at most `size` pieces: all bytes, alone and ending a word, two marks, and what is learnt."""
    backend = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    backend.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), "removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    endings = [letter + "</w>" for letter in letters]
    # The trainer would number the endings as it meets them, each time in another order, and settle ties between equally
    # frequent pairs by number; told as special tokens they come first and in this order.
    trainer = trainers.BpeTrainer(
        vocab_size=size - 2, min_frequency=3, initial_alphabet=letters, special_tokens=endings,
        end_of_word_suffix="</w>", show_progress=False,
    )  # fmt: skip
    backend.train_from_iterator(texts, trainer)
    model = json.loads(backend.to_str())["model"]
    merges = [tuple(pair) if isinstance(pair, list) else tuple(pair.split(" ")) for pair in model["merges"]]
    pieces = [*letters, *endings, *("".join(pair) for pair in merges)]
    special = SpecialTokens()
    vocabulary = {piece: number for number, piece in enumerate(dict.fromkeys([*pieces, special.bos, special.eos]))}
    return ClipTokenizer(vocabulary, merges, special=special, max_length=max_length)


def write_tokenizer(folder: Path, *, captions: int = 40_000, size: int = 2220, max_length: int = 32) -> ClipTokenizer:
    """Learns from `captions` training captions; writes the folder and in it `words.json`, every word of training."""
    texts = training_captions(captions)
    tokenizer = learn_tokenizer(texts, size=size, max_length=max_length)
    seen = sorted({text for scene in texts[: -len(glyph_names())] for text in scene.lower().replace(",", " ").split()})
    words = json.dumps(seen, indent=0, ensure_ascii=False) + "\n"
    for name, text in (tokenizer.files() | {"words.json": words}).items():
        write_whole(folder / name, text.encode())
    return tokenizer
