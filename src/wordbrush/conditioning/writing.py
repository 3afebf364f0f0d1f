"""The prompts of a request written out: alternatives drawn, texts expanded, styles put on.

Picture `index` has its own random numbers, seeded by `seed + index`; so a picture's words are the same alone and in a
batch. What was written stays in the request, whose `written` also says that there is nothing left to do.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from wordbrush.conditioning import alternatives
from wordbrush.conditioning.expansion import Expander
from wordbrush.conditioning.prompt import syntax
from wordbrush.conditioning.prompt.program import PromptProgram
from wordbrush.conditioning.styles import PLACE, Style, applied, known_styles, named
from wordbrush.conditioning.wildcards import Wildcards
from wordbrush.errors import RequestError
from wordbrush.request import GenerationRequest
from wordbrush.request_fields import Expansion

# Stands for {prompt} while the alternatives of a style's template are drawn.
_PROMPT = "\ue000"


@dataclass
class PromptWriter:
    """Writes out the prompts of requests for one model.

    Attributes:
        expander: the folder of the model's own expander; None where it has none.
        model: its name.
    """

    model: str
    expander: Path | None = None
    _opened: dict[Path, Expander] = field(default_factory=dict)

    def written(self, request: GenerationRequest) -> GenerationRequest:
        """The request with its final texts; one that has them, or in which there is nothing to do, stays as it is.

        Args:
            request: with a seed.

        Raises:
            RequestError: a style or wildcard does not exist, braces are not paired, or there is no expander.
            ModelFileError: the expander is damaged.
        """
        expansion = request.expand if isinstance(request.expand, Expansion) else None
        texts = (*request.prompts, request.negative_prompt)
        asked = request.styles or expansion is not None or any(map(alternatives.is_drawn, texts))
        if request.written is not None or not asked:
            return request
        assert request.seed is not None
        styles = _named_styles(request.styles)
        wildcards = Wildcards.default()
        continued = None if expansion is None else self._continued(request, expansion)
        prompts = tuple(
            _text(prompt, styles, wildcards, request.seed + index, continued)
            for index, prompt in enumerate(request.prompts)
        )
        fields = {name: getattr(request, name) for name in request.model_fields_set}
        fields["negative_prompt"] = _negative(request.negative_prompt, styles)
        fields["written"] = request.prompts if len(set(request.prompts)) > 1 else request.prompts[0]
        if len(set(prompts)) == 1:
            fields.update(prompt=prompts[0], count=len(prompts))
        else:
            fields.update(prompt=prompts, count=1)
        return GenerationRequest(**fields)

    def _continued(self, request: GenerationRequest, expansion: Expansion) -> Callable[[str, int], str]:
        """A function of a prompt and a picture's seed that continues the prompt."""
        expander = self._expander(expansion)

        def continued(prompt: str, seed: int) -> str:
            program = PromptProgram.parse(prompt)
            if len(program.parts) > 1:
                raise RequestError("a prompt with AND has several ends, so expand cannot continue it; leave one out")
            text = program.at(0, 1)[0].text
            sections = syntax.literal(text) if request.emphasis == "none" else syntax.parse(text)
            plain = " ".join("".join(run.text for run in section).strip() for section in sections)
            return prompt.rstrip() + expander.addition(plain, expansion, random.Random(f"expand/{seed}"))

        return continued

    def _expander(self, expansion: Expansion) -> Expander:
        folder = self.expander if expansion.model is None else Path(expansion.model).expanduser()
        if folder is None:
            raise RequestError(
                f"{self.model!r} comes with no language model to expand prompts with; name the folder of a GPT-2"
            )
        if folder not in self._opened:
            self._opened[folder] = Expander.from_folder(folder)
        return self._opened[folder]


def _text(
    prompt: str, styles: list[Style], wildcards: Wildcards, seed: int, continued: Callable[[str, int], str] | None
) -> str:
    """One picture's prompt: drawn, then continued, then in its styles, whose own alternatives come last."""
    rng = random.Random(f"words/{seed}")
    text = alternatives.drawn(prompt, wildcards, rng)
    if continued is not None:
        text = continued(text, seed)
    for style in styles:
        template = alternatives.drawn(style.prompt.replace(PLACE, _PROMPT), wildcards, rng)
        text = applied(template.replace(_PROMPT, PLACE), text)
    return text


def _negative(text: str, styles: list[Style]) -> str:
    for one in (text, *(style.negative.replace(PLACE, "") for style in styles)):
        if alternatives.draws(one):
            raise RequestError(
                f"the negative prompt {one[:40]!r} is one for all pictures of a request, so no alternatives or "
                "wildcards are drawn in it; write \\{, \\} and \\__ for the signs themselves"
            )
    for style in styles:
        text = applied(style.negative, text)
    return alternatives.drawn(text, Wildcards(()), random.Random(0))


def _named_styles(names: tuple[str, ...]) -> list[Style]:
    styles = known_styles() if names else {}
    return [named(name, styles) for name in names]
