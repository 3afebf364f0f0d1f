"""Which networks a checkpoint file holds, where in it, and in whose names; told from names and shapes alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from wordbrush.formats.single_file.configs import TEXT_ENCODERS, VAES, Config
from wordbrush.formats.single_file.shapes import Shape, Shapes, clip_config, t5_config, vae_config
from wordbrush.formats.single_file.tiny_vae import BESIDE, tiny_config, tiny_place

ORIGINAL, DIFFUSERS, DIFFUSERS_OLD, TRANSFORMERS, TRANSFORMERS_BARE, OPEN_CLIP = (
    "original", "diffusers", "diffusers-old", "transformers", "transformers-bare", "open_clip",
)  # fmt: skip

DENOISER_PREFIXES = ("model.diffusion_model.", "diffusion_model.", "model.", "unet.", "transformer.", "")

_T5_MARKS = ("encoder.block.0.layer.0.SelfAttention.q.weight", "encoder.final_layer_norm.weight")
_CLIP_MARKS = ("text_model.embeddings.token_embedding.weight", "text_model.embeddings.position_embedding.weight")
_OPEN_CLIP_MARKS = ("positional_embedding", "transformer.resblocks.0.attn.in_proj_weight")

# (part, prefixes, the dialect of names, tensors of which every such network has the first, and a damaged one either)
_MARKS: tuple[tuple[str, tuple[str, ...], str, tuple[str, str]], ...] = (
    ("unet", DENOISER_PREFIXES, ORIGINAL, ("input_blocks.0.0.weight", "out.2.weight")),
    (
        "unet",
        ("unet.", ""),
        DIFFUSERS,
        ("up_blocks.0.resnets.0.time_emb_proj.weight", "up_blocks.0.resnets.1.time_emb_proj.weight"),
    ),
    (
        "transformer",
        DENOISER_PREFIXES,
        ORIGINAL,
        ("double_blocks.0.img_attn.norm.key_norm.scale", "double_blocks.0.img_attn.qkv.weight"),
    ),
    (
        "transformer",
        ("transformer.", ""),
        DIFFUSERS,
        ("single_transformer_blocks.0.proj_mlp.weight", "single_transformer_blocks.0.proj_out.weight"),
    ),
    (
        "vae",
        ("first_stage_model.", "vae.", ""),
        ORIGINAL,
        ("encoder.down.0.block.0.conv1.weight", "decoder.up.0.block.0.conv1.weight"),
    ),
    (
        "vae",
        ("vae.", ""),
        DIFFUSERS,
        ("encoder.down_blocks.0.resnets.0.conv1.weight", "decoder.up_blocks.0.resnets.0.conv1.weight"),
    ),
)
# prefix -> (part, the dialect of names, tensors as above)
_TEXT_MARKS: dict[str, tuple[str, str, tuple[str, str]]] = {
    "cond_stage_model.transformer.": ("text_encoder", TRANSFORMERS, _CLIP_MARKS),
    "cond_stage_model.model.": ("text_encoder", OPEN_CLIP, _OPEN_CLIP_MARKS),
    "conditioner.embedders.0.transformer.": ("text_encoder", TRANSFORMERS, _CLIP_MARKS),
    "conditioner.embedders.0.model.": ("text_encoder_2", OPEN_CLIP, _OPEN_CLIP_MARKS),
    "conditioner.embedders.1.model.": ("text_encoder_2", OPEN_CLIP, _OPEN_CLIP_MARKS),
    "text_encoders.clip_l.transformer.": ("text_encoder", TRANSFORMERS, _CLIP_MARKS),
    "text_encoders.clip_h.transformer.": ("text_encoder", TRANSFORMERS, _CLIP_MARKS),
    "text_encoders.clip_g.transformer.": ("text_encoder_2", TRANSFORMERS, _CLIP_MARKS),
    "text_encoders.t5xxl.transformer.": ("text_encoder_2", TRANSFORMERS, _T5_MARKS),
}


@dataclass(frozen=True, kw_only=True)
class Component:
    """One network in a file.

    Attributes:
        part: "unet", "transformer", "vae", "text_encoder" or "text_encoder_2".
        prefix: what its tensors' names begin with.
        dialect: how the rest of them is spelt: ORIGINAL, DIFFUSERS, DIFFUSERS_OLD, TRANSFORMERS, TRANSFORMERS_BARE
            (without the leading `text_model.`) or OPEN_CLIP.
        config: its config.json.
        spare: beginnings of names under the prefix that belong to it and are not used.
    """

    part: str
    prefix: str
    dialect: str
    config: Config
    spare: tuple[str, ...] = ()


def marked(shapes: Shapes) -> Iterator[tuple[str, str, str]]:
    """The networks in a file as (part, prefix, dialect), each part once."""
    seen = set()
    for part, prefixes, dialect, marks in _MARKS:
        prefix = next((prefix for mark in marks for prefix in prefixes if prefix + mark in shapes), None)
        if prefix is not None and part not in seen:
            seen.add(part)
            old = part == "vae" and f"{prefix}encoder.mid_block.attentions.0.query.weight" in shapes
            yield part, prefix, DIFFUSERS_OLD if old else dialect
    tiny = None if "vae" in seen else tiny_place(shapes)
    if tiny is not None:
        yield "vae", tiny[0], ORIGINAL if tiny[1] else DIFFUSERS


def text_prefixes(shapes: Shapes) -> Iterator[tuple[str, str]]:
    """The prefixes of the text encoders beside other networks, each with the dialect of the names after it."""
    for prefix, (_, dialect, marks) in _TEXT_MARKS.items():
        if any(prefix + mark in shapes for mark in marks):
            yield prefix, dialect
        elif any(prefix + mark.removeprefix("text_model.") in shapes for mark in marks):
            yield prefix, TRANSFORMERS_BARE


def text_encoders_alone(shapes: Shapes) -> Iterator[str]:
    """The dialects in which the names of a file that holds nothing else are those of a text encoder."""
    for dialect, marks in ((TRANSFORMERS, _CLIP_MARKS), (OPEN_CLIP, _OPEN_CLIP_MARKS[1:]), (TRANSFORMERS, _T5_MARKS)):
        if any(mark in shapes for mark in marks):
            yield dialect
    if any(mark.removeprefix("text_model.") in shapes for mark in _CLIP_MARKS):
        yield TRANSFORMERS_BARE


def under(shapes: Shapes, prefix: str) -> dict[str, Shape]:
    """The tensors under a prefix, without it."""
    start = len(prefix)
    return {name[start:]: shape for name, shape in shapes.items() if name.startswith(prefix)}


def autoencoders(shapes: Shapes, family: str) -> Iterator[Component]:
    """The autoencoder of a file."""
    for part, prefix, dialect in marked(shapes):
        if part != "vae":
            continue
        own, original = under(shapes, prefix), dialect == ORIGINAL
        if tiny_place(shapes) == (prefix, original):
            config = tiny_config(own, original=original)
            yield Component(part=part, prefix=prefix, dialect=dialect, config=config, spare=BESIDE)
        else:
            config = VAES[family] | vae_config(own, original=original)
            yield Component(part=part, prefix=prefix, dialect=dialect, config=config)


def text_encoders(shapes: Shapes, family: str) -> Iterator[Component]:
    """The text encoders of a model of that family."""
    for prefix, dialect in text_prefixes(shapes):
        part = _TEXT_MARKS[prefix][0]
        if part in TEXT_ENCODERS[family]:
            yield _text_component(shapes, family, part, prefix, dialect)


def _text_component(shapes: Shapes, family: str, part: str, prefix: str, dialect: str) -> Component:
    own = under(shapes, prefix)
    if any(mark in own for mark in _T5_MARKS):
        if "shared.weight" not in own and "encoder.embed_tokens.weight" in own:
            own["shared.weight"] = own["encoder.embed_tokens.weight"]
        config = TEXT_ENCODERS["flux-dev"]["text_encoder_2"] | t5_config(own)
        return Component(part=part, prefix=prefix, dialect=dialect, config=config)
    if dialect == TRANSFORMERS_BARE:
        own = {f"text_model.{name}": shape for name, shape in own.items()}
    config = clip_config(own, open_clip=dialect == OPEN_CLIP)
    published = TEXT_ENCODERS[family].get(part, {})
    spare: tuple[str, ...] = ()
    if part == "text_encoder":
        config.pop("projection_dim", None)
        # a tower that is only read before its end needs no projection; Stable Diffusion 2 leaves out the last layer too
        spare = ("text_projection",)
        layers = config["num_hidden_layers"]
        if family == "sd2" and dialect == OPEN_CLIP and ("text_projection" in own or layers == 24):
            config["num_hidden_layers"] = layers - 1
            spare += (f"transformer.resblocks.{layers - 1}.",)
    if "vocab_size" not in published or "d_model" in published:  # a CLIP where the family has a T5, or none
        published = TEXT_ENCODERS["sd1"]["text_encoder"]
    if published["projection_dim"] == published["hidden_size"]:  # as where there is a projection that is not used
        config.setdefault("projection_dim", config["hidden_size"])
    return Component(part=part, prefix=prefix, dialect=dialect, config=published | config, spare=spare)


def component_of(shapes: Shapes, family: str, part: str) -> Component | None:
    """The network in a file that is to be that part of a model of that family; None if the file has none.

    The file may hold it alone, under no prefix, or as the same part of another model.

    Raises:
        UnknownShape: the network is not whole.
    """
    if part == "vae":
        return next(autoencoders(shapes, family), None)
    inside = next((found for found in text_encoders(shapes, family) if found.part == part), None)
    if inside is not None:
        return inside
    t5 = family.startswith("flux") and part == "text_encoder_2"
    for dialect in text_encoders_alone(shapes):
        component = _text_component(shapes, family, part, "", dialect)
        if ("d_model" in component.config) == t5:
            return component
    return None
