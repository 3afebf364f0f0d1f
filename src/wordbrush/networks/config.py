"""Reading and writing the config.json files of diffusers and transformers.

A network's config dataclass holds what changes the network. The reference files hold more: keys that say nothing about
the numbers (`_class_name`, dropout rates, initialiser ranges) and switches of which we support one setting. Each config
lists both by name, so that a file asking for something else is refused instead of silently misread.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from difflib import get_close_matches
from typing import Any, TypeVar

T = TypeVar("T")

# What transformers has written into every config over the years (generation, labels, output switches, initialisation
# and dropout rates of training). None of it changes what a network computes.
# fmt: off
TRANSFORMERS_IGNORED = frozenset(
    {
        "add_cross_attention", "architectures", "attention_dropout", "bad_words_ids", "begin_suppress_tokens",
        "chunk_size_feed_forward", "cross_attention_hidden_size", "decoder_start_token_id", "diversity_penalty",
        "do_sample", "dropout", "dtype", "early_stopping", "encoder_no_repeat_ngram_size",
        "exponential_decay_length_penalty", "finetuning_task", "forced_bos_token_id", "forced_eos_token_id",
        "id2label", "initializer_factor", "initializer_range", "is_decoder", "is_encoder_decoder", "label2id",
        "length_penalty", "max_length", "min_length", "model_type", "no_repeat_ngram_size", "num_beam_groups",
        "num_beams", "num_return_sequences", "output_attentions", "output_hidden_states", "output_scores",
        "prefix", "problem_type", "pruned_heads", "remove_invalid_values", "repetition_penalty", "return_dict",
        "return_dict_in_generate", "sep_token_id", "suppress_tokens", "task_specific_params", "temperature",
        "tf_legacy_loss", "tie_encoder_decoder", "tie_word_embeddings", "tokenizer_class", "top_k", "top_p",
        "torch_dtype", "torchscript", "transformers_version", "typical_p", "use_bfloat16",
    }
)
# fmt: on


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """What a reference config.json may hold besides the fields of our dataclass.

    Attributes:
        ignored: keys that do not change the network's output.
        fixed: key -> the settings that mean what this code does; any other setting is refused.
    """

    ignored: frozenset[str]
    fixed: Mapping[str, tuple[Any, ...]]


def read_fields(cls: type[T], values: Mapping[str, Any], dialect: Dialect) -> dict[str, Any]:
    """Returns the entries of `values` that are fields of the dataclass `cls`, lists turned into tuples.

    Raises:
        ValueError: a key is neither a field nor listed in the dialect, or a switch has a setting we do not support.
    """
    names = {field.name for field in fields(cls)}  # type: ignore[arg-type]
    result: dict[str, Any] = {}
    unknown: list[str] = []
    for key, value in values.items():
        value = _frozen(value)
        if key in names:
            result[key] = value
        elif key in dialect.fixed:
            if value not in dialect.fixed[key]:
                raise ValueError(
                    f"{cls.__name__}: {key}={value!r} is not supported; supported: {_listed(dialect.fixed[key])}"
                )
        elif key not in dialect.ignored and not key.startswith("_"):
            unknown.append(key)
    if unknown:
        known = sorted(names | set(dialect.fixed))
        close = [match for name in unknown for match in get_close_matches(name, known, n=1)]
        meant = f"did you mean {' and '.join(close)}? " if close else ""
        raise ValueError(f"{cls.__name__}: unknown settings {sorted(unknown)}; {meant}known are {known}")
    return result


def require(condition: bool, message: str) -> None:
    """Raises ValueError(message) unless the condition holds."""
    if not condition:
        raise ValueError(message)


def require_groups(name: str, channels: Iterable[int], groups: int) -> None:
    """Raises ValueError unless every channel count is a positive multiple of the number of normalisation groups."""
    require(groups > 0, f"norm_num_groups={groups} must be at least 1")
    for count in channels:
        low, high = count // groups * groups, (count // groups + 1) * groups
        near = high if low <= 0 else f"{low} and {high}"
        require(
            count > 0 and count % groups == 0,
            f"{name}: {count} channels cannot be split into norm_num_groups={groups}; the nearest that fit: {near}",
        )


def _frozen(value: Any) -> Any:
    return tuple(_frozen(item) for item in value) if isinstance(value, list | tuple) else value


def _listed(values: Iterable[Any]) -> str:
    return ", ".join(repr(value) for value in values)
