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

from pydantic import BeforeValidator, Field, StrictBool, model_validator

from wordbrush.errors import RequestError
from wordbrush.infotext import read_infotext, write_infotext
from wordbrush.request_fields import (
    LARGEST_SEED,
    LATENT_UPSCALERS,
    Checked,
    EmphasisName,
    Expansion,
    Hires,
    Integer,
    Lora,
    MaskFillName,
    MaskSource,
    ModelDefaults,
    Noise,
    Number,
    Picture,
    Pixels,
    SamplerName,
    ScheduleName,
    checked_prompt,
    listed_loras,
    listed_names,
    optional_prompt,
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
    mask: MaskSource | None = None
    """Where `image` may change: a picture that is white there, a box (x, y, width, height), or "alpha", which is where
    `image` is transparent."""
    mask_invert: StrictBool = False
    """Change what the mask keeps, and keep what it would change."""
    mask_grow: Integer | None = Field(default=None, ge=-1024, le=1024)
    """By how many pixels what may change is made wider on every side; fewer than 0 make it narrower."""
    mask_blur: Number | None = Field(default=None, ge=0, le=1024)
    """Standard deviation in pixels of the Gaussian that softens the mask's edge, once it has grown; 0 is hard."""
    mask_fill: MaskFillName | None = None
    """What lies under the mask when the loop begins: "original", the surroundings as a "blur", "noise", or "empty"."""
    only_masked: StrictBool = False
    """Work on the masked part alone, at the full `width` and `height`, and put it back in its place."""
    only_masked_padding: Pixels | None = None
    """With `only_masked`, how many pixels of the picture around the mask are seen; None is 32."""
    extend: tuple[Pixels, Pixels, Pixels, Pixels] | None = None
    """By how many pixels `image` is extended at its (left, top, right, bottom); what is new may change."""
    latents: Noise | None = None
    """Unit-variance starting noise (B, C, h, w) in place of the noise that the seeds would give."""
    hires: Annotated[Hires | None, BeforeValidator(Hires.parse)] = None
    """High-resolution fix: paint at `width` and `height`, enlarge, and run a second loop on that."""
    upscale: Number | None = Field(default=None, gt=1, le=8)
    """How many times larger the finished picture is made."""
    upscaler: Annotated[str, Field(min_length=1)] | None = None
    """What does that: an upscaler by name or path; None is the one that comes with the package."""
    variation_seed: Integer | None = Field(default=None, ge=0, le=LARGEST_SEED)
    """Picture `index` starts from its noise turned towards that of `variation_seed + index`. None: drawn, if needed."""
    variation_strength: Number | None = Field(default=None, ge=0, le=1)
    """How far: 0 is the seed's noise, 1 the variation seed's; None is no variation."""
    blend_prompt: Annotated[str, BeforeValidator(checked_prompt)] | None = None
    """A second text; what the network is told lies between the prompt and it, at `blend`."""
    blend: Number | None = Field(default=None, ge=0, le=1)
    """0 is the prompt, 1 is `blend_prompt`."""
    clip_guidance: Number | None = Field(default=None, ge=0, le=1000)
    """How strongly the gradient of CLIP's similarity of picture and prompt steers the loop; 0 and None are off."""
    clip: str | None = None
    """The CLIP that does, a folder or name; None is the model's own."""
    preset: str | None = Field(default=None, min_length=1)
    """A named set of values, fitted to the model, for the fields that are not given."""
    preset_set: tuple[str, ...] | None = None
    """In a filled-in request, the fields whose values the preset gave."""
    styles: Annotated[tuple[str, ...], BeforeValidator(listed_names)] = ()
    """Templates put around the prompt and added to the negative prompt, in this order."""
    expand: Annotated[Expansion | StrictBool | None, BeforeValidator(Expansion.parse)] = None
    """Let a language model continue the prompt; false is not, also where the preset would."""
    written: Annotated[str | tuple[str, ...] | None, BeforeValidator(optional_prompt)] = None
    """In a filled-in request, what the prompts were before alternatives were drawn, styles put on and texts expanded:
    one for all pictures, or one for each. Where this is there, none of it is done again."""

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
        self._mask_agrees()
        self._steering_agrees()
        self._words_agree()
        self._sizes_agree()
        return self

    def _sizes_agree(self) -> None:
        if self.upscaler is not None and self.upscale is None:
            raise ValueError(f"upscaler={self.upscaler!r} has no effect without upscale; give that as well")
        if self.upscaler in LATENT_UPSCALERS:
            raise ValueError(f"upscaler={self.upscaler!r} enlarges latents, not pictures; it is for hires alone")
        if self.hires is not None and self.image is not None:
            raise ValueError("hires begins from a picture painted small; leave image out, or enlarge it with upscale")
        if self.hires is not None and self.timesteps is not None:
            raise ValueError("timesteps fit one loop and hires runs two; leave one of them out")

    def _mask_agrees(self) -> None:
        if self.extend is not None and (self.image is None or not any(self.extend)):
            unfit = "has no meaning without image; give image as well"
            why = unfit if self.image is None else "adds no pixel; leave it out"
            raise ValueError(f"extend={','.join(map(str, self.extend))} {why}")
        masked = self.mask is not None or self.extend is not None
        for name in ("mask_grow", "mask_blur", "mask_fill", "only_masked"):
            if getattr(self, name) not in (None, False) and not masked:
                raise ValueError(f"{name}={getattr(self, name)} has no meaning without mask; give mask as well")
        if self.mask_invert and self.mask is None:
            raise ValueError("mask_invert has no meaning without mask; give mask as well")
        if self.only_masked_padding is not None and not self.only_masked:
            raise ValueError(f"only_masked_padding={self.only_masked_padding} has no meaning without only_masked")

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

    def _steering_agrees(self) -> None:
        if self.variation_seed is not None:
            if self.variation_strength is None:
                raise ValueError(f"variation_seed={self.variation_seed} has no effect without variation_strength")
            if self.variation_seed + self.pictures - 1 > LARGEST_SEED:
                raise ValueError(f"variation_seed={self.variation_seed} leaves no room for {self.pictures} pictures")
        if (self.blend_prompt is None) != (self.blend is None):
            raise ValueError("blend_prompt and blend have an effect only together; give both or neither")
        if self.clip is not None and not self.clip_guidance:
            raise ValueError(f"clip={self.clip!r} has no effect without clip_guidance; give that as well")

    def _words_agree(self) -> None:
        if isinstance(self.written, tuple) and len(self.written) != self.pictures:
            raise ValueError(f"written holds {len(self.written)} texts, the request asks for {self.pictures} pictures")
        if self.preset_set is not None and self.preset is None:
            raise ValueError("preset_set has no meaning without preset; leave it out")

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
        if self.variation_seed is not None:
            fields["variation_seed"] = self.variation_seed + start
        if isinstance(self.written, tuple):
            written = self.written[start:stop]
            fields["written"] = written[0] if len(set(written)) == 1 else written
        return GenerationRequest(**fields)

    def _given(self) -> dict[str, Any]:
        """The fields that were given, as objects (not as JSON)."""
        return {name: getattr(self, name) for name in self.model_fields_set}

    def to_dict(self) -> dict[str, Any]:
        """The request as JSON values, without what was not asked for: None, false, no LoRAs, the usual emphasis."""
        without = (set() if self.loras else {"loras"}) | (set() if self.emphasis != "original" else {"emphasis"})
        without |= {name for name in ("mask_invert", "only_masked", "styles", "expand") if not getattr(self, name)}
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
        written = self.written[0] if isinstance(self.written, tuple) else self.written
        fields |= {"prompt": self.prompts[0], "written": written}
        fields |= {"loras": [(lora.name, lora.unet, lora.text) for lora in self.loras]}
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
    mask_invert: bool
    mask_grow: int | None
    mask_blur: float | None
    mask_fill: str | None
    only_masked: bool
    only_masked_padding: int | None
    extend: tuple[int, int, int, int] | None
    latents: Any
    hires: Any
    upscale: float | None
    upscaler: str | None
    variation_seed: int | None
    variation_strength: float | None
    blend_prompt: str | None
    blend: float | None
    clip_guidance: float | None
    clip: str | None
    preset: str | None
    preset_set: Sequence[str] | None
    styles: Sequence[str]
    expand: Any
    written: str | Sequence[str] | None
