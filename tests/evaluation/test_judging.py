"""GenEval's rules, on hand-made pictures: a perfect inspector (ground truth) sees right and wrong ones."""

from __future__ import annotations

from dataclasses import replace

import pytest

from wordbrush.data.scenes import Scene, SceneObject, object_types
from wordbrush.evaluation.composition import accuracy, summarise, truth
from wordbrush.evaluation.inspector import Sighting, Thing
from wordbrush.evaluation.judging import judge, relations
from wordbrush.evaluation.prompts import TASKS, Prompt, composition_prompts, prompt_of

KINDS = {kind.noun: kind for kind in object_types()}


def thing(noun: str, x: int, y: int, colour: str | None = None, size: int = 40) -> SceneObject:
    return SceneObject(kind=KINDS[noun], size=size, x=x, y=y, colour=colour)


def scene(*objects: SceneObject, relation: str | None = None, background: str = "white") -> Scene:
    return Scene(
        split="test", seed=0, index=0, kind="made", objects=objects, background=background, pattern=None, style=None,
        relation=relation,
    )  # fmt: skip


def verdict(prompt: Prompt, picture: Scene) -> tuple[bool, str]:
    result = judge(prompt, truth(picture))
    return result.right, result.reason


@pytest.fixture(scope="module")
def prompts() -> list[Prompt]:
    return composition_prompts(4)


def test_every_task_is_drawn_and_every_scene_satisfies_its_own_prompt(prompts: list[Prompt]) -> None:
    assert [prompt.task for prompt in prompts] == [task for task in TASKS for _ in range(4)]
    verdicts = [judge(prompt, truth(prompt.scene)) for prompt in prompts]
    assert [v.reason for v in verdicts] == [""] * len(prompts)
    assert all(v.nothing_else for v in verdicts)
    assert {v.background for v in verdicts} <= {True, None}
    assert summarise(prompts, verdicts).mean == 1.0


def test_a_scene_rarely_satisfies_another_prompt(prompts: list[Prompt]) -> None:
    wrong = [judge(prompt, truth(other.scene)) for prompt, other in zip(prompts, prompts[4:], strict=False)]
    assert not any(v.right for v in wrong)
    assert all(v.reason for v in wrong)


def test_prompts_are_fixed_and_of_the_test_split(prompts: list[Prompt]) -> None:
    assert composition_prompts(4) == prompts
    assert {prompt.scene.split for prompt in prompts} == {"test"}
    assert {prompt.scene.pattern for prompt in prompts} == {None}
    assert {prompt.scene.style for prompt in prompts} == {None}


def test_prompts_name_what_they_demand(prompts: list[Prompt]) -> None:
    for prompt in prompts:
        for demand in prompt.demands:
            kind = KINDS[demand.noun]
            assert (kind.plural if demand.count > 1 else kind.noun) in prompt.text
            assert demand.colour is None or demand.colour in prompt.text
            assert demand.exactly == (prompt.task == "counting")
        assert (prompt.relation is not None) == (prompt.task == "position")
        assert prompt.background is None or f"{prompt.background} background" in prompt.text


@pytest.mark.parametrize(
    ("shown", "right", "reason"),
    [
        ([], False, "no dog"),
        (["cat"], False, "no dog"),
        (["dog"], True, ""),
        (["dog", "cat"], True, ""),  # GenEval: further things do no harm
    ],
)
def test_single_object(shown: list[str], right: bool, reason: str) -> None:
    prompt = prompt_of("single object", scene(thing("dog", 40, 40)))
    picture = scene(*(thing(noun, 48 * place, 40) for place, noun in enumerate(shown)))
    assert verdict(prompt, picture) == (right, reason)
    assert judge(prompt, truth(picture)).nothing_else == (len(shown) == 1)


@pytest.mark.parametrize(("count", "reason"), [(2, "2 x cat, not 3"), (3, ""), (4, "4 x cat, not 3")])
def test_counting_is_exact(count: int, reason: str) -> None:
    prompt = prompt_of("counting", scene(*(thing("cat", 44 * place, 0) for place in range(3))))
    picture = scene(*(thing("cat", 44 * (place % 3), 44 * (place // 3)) for place in range(count)))
    assert verdict(prompt, picture) == (not reason, reason)


def test_two_objects_need_both() -> None:
    prompt = prompt_of("two objects", scene(thing("dog", 0, 0), thing("cat", 60, 60)))
    assert verdict(prompt, scene(thing("cat", 0, 60), thing("dog", 60, 0))) == (True, "")
    assert verdict(prompt, scene(thing("dog", 0, 60), thing("dog", 60, 0))) == (False, "no cat")


@pytest.mark.parametrize(
    ("relation", "first", "second"),
    [("left of", (0, 40), (60, 40)), ("right of", (60, 40), (0, 40)), ("above", (40, 0), (40, 60)),
     ("below", (40, 60), (40, 0))],
)  # fmt: skip
def test_swapped_positions_fail(relation: str, first: tuple[int, int], second: tuple[int, int]) -> None:
    made = scene(thing("dog", *first), thing("cat", *second), relation=relation)
    prompt = prompt_of("position", made)
    assert verdict(prompt, made) == (True, "")
    swapped = scene(thing("dog", *second), thing("cat", *first))
    opposite = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}[relation]
    assert verdict(prompt, swapped) == (False, f"the dog is not {relation} the cat: {opposite}")
    turned = scene(thing("dog", *first[::-1]), thing("cat", *second[::-1]))
    assert not verdict(prompt, turned)[0]


def test_relations_follow_the_boxes() -> None:
    def square(x: float, y: float) -> Thing:
        return Thing(noun="dog", colour="own", box=(x - 0.1, y - 0.1, x + 0.1, y + 0.1))

    middle = square(0.5, 0.5)
    assert relations(square(0.2, 0.5), middle) == {"left of"}
    assert relations(square(0.2, 0.2), middle) == {"left of", "above"}  # both, on the diagonal
    assert relations(square(0.46, 0.5), middle) == set()  # 0.04 apart, a tenth of both sides: the margin
    assert relations(middle, middle) == set()
    # 0.12 apart, of which 0.08 beyond the margin: 2/3 of the distance; 0.07 apart: 3/7, too little
    assert relations(square(0.5, 0.62), middle) == {"below"}
    assert relations(square(0.5, 0.57), middle) == set()


def test_the_colour_must_be_on_the_right_thing() -> None:
    prompt = prompt_of("attribute binding", scene(thing("car", 0, 0, "red"), thing("apple", 60, 60, "blue")))
    assert verdict(prompt, scene(thing("apple", 0, 60, "blue"), thing("car", 60, 0, "red"))) == (True, "")
    swapped = scene(thing("car", 0, 0, "blue"), thing("apple", 60, 60, "red"))
    assert verdict(prompt, swapped) == (False, "the car is blue, not red")
    plain = scene(thing("car", 0, 0, "red"), thing("apple", 60, 60))
    assert verdict(prompt, plain) == (False, "the apple is in its own colours, not blue")


def test_the_surest_thing_of_a_name_is_judged() -> None:
    prompt = prompt_of("colours", scene(thing("car", 0, 0, "red")))
    blue, red = (truth(scene(thing("car", place, 0, colour))).things[0] for place, colour in ((0, "blue"), (60, "red")))
    assert judge(prompt, Sighting(things=(red, blue), background="white")).right
    assert not judge(prompt, Sighting(things=(blue, red), background="white")).right


def test_the_background_is_judged_apart() -> None:
    prompt = prompt_of("single object", scene(thing("dog", 40, 40), background="blue"))
    on_red = judge(prompt, truth(scene(thing("dog", 40, 40), background="red")))
    assert (on_red.right, on_red.background) == (True, False)
    unsaid = prompt_of("single object", scene(thing("dog", 40, 40)))
    assert judge(unsaid, truth(scene(thing("dog", 40, 40), background="red"))).background is None


def test_accuracy_counts_each_kind_of_mistake() -> None:
    made = scene(thing("car", 0, 40, "red"), thing("dog", 60, 40), relation="left of", background="blue")
    seen = truth(made)
    car, dog = seen.things
    perfect = accuracy([made], [seen])
    assert (perfect.names, perfect.counts, perfect.positions, perfect.colours, perfect.backgrounds) == (1, 1, 1, 1, 1)
    assert perfect.trusted
    misread = Sighting(things=(replace(car, colour="blue"), replace(dog, noun="cat")), background="red")
    result = accuracy([made], [misread])
    assert (result.names, result.counts, result.positions, result.colours, result.backgrounds) == (0.5, 1, 1, 0, 0)
    lost = accuracy([made], [Sighting(things=(car,), background="blue")])
    assert (lost.names, lost.counts, lost.positions, lost.colours) == (0.5, 0, 0, 1)
    assert not lost.trusted


def test_the_mean_is_of_tasks_not_of_prompts() -> None:
    prompts = composition_prompts(2)
    few = [*prompts[:2], prompts[2]]
    verdicts = [judge(few[0], truth(few[0].scene)), judge(few[1], truth(few[1].scene)), judge(few[2], truth(scene()))]
    result = summarise(few, verdicts)
    assert result.tasks == {"single object": 1.0, "two objects": 0.0}
    assert result.mean == 0.5
