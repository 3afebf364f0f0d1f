"""`wordbrush evaluate finetune`: what a fine-tuning has taught, and what it has cost."""

from __future__ import annotations

import io
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wordbrush.cli import console, options
from wordbrush.errors import ModelFileError, RequestError

if TYPE_CHECKING:
    from PIL.Image import Image

    from wordbrush.evaluation.finetuned import Side
    from wordbrush.pipeline import Pipeline

EXAMPLE = 'Example: wordbrush evaluate finetune runs/zorb zorb-test --prompt "a zorb on a red background"'
_NOT_LORAS = ("pytorch_lora_weights.safetensors", "learned_embeds.safetensors", "learned_embeds_2.safetensors")
"""The second forms of results."""


def finetune(
    tuned: Annotated[
        Path, typer.Argument(help="The run's folder, a LoRA, an embedding, or a model's folder.", metavar="TUNED")
    ],
    subject: Annotated[
        Path, typer.Argument(help="Folder of pictures of the subject that it was not trained on.", metavar="PICTURES")
    ],
    prompts: Annotated[
        list[str] | None, typer.Option("--prompt", help="What the subject is painted by; repeatable.")
    ] = None,
    model: options.Model = None,
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="Pictures of each prompt.")] = 4,
    composition: Annotated[
        int,
        typer.Option(
            "--composition", min=0, help="Prompts of each of the six tasks to measure what was kept by; 0: do not."
        ),
    ] = 8,
    strength: Annotated[float, typer.Option("--strength", help="Of a LoRA.")] = 1.0,
    clip: Annotated[
        Path | None,
        typer.Option("--clip", metavar="FOLDER", help="The CLIP that compares.", show_default="the model's own"),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of the first picture.")] = 1000,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="PNG", help="Write pictures before and after there.")
    ] = None,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    as_json: options.AsJson = False,
) -> None:
    """Compares a model before and after fine-tuning, from the same noise: is the subject learnt, is the rest kept?"""
    from wordbrush.cli.generate import open_pipeline
    from wordbrush.evaluation.finetuned import Side, effect_requests, measure_effect, table
    from wordbrush.evaluation.inspector import TrainedInspector
    from wordbrush.evaluation.prompts import composition_prompts
    from wordbrush.formats.clip_files import read_clip
    from wordbrush.metadata import write_whole
    from wordbrush.request import GenerationRequest
    from wordbrush.sheets import contact_sheet

    if not prompts:
        raise RequestError("no --prompt was given; give what the subject is painted by, such as 'a picture of a zorb'")
    pictures = _pictures(subject)
    base = open_pipeline(model, device, dtype)
    after = _side(tuned, base, strength, device, dtype)
    place = clip or base.parts.source
    if place is None:
        raise RequestError("the model has no folder and so no CLIP beside it; name one with --clip")
    scenes = base.parts.known_words is not None
    asked = composition_prompts(composition) if composition and scenes else []
    requests = effect_requests(prompts, count, seed, asked, GenerationRequest(prompt=""))
    judges = (TrainedInspector.load(), asked) if scenes else None
    calls = 0
    for request, times in ((requests[0], 2), (requests[1], 3)):
        if request is not None:
            full = base.fill(request)
            calls += times * -(-full.pictures // base.batch_size(full)) * base.step_count(full)
    with console.progress("painting before and after", calls) as advance:
        effect = measure_effect((Side(pipe=base), after), read_clip(place), pictures, requests, judges, advance)
    if output is not None:
        shown = [(f"{name} [{text}]", picture) for text, *both in effect.sheet for name, picture in
                 zip(("before", "after"), both, strict=True)]  # fmt: skip
        buffer = io.BytesIO()
        contact_sheet([picture for _, picture in shown], [label for label, _ in shown], columns=8).save(buffer, "PNG")
        write_whole(output, buffer.getvalue())
    if as_json:
        kept = None if effect.kept is None else asdict(effect.kept)
        console.json_result({"learnt": asdict(effect.learnt), "kept": kept})
        return
    console.result(table(effect))


def _pictures(folder: Path) -> list[Image]:
    from PIL.Image import fromarray

    from wordbrush.training.data_recipe import data_recipe
    from wordbrush.training.open_data import open_dataset

    found = open_dataset(data_recipe({"kind": "folder", "path": folder, "text": "none"}, "pictures"))
    return [fromarray(found.image(index)) for index in range(len(found))]


def _side(tuned: Path, base: Pipeline, strength: float, device: str, dtype: str) -> Side:
    """The model after fine-tuning, whatever form that has."""
    from wordbrush.evaluation.finetuned import Side
    from wordbrush.pipeline import load

    for place in (tuned, tuned / "model"):
        if (place / "model_index.json").exists():
            return Side(pipe=load(place, device=device, dtype=dtype))
    file = tuned
    if tuned.is_dir():
        files = sorted(path for path in tuned.glob("*.safetensors") if path.name not in _NOT_LORAS)
        if len(files) != 1:
            raise RequestError(f"{tuned} holds {len(files)} LoRAs and embeddings, not one; name the file")
        file = files[0]
    return _with_word(file, base, device, dtype) or _with_lora(file, base, strength)


def _with_word(file: Path, base: Pipeline, device: str, dtype: str) -> Side | None:
    """The model with an embedding, called by the file's name; None where the file is none."""
    from wordbrush.conditioning.of_model import conditioner_of
    from wordbrush.evaluation.finetuned import Side
    from wordbrush.formats.by_name import NamedEmbeddings
    from wordbrush.formats.textual_inversion import read_embedding
    from wordbrush.pipeline import load

    try:
        word = read_embedding(file)
    except ModelFileError:
        return None
    pipe = load(base.parts.source, device=device, dtype=dtype)
    pipe.conditioner = conditioner_of(pipe.parts, NamedEmbeddings({word.name: word.vectors}))
    return Side(pipe=pipe)


def _with_lora(file: Path, base: Pipeline, strength: float) -> Side:
    from wordbrush.evaluation.finetuned import Side
    from wordbrush.request_fields import Lora

    return Side(pipe=base, fields={"loras": (Lora(name=str(file.absolute()), unet=strength, text=strength),)})
