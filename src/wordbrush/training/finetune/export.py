"""What a fine-tuning leaves: files that other tools open, with a card of how they were made."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import yaml
from torch import Tensor, nn

from wordbrush.errors import RequestError
from wordbrush.formats.diffusers_folder import weights_hash, write_folder
from wordbrush.formats.lora.notes import TrainingNotes, base_of
from wordbrush.formats.lora.trained import TrainedLora
from wordbrush.formats.lora.write import PEFT_FILE, write_kohya, write_peft
from wordbrush.formats.open import EMBEDDED
from wordbrush.metadata import write_whole
from wordbrush.networks.clip import CLIPTextModel
from wordbrush.networks.flux import FluxTransformer
from wordbrush.networks.unet import UNet
from wordbrush.training.adapters import Adapters
from wordbrush.training.finetune.recipes import Finetune, InversionRecipe
from wordbrush.training.finetune.trained import WORD, Word

if TYPE_CHECKING:
    from wordbrush.training.finetune.task import FinetuneTask
    from wordbrush.training.recipe import Recipe

MODEL_FOLDER = "model"
"""Of a run, where all weights were trained."""

State = dict[str, Tensor]


def export(task: FinetuneTask, folder: Path, averaged: dict[str, State]) -> None:
    """Writes what was trained, from its running averages, each file or folder whole or not at all.

    A LoRA as `<name>.safetensors` in kohya's layout and as `pytorch_lora_weights.safetensors` in PEFT's; a new word as
    `<word>.safetensors` in kohya's (and the web UIs') and `learned_embeds.safetensors` in diffusers'; all else as the
    folder `model`.
    """
    if isinstance(task.train, InversionRecipe):
        files = _write_word(task, folder, averaged[WORD])
    elif any(isinstance(module, Adapters) for module in task.modules.values()):
        files = _write_lora(task, folder, averaged)
    else:
        files = _write_model(task, folder, averaged)
    write_whole(folder / "README.md", card(task, files).encode())


def check_names(recipe: Recipe, train: Finetune) -> None:
    """Raises RequestError for names that cannot be those of files, before anything is trained."""
    what, name = "the name", recipe.name
    if isinstance(train, InversionRecipe):
        what, name = "the new word", str(word_of(train))
    if not name or set(name) & set('/\\:*?"<>|') or name in (".", ".."):
        raise RequestError(f"{what} {name!r} becomes the name of a file, so it can hold none of / \\ : * ? \" < > |")
    if f"{name}.safetensors" == PEFT_FILE or name.startswith("learned_embeds"):
        raise RequestError(f"{what} {name!r} is what diffusers calls its own file; give another")


def word_of(train: Finetune) -> str | None:
    """The new word as prompts are to write it; a learnt one is called by its file, which holds no brackets."""
    return train.placeholder.strip("<>") if isinstance(train, InversionRecipe) else train.trigger


def notes_of(task: FinetuneTask) -> TrainingNotes:
    """What the files' metadata say."""
    recipe, train, feed = task.recipe, task.train, task.feeds[""]
    settings: dict[str, Any] = {
        "seed": recipe.seed,
        "max_train_steps": recipe.steps,
        "batch_size_per_device": recipe.batch,
        "learning_rate": recipe.optimiser.learning_rate,
        "optimizer": recipe.optimiser.kind,
        "lr_scheduler": recipe.optimiser.schedule,
        "lr_warmup_steps": recipe.optimiser.warmup,
        "mixed_precision": {"bfloat16": "bf16", "float16": "fp16"}.get(recipe.precision, "no"),
        "num_train_images": len(feed.dataset),
        "noise_offset": train.objective.offset_noise or None,
        "min_snr_gamma": (train.objective.gamma or 5.0) if train.objective.weighting == "min_snr" else None,
        "loss_type": train.objective.loss,
    }
    if train.prior is not None:
        settings |= {"prior_loss_weight": train.prior.weight, "num_reg_images": train.prior.pictures}
    return TrainingNotes(
        name=recipe.name,
        base=base_of(task.parts.networks),
        base_name=model_name(task),
        base_hash=weights_hash(task.parts),
        prediction=task.parts.scheduler.prediction,
        guided=task.parts.family != "flux-schnell",
        resolution=task.usual_size,
        clip_skip=train.clip_skip,
        trigger=word_of(train),
        title=recipe.name,
        description=f"{train.task} of {model_name(task)} on {len(feed.dataset)} pictures, by Wordbrush",
        finished=time.time(),
        settings=settings,
    )


def model_name(task: FinetuneTask) -> str:
    """What people call the model that was fine-tuned."""
    return Path(task.train.model).name if task.train.model else EMBEDDED


def learnt(task: FinetuneTask, averaged: dict[str, State]) -> TrainedLora:
    """The layers of all adapters together."""
    found: dict[str, Any] = {}
    for name, module in task.modules.items():
        if isinstance(module, Adapters):
            found |= module.trained(averaged[name])
    return found


def _write_lora(task: FinetuneTask, folder: Path, averaged: dict[str, State]) -> list[str]:
    layers, notes = learnt(task, averaged), notes_of(task)
    own = folder / f"{task.recipe.name}.safetensors"
    write_kohya(own, layers, task.parts.networks, notes)
    write_peft(folder, layers, notes)
    return [own.name, PEFT_FILE]


def _write_word(task: FinetuneTask, folder: Path, state: State) -> list[str]:
    from wordbrush.formats.textual_inversion import write_embedding

    word = task.modules[WORD]
    assert isinstance(word, Word)
    assert isinstance(task.train, InversionRecipe)
    name = str(word_of(task.train))
    vectors = {encoder: value.detach().cpu() for encoder, value in word.vectors_from(state).items()}
    return [path.name for path in write_embedding(folder, name, task.train.placeholder, vectors, notes_of(task))]


def _write_model(task: FinetuneTask, folder: Path, averaged: dict[str, State]) -> list[str]:
    """The whole model, its trained networks with their averages."""
    known = task.parts.known_words
    if known is not None and task.train.trigger:
        known |= frozenset(task.train.trigger.lower().split())
    networks: dict[str, Any] = {name: _twin(module, averaged[name]) for name, module in task.modules.items()}
    parts = replace(task.parts, name=task.recipe.name, known_words=known, **networks)
    write_folder(parts, folder / MODEL_FOLDER, dtype=_dtype(task))
    write_whole(folder / MODEL_FOLDER / "README.md", card(task, [MODEL_FOLDER]).encode())
    return [MODEL_FOLDER]


def _twin(network: nn.Module, state: State) -> nn.Module:
    """A network of the same kind with other weights: those of the one in training may be shared out among processes."""
    with torch.device("meta"):
        match network:
            case UNet() | FluxTransformer():
                twin: nn.Module = type(network)(network.config)  # type: ignore[arg-type]  # its own
            case CLIPTextModel():
                twin = CLIPTextModel(network.config, projection=network.text_projection is not None)
            case _:
                raise TypeError(f"{type(network).__name__} is not trained here")
    twin.load_state_dict(state, assign=True)
    return twin


def _dtype(task: FinetuneTask) -> torch.dtype:
    """Half precision, which models are shared in, unless bfloat16 has been what they were trained in on purpose."""
    return torch.bfloat16 if task.parts.family.startswith("flux") else torch.float16


_USES = {
    "lora": 'wordbrush generate "{prompt}"{model} --lora {file}:1',
    "inversion": 'wordbrush generate "{prompt}"{model}  # after: wordbrush models folders add FOLDER',
    "model": 'wordbrush generate "{prompt}" -m {file}',
}


def card(task: FinetuneTask, files: list[str]) -> str:
    """README.md: what it is, how it is used, how it was made."""
    recipe, train, feed = task.recipe, task.train, task.feeds[""]
    word = word_of(train)
    prompt = f"a picture of {word}" if word else feed.dataset.caption(0) or "a picture"
    kind = "model" if files == [MODEL_FOLDER] else "inversion" if isinstance(train, InversionRecipe) else "lora"
    model = f" -m {train.model}" if train.model else ""
    use = _USES[kind].format(prompt=prompt, model=model, file=files[0])
    described = yaml.safe_dump(recipe.model_dump(mode="json", exclude_defaults=True), sort_keys=False)
    trigger = f"Its word is `{word}`.\n\n" if word else ""
    if isinstance(train, InversionRecipe) and train.placeholder != word:
        trigger = f"Its word is `{word}`, as its file is called; for diffusers `{train.placeholder}`.\n\n"
    return (
        f"# {recipe.name}\n\n"
        f"A fine-tuning ({train.task}) of `{model_name(task)}` on {len(feed.dataset)} pictures, made by Wordbrush.\n\n"
        f"{trigger}Files: {', '.join(f'`{file}`' for file in files)}\n\n    {use}\n\n"
        f"Made by this recipe, with `wordbrush train`:\n\n```yaml\n{described}```\n"
    )
