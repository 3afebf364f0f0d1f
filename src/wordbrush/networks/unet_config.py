"""The shape of a conditional U-Net, and its config.json as diffusers writes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from .config import Dialect, read_fields, require, require_groups

DOWN_BLOCKS = ("DownBlock2D", "CrossAttnDownBlock2D")
UP_BLOCKS = ("UpBlock2D", "CrossAttnUpBlock2D")

# What a trainer that averaged the weights leaves behind.
_AVERAGING = frozenset(
    {"decay", "inv_gamma", "min_decay", "optimization_step", "power", "update_after_step", "use_ema_warmup"}
)
# Switches of diffusers' UNet2DConditionModel that Stable Diffusion 1, 2 and XL and their inpainting and editing models
# leave alone. A file that sets one otherwise is another architecture and is refused.
_DIALECT = Dialect(
    # dropout matters in training only; upcast_attention only to kernels that form scores in float16, which ours do not.
    ignored=frozenset({"dropout", "upcast_attention", "addition_embed_type_num_heads"}) | _AVERAGING,
    fixed={
        "act_fn": ("silu",),
        "attention_type": ("default",),
        "center_input_sample": (False,),
        "class_embeddings_concat": (False,),
        "conv_in_kernel": (3,),
        "conv_out_kernel": (3,),
        "cross_attention_norm": (None,),
        "downsample_padding": (1,),
        "dual_cross_attention": (False,),
        "encoder_hid_dim": (None,),
        "encoder_hid_dim_type": (None,),
        "flip_sin_to_cos": (True,),
        "freq_shift": (0,),
        "mid_block_only_cross_attention": (None, False),
        "mid_block_scale_factor": (1,),
        "mid_block_type": ("UNetMidBlock2DCrossAttn",),
        "num_attention_heads": (None,),
        "only_cross_attention": (False,),
        "resnet_out_scale_factor": (1.0,),
        "resnet_skip_time_act": (False,),
        "resnet_time_scale_shift": ("default",),
        "reverse_transformer_layers_per_block": (None,),
        "time_embedding_act_fn": (None,),
        "time_embedding_dim": (None,),
        "time_embedding_type": ("positional",),
        "timestep_post_act": (None,),
    },
)


@dataclass(frozen=True, kw_only=True)
class UNetConfig:
    """Shape of a conditional U-Net; field names and defaults are those of diffusers' config.json.

    Where a field takes a number or a tuple, the tuple gives one number per level, finest first.

    Attributes:
        sample_size: side of the latents it was trained on, which decides the default picture size.
        in_channels: more than out_channels when pictures or masks are concatenated (inpainting: 9; editing: 8).
        down_block_types, up_block_types: per level, with or without cross-attention; up starts at the coarsest.
        block_out_channels: channels per level; each further level halves height and width.
        layers_per_block: residual blocks per level on the way down (one more on the way up).
        cross_attention_dim: width D of the context (B, L, D).
        transformer_layers_per_block: transformer layers after each residual block.
        attention_head_dim: number of *heads* (the name is diffusers' mistake, kept for its files).
        use_linear_projection: whether transformers begin and end with a linear layer, not a 1×1 convolution.
        addition_embed_type: "text_time" for Stable Diffusion XL, whose time embedding also takes a pooled text
            embedding and picture sizes; it needs addition_time_embed_dim and projection_class_embeddings_input_dim.
        time_cond_proj_dim: length of an embedded guidance scale added to the time embedding (Luo 2023, LCM).
        num_class_embeds: how many classes there are, an embedding of each being added to that of the time
            (Dhariwal & Nichol 2021); a null class for guidance counts as one.
        class_embed_type: "projection" where a vector of projection_class_embeddings_input_dim numbers, such as CLIP's
            embedding of a picture (Ramesh 2022), is projected and added in place of a class.
    """

    sample_size: int | None = None
    in_channels: int = 4
    out_channels: int = 4
    down_block_types: tuple[str, ...] = (*["CrossAttnDownBlock2D"] * 3, "DownBlock2D")
    up_block_types: tuple[str, ...] = ("UpBlock2D", *["CrossAttnUpBlock2D"] * 3)
    block_out_channels: tuple[int, ...] = (320, 640, 1280, 1280)
    layers_per_block: int | tuple[int, ...] = 2
    norm_num_groups: int = 32
    norm_eps: float = 1e-5
    cross_attention_dim: int = 1280
    transformer_layers_per_block: int | tuple[int, ...] = 1
    attention_head_dim: int | tuple[int, ...] = 8
    use_linear_projection: bool = False
    addition_embed_type: str | None = None
    addition_time_embed_dim: int | None = None
    projection_class_embeddings_input_dim: int | None = None
    time_cond_proj_dim: int | None = None
    num_class_embeds: int | None = None
    class_embed_type: str | None = None

    def __post_init__(self) -> None:
        self._check_levels()
        require(
            isinstance(self.cross_attention_dim, int),
            f"cross_attention_dim={self.cross_attention_dim!r} must be one number",
        )
        for name in ("in_channels", "out_channels", "cross_attention_dim"):
            require(getattr(self, name) >= 1, f"{name}={getattr(self, name)} must be at least 1")
        require_groups("block_out_channels", self.block_out_channels, self.norm_num_groups)
        require(self.block_out_channels[0] % 2 == 0, f"block_out_channels[0]={self.block_out_channels[0]} must be even")
        for level, (channels, heads) in enumerate(zip(self.block_out_channels, self.heads, strict=True)):
            require(
                not self.attends(level) or channels % heads == 0,
                f"level {level}: {channels} channels cannot be split into attention_head_dim={heads} heads",
            )
        kinds = (None, "text_time")
        require(
            self.addition_embed_type in kinds,
            f"addition_embed_type={self.addition_embed_type!r} is not supported; supported: None, 'text_time'",
        )
        if self.addition_embed_type == "text_time":
            for name in ("addition_time_embed_dim", "projection_class_embeddings_input_dim"):
                require(getattr(self, name) is not None, f"addition_embed_type='text_time' needs {name}")
        self._check_classes()

    def _check_classes(self) -> None:
        kind, count = self.class_embed_type, self.num_class_embeds
        require(
            kind in (None, "projection"),
            f"class_embed_type={kind!r} is not supported; supported: None, 'projection'",
        )
        require(count is None or count >= 1, f"num_class_embeds={count} must be at least 1")
        if kind is None:
            return
        require(count is None, f"num_class_embeds={count} and class_embed_type='projection' exclude each other")
        require(
            self.addition_embed_type is None and self.projection_class_embeddings_input_dim is not None,
            "class_embed_type='projection' needs projection_class_embeddings_input_dim, and no addition_embed_type",
        )

    def _check_levels(self) -> None:
        levels = len(self.block_out_channels)
        require(levels >= 1, "block_out_channels=() needs at least one level")
        for name, known in (("down_block_types", DOWN_BLOCKS), ("up_block_types", UP_BLOCKS)):
            kinds = getattr(self, name)
            require(len(kinds) == levels, f"{name} names {len(kinds)} blocks for {levels} levels of block_out_channels")
            for kind in kinds:
                require(kind in known, f"{name}: {kind!r} is not supported; supported: {', '.join(known)}")
        for name in ("layers_per_block", "transformer_layers_per_block", "attention_head_dim"):
            value = getattr(self, name)
            if isinstance(value, tuple):
                require(len(value) == levels, f"{name}={value} has {len(value)} entries for {levels} levels")
            for number in self._per_level(value):
                require(
                    isinstance(number, int) and number >= 1, f"{name}={value} must hold whole numbers of at least 1"
                )

    def _per_level(self, value: int | tuple[int, ...]) -> tuple[int, ...]:
        return value if isinstance(value, tuple) else (value,) * len(self.block_out_channels)

    @property
    def layers(self) -> tuple[int, ...]:
        """Residual blocks per level on the way down, finest first."""
        return self._per_level(self.layers_per_block)

    @property
    def depths(self) -> tuple[int, ...]:
        """Transformer layers after each residual block, per level, finest first."""
        return self._per_level(self.transformer_layers_per_block)

    @property
    def heads(self) -> tuple[int, ...]:
        """Attention heads per level, finest first."""
        return self._per_level(self.attention_head_dim)

    @property
    def label_width(self) -> int | None:
        """How many numbers a row of labels has: one per class, or those of the vector; None where it takes none."""
        if self.class_embed_type is not None:
            return self.projection_class_embeddings_input_dim
        return self.num_class_embeds

    def attends(self, level: int) -> bool:
        """Whether any transformer works at this level (0 is the finest; the coarsest always has the middle one)."""
        last = len(self.block_out_channels) - 1
        kinds = (self.down_block_types[level], self.up_block_types[last - level])
        return level == last or any(kind.startswith("CrossAttn") for kind in kinds)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> UNetConfig:
        """Reads a diffusers config.json.

        Raises:
            ValueError: a setting is unknown or not supported.
        """
        return cls(**read_fields(cls, values, _DIALECT))

    def to_dict(self) -> dict[str, Any]:
        """Returns a config.json that diffusers opens as UNet2DConditionModel."""
        own = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}
        return (
            {"_class_name": "UNet2DConditionModel"}
            | own
            | {key: settings[0] for key, settings in _DIALECT.fixed.items()}
        )
