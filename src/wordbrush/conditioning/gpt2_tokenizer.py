"""GPT-2's tokenizer: byte-pair encoding of bytes, spaces and capitals kept (Radford 2019, §2.2).

A space belongs to the word after it, and is spelt `Ġ` in the vocabulary. Nothing is added to a text, and every text can
be spelt.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from wordbrush.conditioning.tokenizer import read_backend_file, read_merges
from wordbrush.errors import ModelFileError
from wordbrush.formats.json_file import read_json

END_OF_TEXT = "<|endoftext|>"


class GPT2Tokenizer:
    """Text to token ids and back, the same ids as transformers' GPT2Tokenizer for the same files.

    Args:
        vocab: piece -> id.
        merges: pairs of pieces that become one, most important first.

    Raises:
        ModelFileError: the end-of-text token is not in the vocabulary, or a merge names pieces that are not.
    """

    def __init__(self, vocab: Mapping[str, int], merges: Sequence[tuple[str, str]]) -> None:
        if END_OF_TEXT not in vocab:
            raise ModelFileError(f"the vocabulary of {len(vocab)} pieces has no {END_OF_TEXT}; is it a GPT-2's?")
        self.vocab, self.merges = dict(vocab), list(merges)
        self.end_id = self.vocab[END_OF_TEXT]
        try:
            self._backend = Tokenizer(models.BPE(vocab=self.vocab, merges=self.merges))
        except Exception as error:  # the library raises nothing more special for a bad merge list
            raise ModelFileError(f"the tokenizer's merges do not fit its vocabulary: {error}") from error
        self._backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        self._backend.decoder = decoders.ByteLevel()
        self._backend.add_special_tokens([AddedToken(END_OF_TEXT, normalized=False, special=True)])

    @classmethod
    def from_folder(cls, folder: Path) -> GPT2Tokenizer:
        """Reads `vocab.json` and `merges.txt`, or else `tokenizer.json`.

        Raises:
            ModelFileError: a file is missing or is not what it should be.
        """
        if (folder / "vocab.json").exists():
            vocab, merges = read_json(folder / "vocab.json"), read_merges(folder / "merges.txt")
        else:
            vocab, merges = read_backend_file(folder / "tokenizer.json")
        if not all(isinstance(index, int) for index in vocab.values()):
            raise ModelFileError(f"the vocabulary in {folder} does not give every piece a whole number")
        return cls(vocab, merges)

    @classmethod
    def learnt(cls, texts: Iterable[str], size: int) -> GPT2Tokenizer:
        """A vocabulary of at most `size` pieces: every byte, learnt merges, and the end of a text."""
        backend = Tokenizer(models.BPE())
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        trainer = trainers.BpeTrainer(
            vocab_size=size - 1, min_frequency=3, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        )  # fmt: skip
        backend.train_from_iterator(texts, trainer)
        model = json.loads(backend.to_str())["model"]
        merges = [tuple(pair) if isinstance(pair, list) else tuple(pair.split(" ")) for pair in model["merges"]]
        return cls({**model["vocab"], END_OF_TEXT: len(model["vocab"])}, merges)

    def files(self, *, lower_case: bool = False) -> dict[str, str]:
        """The files of a tokenizer folder, name -> text, which transformers opens as GPT2Tokenizer.

        lower_case: note that the model's texts had no capitals; transformers does not look at that.
        """
        config = {"tokenizer_class": "GPT2Tokenizer", "add_prefix_space": False} | {
            f"{role}_token": END_OF_TEXT for role in ("bos", "eos", "unk")
        }
        config |= {"do_lower_case": True} if lower_case else {}
        merges = "".join(f"{first} {second}\n" for first, second in self.merges)
        return {
            "vocab.json": json.dumps(self.vocab, ensure_ascii=False),
            "merges.txt": "#version: 0.2\n" + merges,
            "tokenizer_config.json": json.dumps(config, indent=2) + "\n",
        }

    def encode(self, text: str) -> list[int]:
        """The ids of a text of any length."""
        return list(self._backend.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: Sequence[int]) -> str:
        """The text that ids spell, without the end of the text; bytes that are no UTF-8 become �."""
        return str(self._backend.decode(list(ids), skip_special_tokens=True))
