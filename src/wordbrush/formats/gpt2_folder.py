"""GPT-2 folders as transformers writes them: config.json, weights, and the tokenizer's files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from wordbrush.conditioning.gpt2_tokenizer import GPT2Tokenizer
from wordbrush.errors import ModelFileError
from wordbrush.formats.json_file import read_json
from wordbrush.formats.library import embedded_folder
from wordbrush.formats.weights import build, find_weights, read_weights
from wordbrush.networks.gpt2 import GPT2, GPT2Config, gpt2_state


@dataclass(frozen=True, kw_only=True)
class LanguageModel:
    """A GPT-2 with its tokenizer.

    Attributes:
        lower_case: whether it has seen lower-case texts only.
    """

    network: GPT2
    tokenizer: GPT2Tokenizer
    lower_case: bool = False


def read_gpt2(folder: Path) -> LanguageModel:
    """Opens a folder with `model.safetensors` or `pytorch_model.bin`. The network is in float32, ready to be asked.

    Raises:
        ModelFileError: a file is missing or damaged, or it is another kind of model.
    """
    if not (folder / "config.json").is_file():
        raise ModelFileError(f"there is no GPT-2 in {str(folder)!r}: a folder with a config.json is wanted")
    values = read_json(folder / "config.json")
    kind = values.get("model_type", "gpt2")
    if kind != "gpt2":
        raise ModelFileError(f"the language model in {folder} is of the kind {kind!r}; a GPT-2 is wanted")
    try:
        config = GPT2Config.from_dict(values)
        state = gpt2_state(read_weights(find_weights(folder, "model")))
    except (TypeError, ValueError) as error:
        raise ModelFileError(f"the GPT-2 in {folder} cannot be read: {error}") from error
    network = build(lambda: GPT2(config), state, folder).float().eval()
    tokenizer = GPT2Tokenizer.from_folder(folder)
    if max(tokenizer.vocab.values()) >= config.vocab_size:
        raise ModelFileError(
            f"the tokenizer in {folder} has the token {max(tokenizer.vocab.values())}, "
            f"its config.json says vocab_size={config.vocab_size}; the files do not belong together"
        )
    settings = folder / "tokenizer_config.json"
    lower = settings.is_file() and read_json(settings).get("do_lower_case") is True
    return LanguageModel(network=network, tokenizer=tokenizer, lower_case=lower)


def expander_folder(model: Path | None) -> Path | None:
    """The folder of the language model that comes with a model: `expander` in its own folder, or the embedded model's.

    model: the file or folder of the model; None for one never stored.
    """
    if model is None or not model.is_dir():
        return None
    beside = embedded_folder().with_name("scenes-expander")
    places = [model / "expander", *([beside] if model.resolve() == embedded_folder().resolve() else [])]
    return next((place for place in places if (place / "config.json").is_file()), None)
