"""CLIP names the thing and the ground of scenes whose combinations it never saw, mostly."""

from __future__ import annotations

from PIL import Image

from wordbrush.data.scenes import render, sample_scene
from wordbrush.evaluation.describing import Describer

SCENES = 40


def test_things_and_grounds_of_held_out_scenes_are_mostly_found() -> None:
    describer = Describer.of_model(None)
    things = among_five = grounds = 0
    for index in range(SCENES):
        scene = sample_scene("test", 7, index, "single")
        told = describer.describe(Image.fromarray(render(scene)))
        noun = scene.objects[0].kind.noun
        things += told.things[0].phrase == noun
        among_five += noun in [one.phrase for one in told.things]
        grounds += told.grounds[0].phrase == scene.background
        assert sum(one.share for one in told.grounds) <= 1.0001
    assert things / SCENES > 0.5
    assert among_five / SCENES > 0.8
    assert grounds / SCENES > 0.9


def test_any_picture_gets_a_sentence_of_known_words() -> None:
    told = Describer.of_model(None).describe(Image.new("RGBA", (300, 90), (120, 196, 120, 255)), most=2)
    assert told.grounds[0].phrase == "green"
    assert told.caption.endswith(" on a green background")
    output = told.output()
    assert [len(output[name]) for name in ("things", "backgrounds")] == [2, 2]
    assert -1 <= output["similarity"] <= 1
