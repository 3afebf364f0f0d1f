"""The fixed set of prompts: GenEval's six tasks (Ghosh 2023) on scenes of the test split, each with what it demands."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import count

from wordbrush.data.scenes import Scene, plain_caption, sample_scene
from wordbrush.errors import RequestError

SEED = 2026
"""Of the scenes that the prompts describe, and of the noise that pictures start from."""

PER_TASK = 110
_DRAWS = 4  # scenes looked at for each prompt wanted, before sentences are repeated
TASKS: dict[str, str] = {
    # the task's name as in GenEval -> the kind of scene it is drawn from
    "single object": "single",
    "two objects": "two",
    "counting": "counting",
    "colours": "colour",
    "position": "position",
    "attribute binding": "binding",
}


@dataclass(frozen=True, kw_only=True)
class Demand:
    """`count` things of a name, and of a colour if one is stated; `exactly`: no more of them than that."""

    noun: str
    colour: str | None = None
    count: int = 1
    exactly: bool = False


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """A sentence, and what a picture must show to be true to it.

    Attributes:
        relation: of the first demand's thing to the second's: "left of", "right of", "above", "below".
        background: the ground's colour, if the sentence states it.
        scene: the held-out scene that the sentence describes.
    """

    task: str
    text: str
    demands: tuple[Demand, ...]
    relation: str | None
    background: str | None
    scene: Scene


def prompt_of(task: str, scene: Scene) -> Prompt:
    """The task's prompt about a scene."""
    nouns = {item.kind.noun: item for item in scene.objects}
    counting = task == "counting"
    demands = tuple(
        Demand(
            noun=noun,
            colour=item.colour,
            count=sum(other.kind.noun == noun for other in scene.objects),
            exactly=counting,
        )
        for noun, item in nouns.items()
    )
    return Prompt(
        task=task,
        text=plain_caption(scene),
        demands=demands,
        relation=scene.relation,
        background=None if scene.background == "white" else scene.background,
        scene=scene,
    )


def composition_prompts(per_task: int = PER_TASK, seed: int = SEED) -> list[Prompt]:
    """`per_task` prompts of each task: a sentence comes again only where the test split has no more of them.

    The held-out pairs of a thing and a colour, for one, make fewer than a hundred sentences; pictures of a repeated
    one differ by their noise. The scenes are plain: a pattern would be in the picture but not in the sentence.
    Counting asks for numbers alone, so its coloured scenes are passed over.

    Raises:
        RequestError: `per_task` is less than one.
    """
    if per_task < 1:
        raise RequestError(f"{per_task} prompts for each task were asked for; ask for at least 1")
    prompts: list[Prompt] = []
    for task in TASKS:
        first: dict[str, Prompt] = {}
        again: list[Prompt] = []
        for prompt in _drawn(task, seed):
            if first.setdefault(prompt.text, prompt) is not prompt:
                again.append(prompt)
            if len(first) == per_task or len(first) + len(again) == _DRAWS * per_task:
                break
        prompts += [*first.values(), *again][:per_task]
    return prompts


def _drawn(task: str, seed: int) -> Iterator[Prompt]:
    """The task's prompts about one test scene after another, without end."""
    for index in count():
        scene = replace(sample_scene("test", seed, index, kind=TASKS[task]), pattern=None)
        if task != "counting" or not any(item.colour for item in scene.objects):
            yield prompt_of(task, scene)
