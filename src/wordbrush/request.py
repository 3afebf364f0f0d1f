"""The request: one validated object that holds everything that decides the pixels.

The command line's flags, the keywords of `Pipeline.__call__` and the metadata inside a saved PNG are views of it. What
is left out (`None`) means the model's own default; `filled` puts those in, so that a result always carries a complete
request. Importing this module loads neither torch nor NumPy.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Annotated, Any, Self, TypedDict

from pydantic import BeforeValidator, Field, model_validator

from wordbrush.errors import RequestError
from wordbrush.infotext import read_infotext, write_infotext
from wordbrush.request_fields import (
    LARGEST_SEED,
    Checked,
    EmphasisName,
    Integer,
    Lora,
    ModelDefaults,
    Noise,
    Number,
    Picture,
    SamplerName,
    ScheduleName,
    checked_prompt,
    listed_loras,
)


class GenerationRequest(Checked):
    """Everything that decides the pixels. Same request, same model, same version: same pixels.

    Raises `RequestError` (a `ValueError`) that names the field, the value and what would fit.
    """

    prompt: Annotated[str | tuple[str, ...], BeforeValidator(checked_prompt)]
    negative_prompt: Annotated[str, BeforeValidator(checked_prompt)] = ""
    model: str | None = None
    """A folder or name; None is the embedded model."""
    emphasis: EmphasisName = "original"
    """How weights in prompts act: "original" keeps the mean of all states, "no norm" does not, "ignore" reads them and
    drops them, "none" takes them for text."""
    vae: str | None = None
    """A VAE in place of the model's own, by name or path; None is the model's own."""
    loras: Annotated[tuple[Annotated[Lora, BeforeValidator(Lora.parse)], ...], BeforeValidator(listed_loras)] = ()
    """LoRAs to apply, each with its strengths; `<lora:name:strength>` in a prompt adds to them."""
    clip_skip: Integer | None = Field(default=None, ge=1, le=12)
    """From which of the CLIP text encoder's last layers its states are taken, counted from the end: 1 is the last."""
    seed: Integer | None = Field(default=None, ge=0, le=LARGEST_SEED)
    """Picture number `index` of the request draws its noise from `seed + index`. None: drawn afresh, and recorded."""
    count: Integer = Field(default=1, ge=1, le=100_000)
    """Pictures for each prompt."""
    steps: Integer | None = Field(default=None, ge=1, le=1000)
    guidance: Number | None = Field(default=None, ge=0, le=1000)
    """Classifier-free guidance scale, 1 is off; or what a model distilled with guidance is told (FLUX.1 dev, LCM)."""
    true_guidance: Number | None = Field(default=None, ge=0, le=1000)
    """Classifier-free guidance scale of a model that is told its guidance as well; 1 is off."""
    image_guidance: Number | None = Field(default=None, ge=0, le=1000)
    """How closely a model that edits pictures keeps to `image` (Brooks 2023, eq. 3); 1 adds nothing."""
    guidance_rescale: Number | None = Field(default=None, ge=0, le=1)
    """How far the guided estimate is brought back to the spread of the unguided one (Lin 2024, eq. 16); 0 is off."""
    guidance_interval: tuple[Number, Number] | None = None
    """Guide only while t (1 is pure noise) lies in this closed interval (Kynkäänniemi 2024); None is always."""
    sampler: SamplerName | None = None
    schedule: ScheduleName | None = None
    timesteps: tuple[Integer, ...] | None = None
    """A falling list of the model's training timesteps in place of the schedule."""
    width: Integer | None = Field(default=None, ge=8, le=16384)
    height: Integer | None = Field(default=None, ge=8, le=16384)
    image: Picture | None = None
    """A picture to start from: the loop then begins part-way, at `strength`."""
    strength: Number | None = Field(default=None, ge=0, le=1)
    """How much of the loop is run on `image`: 0 keeps it, 1 forgets it. 0.7, unless the model says otherwise."""
    mask: Picture | None = None
    """White where `image` may change, black where it is kept."""
    latents: Noise | None = None
    """Unit-variance starting noise (B, C, h, w) in place of the noise that the seeds would give."""

    @model_validator(mode="after")
    def _fields_agree(self) -> Self:
        if self.seed is not None and self.seed + self.pictures - 1 > LARGEST_SEED:
            raise ValueError(f"seed={self.seed} leaves no room for {self.pictures} pictures below {LARGEST_SEED}")
        if self.image is None and self.mask is not None:
            raise ValueError("mask has no meaning without image; give image as well")
        if self.image is None and self.strength is not None:
            raise ValueError(f"strength={self.strength} has no meaning without image; give image as well")
        if self.latents is not None and self.latents.shape[0] != self.pictures:
            raise ValueError(
                f"latents hold noise for {self.latents.shape[0]} pictures, the request asks for {self.pictures}"
            )
        if self.guidance_interval is not None:
            low, high = self.guidance_interval
            if not 0 <= low < high <= 1:
                raise ValueError(f"guidance_interval={low},{high} does not fit: 0 <= low < high <= 1 is wanted")
        self._timesteps_agree()
        return self

    def _timesteps_agree(self) -> None:
        if self.timesteps is None:
            return
        if not self.timesteps or min(self.timesteps) < 0:
            raise ValueError("timesteps must name at least one training timestep, none below 0")
        if any(later >= earlier for earlier, later in pairwise(self.timesteps)):
            raise ValueError("timesteps must fall, from the noisiest to the cleanest")
        if self.steps is not None and self.steps != len(self.timesteps):
            raise ValueError(f"steps={self.steps} contradicts the {len(self.timesteps)} timesteps; leave steps out")
        if self.schedule is not None:
            raise ValueError(f"schedule={self.schedule!r} has no effect beside timesteps; leave one of them out")

    @property
    def prompts(self) -> tuple[str, ...]:
        """The prompt of every picture, in order: each prompt `count` times."""
        texts = (self.prompt,) if isinstance(self.prompt, str) else self.prompt
        return tuple(text for text in texts for _ in range(self.count))

    @property
    def pictures(self) -> int:
        """How many pictures the request asks for."""
        return self.count if isinstance(self.prompt, str) else self.count * len(self.prompt)

    def filled(self, defaults: ModelDefaults, seed: int, model: str, vae: str | None = None) -> GenerationRequest:
        """The complete request: every `None` that means "the model's own" replaced, the seed and model put in.

        vae: the name of a VAE in place of the model's own.
        """
        fields = self._given()
        fields.update(model=model, vae=vae, seed=seed if self.seed is None else self.seed)
        silent = set(ModelDefaults.model_fields)
        if self.image is None:
            silent -= {"strength"}
        if self.timesteps is not None:
            silent -= {"schedule"}
            fields["steps"] = len(self.timesteps)
        for name in silent:
            if fields.get(name) is None:
                fields[name] = getattr(defaults, name)
        return GenerationRequest(**fields)

    def part(self, start: int, stop: int) -> GenerationRequest:
        """The request for pictures `start` to `stop` (exclusive) alone: the same pixels, with their own seeds."""
        if self.seed is None:
            raise RequestError("a request without a seed has no parts; fill it in first")
        fields = self._given()
        texts = self.prompts[start:stop]
        same = len(set(texts)) == 1
        fields.update(prompt=texts[0] if same else texts, count=len(texts) if same else 1, seed=self.seed + start)
        if self.latents is not None:
            fields["latents"] = self.latents.part(start, stop)
        return GenerationRequest(**fields)

    def _given(self) -> dict[str, Any]:
        """The fields that were given, as objects (not as JSON)."""
        return {name: getattr(self, name) for name in self.model_fields_set}

    def to_dict(self) -> dict[str, Any]:
        """The request as JSON values, without what was not asked for: None, no LoRAs, the usual emphasis."""
        without = (set() if self.loras else {"loras"}) | (set() if self.emphasis != "original" else {"emphasis"})
        return self.model_dump(mode="json", exclude_none=True, exclude=without)

    def to_json(self) -> str:
        """`to_dict` on one line."""
        return json.dumps(self.to_dict(), ensure_ascii=True)

    @classmethod
    def from_json(cls, text: str) -> GenerationRequest:
        """Reads what `to_json` wrote. Raises `RequestError` when it is not a valid request."""
        try:
            fields = json.loads(text)
        except ValueError as error:
            raise RequestError(f"the request is not JSON: {error}") from error
        if not isinstance(fields, dict):
            raise RequestError("the request is not a JSON object with a prompt")
        return cls.from_dict(fields)

    def to_infotext(self, extras: Mapping[str, str] | None = None) -> str:
        """The A1111 `parameters` text of a filled-in request for one picture; `extras` are appended as given."""
        if self.pictures != 1:
            raise RequestError(f"an infotext describes one picture, this request asks for {self.pictures}")
        fields = {name: getattr(self, name) for name in type(self).model_fields}
        fields |= {"prompt": self.prompts[0], "loras": [(lora.name, lora.unet, lora.text) for lora in self.loras]}
        return write_infotext(fields, extras or {})

    @classmethod
    def from_infotext(cls, text: str) -> GenerationRequest:
        """Reads an A1111 `parameters` text; `infotext.read_infotext` also says what has no meaning here."""
        return cls.from_dict(read_infotext(text).fields)


class RequestFields(TypedDict, total=False):
    """The fields of a request as keywords beside the prompt; a test holds the two together.

    None, or left out, means what it means in `GenerationRequest`.
    """

    negative_prompt: str
    emphasis: str
    loras: Sequence[Any]
    clip_skip: int | None
    seed: int | None
    count: int
    steps: int | None
    guidance: float | None
    true_guidance: float | None
    image_guidance: float | None
    guidance_rescale: float | None
    guidance_interval: tuple[float, float] | None
    sampler: str | None
    schedule: str | None
    timesteps: Sequence[int] | None
    width: int | None
    height: int | None
    image: Any
    strength: float | None
    mask: Any
    latents: Any
