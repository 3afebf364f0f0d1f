"""Prompts written out: what is drawn, expanded and styled, once, by each picture's own seed."""

from __future__ import annotations

from pathlib import Path

import pytest

from wordbrush.conditioning.writing import PromptWriter
from wordbrush.errors import ModelFileError, RequestError
from wordbrush.formats.gpt2_folder import expander_folder
from wordbrush.formats.library import embedded_folder
from wordbrush.request import GenerationRequest


@pytest.fixture(scope="module")
def writer() -> PromptWriter:
    """The embedded model's."""
    return PromptWriter("scenes-128", expander_folder(embedded_folder()))


def request(prompt: object, seed: int = 3, **fields: object) -> GenerationRequest:
    return GenerationRequest.from_dict({"prompt": prompt, "seed": seed, **fields})


def test_plain_requests_stay_as_they_are(writer: PromptWriter) -> None:
    plain = request(["a fox", "a [cat|dog] (red:1.2)"], count=2, expand=False)
    assert writer.written(plain) is plain
    done = request("a {fox|cat}", written="a __thing__", styles="sepia", expand=True)
    assert writer.written(done) is done


def test_a_picture_has_the_same_words_alone_and_in_a_batch(writer: PromptWriter) -> None:
    whole = writer.written(request("a __colour__ {cat|dog}", count=5, expand=True, styles="stripes"))
    assert len(set(whole.prompts)) > 3
    assert whole.count == 1
    assert whole.written == "a __colour__ {cat|dog}"
    for index, text in enumerate(whole.prompts):
        alone = writer.written(request("a __colour__ {cat|dog}", 3 + index, expand=True, styles="stripes"))
        assert alone.prompts == (text,)
        part = whole.part(index, index + 1)
        assert (part.prompts, part.written, part.seed) == ((text,), "a __colour__ {cat|dog}", 3 + index)
    assert writer.written(whole) is whole
    assert GenerationRequest.from_json(whole.to_json()) == whole


def test_what_was_written_is_kept_for_each_picture(writer: PromptWriter) -> None:
    whole = writer.written(request(["a {cat|dog}", "{one|one} fox"], count=2))
    assert whole.written == ("a {cat|dog}", "a {cat|dog}", "{one|one} fox", "{one|one} fox")
    assert whole.part(1, 3).written == ("a {cat|dog}", "{one|one} fox")
    assert whole.part(2, 4).written == "{one|one} fox"
    assert whole.part(2, 4).count == 2
    with pytest.raises(RequestError, match="written holds 1 texts"):
        request("a fox", count=2, written=("a fox",))


def test_styles_stand_around_the_prompt_in_order(writer: PromptWriter) -> None:
    found = writer.written(request("a \\{fox\\}", styles=("Sketch", "sepia"), negative_prompt="x \\{y\\}"))
    assert found.prompt == "a pencil sketch of a {fox}, sepia picture"
    assert found.negative_prompt == "x {y}"
    with pytest.raises(RequestError, match="there is no style 'skech'"):
        writer.written(request("a fox", styles="skech"))


def test_a_style_brings_a_negative_prompt_without_draws(writer: PromptWriter) -> None:
    from wordbrush.conditioning.styles import user_styles

    user_styles().parent.mkdir(parents=True)
    user_styles().write_text("name,prompt,negative_prompt\nsharp,,blurry\ndrawn,,{a|b}\n")
    assert writer.written(request("a fox", styles="sharp", negative_prompt="red")).negative_prompt == "red, blurry"
    with pytest.raises(RequestError, match="one for all pictures"):
        writer.written(request("a fox", styles="drawn"))
    with pytest.raises(RequestError, match="one for all pictures"):
        writer.written(request("a fox", negative_prompt="__colour__"))


def test_expansion_goes_on_with_the_users_own_words(writer: PromptWriter) -> None:
    for prompt in ("a fox", "A FOX", "(a fox:1.3) <lora:fur:0.5>", "a [red:blue:0.5] fox", "a fox, ", ""):
        found = writer.written(request(prompt, count=6, expand=True))
        for text in found.prompts:
            assert text.startswith(prompt.rstrip())
            assert len(text) > len(prompt)
            assert not text[len(prompt.rstrip()) :][:1].isalnum() or not prompt
            assert not set(text[len(prompt) :]) & set("()[]{}<>|\n")
    same = writer.written(request("(A fox:1.3)", expand=True)).prompts[0].removeprefix("(A fox:1.3)")
    assert writer.written(request("a fox", expand=True)).prompts == (f"a fox{same}",)


def test_options_of_the_expansion_change_it(writer: PromptWriter) -> None:
    def texts(**options: object) -> tuple[str, ...]:
        return writer.written(request("a fox", count=6, expand=options)).prompts

    usual = texts()
    assert all(len(text.split()) <= 3 for text in texts(tokens=1))
    assert len(set(texts(temperature=0))) == 1
    assert len(set(texts(top_k=1))) == 1
    for changed in ({"temperature": 2.5}, {"top_k": 3}, {"top_p": 0.3}, {"repetition": 3.0}, {"no_repeat": 1}):
        assert texts(**changed) != usual, changed


def test_models_without_an_expander(tmp_path: Path) -> None:
    other = PromptWriter("tiny", expander_folder(tmp_path))
    with pytest.raises(RequestError, match="'tiny' comes with no language model"):
        other.written(request("a fox", expand=True))
    with pytest.raises(ModelFileError, match=r"config\.json is wanted"):
        other.written(request("a fox", expand={"model": str(tmp_path)}))
    with pytest.raises(RequestError, match="AND"):
        PromptWriter("x", expander_folder(embedded_folder())).written(request("a AND b", expand=True))
    folder = embedded_folder().with_name("scenes-expander")
    assert other.written(request("a fox", expand={"model": str(folder)})).prompts[0].startswith("a fox ")


def test_another_expander_beside_a_model(tmp_path: Path) -> None:
    import shutil

    shutil.copytree(embedded_folder().with_name("scenes-expander"), tmp_path / "expander")
    assert expander_folder(tmp_path) == tmp_path / "expander"
    assert expander_folder(None) is None
