"""Pictures of different requests painted in one loop, each with the bits it has when it is painted alone.

One loop can paint what differs in its prompt, its seed and its starting noise alone; `agreement` says of two requests
whether that is so. Importing this module does not load torch: the server's queue asks as well.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from wordbrush.conditioning.prompt.program import PromptProgram
from wordbrush.errors import RequestError
from wordbrush.inputs import InputNoise
from wordbrush.request import GenerationRequest

# Rows of one loop may differ in these; the words' story is told in the pictures' metadata and changes no pixel.
_OWN = {"prompt", "seed", "count", "latents", "variation_seed", "written"}
_WORDING = ("styles", "expand", "preset", "preset_set")


@dataclass(frozen=True, kw_only=True)
class Joined:
    """One loop for pictures of several requests: `Pipeline.steps(joined.request, joined.seeds)`.

    Attributes:
        request: filled in; row i is the i-th picture.
        seeds: of the rows.
    """

    request: GenerationRequest
    seeds: tuple[int, ...]


def agreement(request: GenerationRequest) -> str:
    """Equal for requests that one loop can paint, if both are filled in. In hex.

    Of requests as clients send them it tells the same, but may find some different that are not.

    Raises:
        RequestError: a LoRA tag in a prompt cannot be read.
    """
    fields = request.model_dump(mode="json", exclude=_OWN | set(_WORDING))
    moved = None
    if request.variation_strength is not None and request.variation_seed is not None:
        moved = request.variation_seed - (request.seed or 0)
    preset = request.preset if request.preset_set is None else None  # which has not had its say yet
    told: list[Any] = [fields, preset, moved, None if request.latents is None else request.latents.shape[1:]]
    told.append(sorted({str(PromptProgram.parse(prompt).loras) for prompt in set(request.prompts)}))
    return hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode()).hexdigest()


def joined(singles: Sequence[GenerationRequest]) -> Joined:
    """The loop of filled-in requests for one picture each, which agree.

    Raises:
        RequestError: one is not filled in or asks for several pictures, or they do not agree.
    """
    if any(single.pictures != 1 or single.seed is None for single in singles):
        raise RequestError("only filled-in requests for one picture each are painted in one loop; take their parts")
    if len({agreement(single) for single in singles}) != 1:
        raise RequestError("these requests differ in more than prompt and seed, so one loop cannot paint them")
    first = singles[0]
    fields = {name: getattr(first, name) for name in first.model_fields_set if name not in _WORDING}
    fields.update(prompt=tuple(single.prompts[0] for single in singles), count=1)
    if any(single.written is not None for single in singles):  # nothing is drawn in what is written out already
        fields["written"] = tuple(_written(single) for single in singles)
    if first.latents is not None:
        noises = [single.latents for single in singles if single.latents is not None]
        data = b"".join(noise.data for noise in noises)
        fields["latents"] = InputNoise(shape=(len(noises), *first.latents.shape[1:]), data=data)
    moved = (first.variation_seed or 0) - (first.seed or 0) if first.variation_strength is not None else 0
    fields["seed"] = max(0, -moved)  # the rows' seeds are given beside it; only the distance counts
    if first.variation_strength is not None:
        fields["variation_seed"] = max(0, moved)
    return Joined(request=GenerationRequest(**fields), seeds=tuple(single.seed or 0 for single in singles))


def _written(single: GenerationRequest) -> str:
    written = single.prompts[0] if single.written is None else single.written
    return written if isinstance(written, str) else written[0]
