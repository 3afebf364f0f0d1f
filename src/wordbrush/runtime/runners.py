"""The networks that denoise, each behind the same call, and what they are told beside the latents and the time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from wordbrush.networks.flux import FluxTransformer, image_positions, pack_latents, text_positions, unpack_latents
from wordbrush.networks.flux_blocks import JointAttention, SelfAttention
from wordbrush.networks.unet import AddedConditioning, PreparedContext, UNet, guidance_embedding, with_time_band
from wordbrush.runtime.packed_unet import PackedUNet
from wordbrush.runtime.packing import PackedCrossAttention
from wordbrush.runtime.policy import Runtime
from wordbrush.runtime.text_attention import Watch

# FLUX tells time in [0, 1]; its training timesteps count to this.
_FLUX_TIMESTEPS = 1000.0


@dataclass(frozen=True, kw_only=True)
class Told:
    """What a network is told of a text: B rows, or one that serves any batch.

    Attributes:
        context: keys and values of every cross-attention of a U-Net, or the embeddings (B, L, D) that FLUX reads.
        pooled: (B, P), the text as one vector, or shares of classes; None for networks that want none.
        time_ids: (B, 5 or 6), the numbers beside it (Stable Diffusion XL).
    """

    context: PreparedContext | Tensor
    pooled: Tensor | None = None
    time_ids: Tensor | None = None

    @staticmethod
    def joined(rows: Sequence[Told]) -> Told:
        """All rows, one after the other; their contexts must have one length."""
        if len(rows) == 1:
            return rows[0]
        contexts = [row.context for row in rows]
        return Told(
            context=_joined_contexts(contexts),
            pooled=_joined([row.pooled for row in rows]),
            time_ids=_joined([row.time_ids for row in rows]),
        )


def _joined(tensors: Sequence[Tensor | None]) -> Tensor | None:
    present = [tensor for tensor in tensors if tensor is not None]
    return torch.cat(present) if present else None


def _joined_contexts(contexts: Sequence[PreparedContext | Tensor]) -> PreparedContext | Tensor:
    plain = [context for context in contexts if isinstance(context, Tensor)]
    if plain:
        return torch.cat(plain)
    prepared = [context.pairs for context in contexts if isinstance(context, PreparedContext)]
    layers = zip(*prepared, strict=True)
    pairs = tuple((torch.cat([key for key, _ in rows]), torch.cat([value for _, value in rows])) for rows in layers)
    return PreparedContext(pairs=pairs)


class Runner(Protocol):
    """A network that denoises, as the loop uses it."""

    alone: int
    """How many times to compute a row that stands alone, so that its bits are those it has in a batch."""
    single: bool
    """Whether pictures go through it one by one, so that their bits cannot depend on each other."""
    apart: bool
    """Whether the rows of one picture, too, go through it one by one."""
    copies: bool
    """Whether it works on copies of the network's weights, and so does not follow when those change."""

    def told(self, context: Tensor, pooled: Tensor | None, time_ids: Tensor | None) -> Told:
        """What the network is told of a text whose context is (B, L, D): computed once, not at every step."""
        ...

    def __call__(self, x: Tensor, timestep: float, told: Told, *, copies: int, guidance: float | None) -> Tensor:
        """The prediction (copies * B, C, h, w) for x (B, C', h, w), each row of which is computed with `copies` texts.

        told: of copies * B rows, of which row i goes with row i % B of x; or of one that serves all.
        guidance: the scale that a network distilled with guidance is told.
        """
        ...

    def watched(self, watch: Watch) -> AbstractContextManager[None]:
        """While it lasts, `watch` is told where every layer looks in the text. What is computed stays as it is."""
        ...


def runner_of(network: nn.Module, runtime: Runtime, *, take: bool = False) -> Runner:
    """How to run a network that is on the runtime's device already; on a CPU where it pays, a packed copy.

    take: whether a packed copy takes the weights away from the network, as `PackedUNet` does.
    """
    if isinstance(network, FluxTransformer):
        return FluxRunner(network)
    assert isinstance(network, UNet)
    return PackedRunner(PackedUNet(network, take=take)) if runtime.packs(network) else UNetRunner(network)


class UNetRunner:
    """A plain U-Net, of any family.

    That of Stable Diffusion XL embeds time and text together, a row for each picture, and so do those of classes; such
    small products are added up in an order that hangs on how many rows there are.
    """

    alone = 2
    apart = False
    copies = False

    def __init__(self, unet: UNet) -> None:
        self.unet = unet
        self.single = unet.config.addition_embed_type is not None or unet.config.label_width is not None

    def told(self, context: Tensor, pooled: Tensor | None, time_ids: Tensor | None) -> Told:
        if self.unet.config.addition_embed_type is None and self.unet.config.label_width is None:
            return Told(context=self.unet.prepare_context(context))
        return Told(context=self.unet.prepare_context(context), pooled=pooled, time_ids=time_ids)

    def __call__(self, x: Tensor, timestep: float, told: Told, *, copies: int, guidance: float | None) -> Tensor:
        assert isinstance(told.context, PreparedContext)
        time = torch.tensor([timestep], device=x.device)  # one for all rows: embedded once
        if x.shape[1] + 1 == self.unet.config.in_channels:
            x, time = with_time_band(x, time)
        added = None
        if told.pooled is not None and told.time_ids is not None:
            added = AddedConditioning(text_embeds=told.pooled, time_ids=told.time_ids)
        size = self.unet.config.time_cond_proj_dim
        scale = None
        if size is not None:
            scale = guidance_embedding(torch.tensor([1.0 if guidance is None else guidance], device=x.device), size)
        labels = None if self.unet.config.label_width is None else told.pooled
        x = torch.cat([x] * copies)
        return self.unet(x, time, told.context, added=added, guidance=scale, labels=labels)

    @contextmanager
    def watched(self, watch: Watch) -> Iterator[None]:
        """As in `Runner`."""
        with ExitStack() as hooks:
            for layer in self.unet.transformer_layers():
                looks, index = layer.attn2.looks, layer.index

                def tell(_: Any, inputs: tuple[Any, ...], looks: Any = looks, index: int = index) -> None:
                    watch(index, looks(*inputs).mean(dim=1))

                hooks.enter_context(_hooked(layer.attn2, tell))
            yield


class PackedRunner:
    """A packed copy of a U-Net; what rows of one picture share it computes once."""

    alone = 1
    single = apart = False
    copies = True

    def __init__(self, unet: PackedUNet) -> None:
        self.unet = unet

    def told(self, context: Tensor, pooled: Tensor | None, time_ids: Tensor | None) -> Told:
        del pooled, time_ids  # a packed network takes neither
        return Told(context=self.unet.prepare_context(context))

    def __call__(self, x: Tensor, timestep: float, told: Told, *, copies: int, guidance: float | None) -> Tensor:
        del guidance
        assert isinstance(told.context, PreparedContext)
        if x.shape[1] + 1 == self.unet.config.in_channels:
            x, _ = with_time_band(x, torch.tensor([timestep]))
            x, timestep = x.contiguous(memory_format=torch.channels_last), 0.0
        return self.unet(x, timestep, told.context, copies=copies)

    @contextmanager
    def watched(self, watch: Watch) -> Iterator[None]:
        """As in `Runner`."""
        plain = [layer.cross for layer in self.unet.layers]
        for layer, cross in zip(self.unet.layers, plain, strict=True):
            layer.cross = _WatchedCrossAttention(cross, partial(watch, layer.index))
        try:
            yield
        finally:
            for layer, cross in zip(self.unet.layers, plain, strict=True):
                layer.cross = cross


class _WatchedCrossAttention(PackedCrossAttention):
    """Another one, which tells where it looks."""

    def __init__(self, plain: PackedCrossAttention, tell: Callable[[Tensor], None]) -> None:
        self.__dict__ = dict(vars(plain))  # packed already
        self._tell = tell

    def __call__(self, x: Tensor, shortcut: Tensor, prepared: tuple[Tensor, Tensor]) -> Tensor:
        self._tell(self.looks(x, prepared).mean(dim=1))
        return super().__call__(x, shortcut, prepared)


class FluxRunner:
    """A FLUX transformer, one row of which fills any machine."""

    alone = 1
    single = apart = True
    copies = False

    def __init__(self, transformer: FluxTransformer) -> None:
        self.transformer = transformer
        self._positions = cache(image_positions)

    def told(self, context: Tensor, pooled: Tensor | None, time_ids: Tensor | None) -> Told:
        del time_ids
        dtype = next(self.transformer.parameters()).dtype  # T5 may have another
        return Told(context=context.to(dtype), pooled=None if pooled is None else pooled.to(dtype))

    def __call__(self, x: Tensor, timestep: float, told: Told, *, copies: int, guidance: float | None) -> Tensor:
        assert isinstance(told.context, Tensor)
        assert told.pooled is not None
        height, width = x.shape[2:]
        tokens = self.transformer(
            pack_latents(torch.cat([x] * copies)),
            torch.tensor([timestep / _FLUX_TIMESTEPS], device=x.device),
            told.context,
            pooled=told.pooled,
            positions_image=self._positions(height, width),
            positions_text=text_positions(told.context.shape[1]),
            guidance=self._scale(guidance, x.device),
        )
        return unpack_latents(tokens, height, width)

    @contextmanager
    def watched(self, watch: Watch) -> Iterator[None]:
        """As in `Runner`: of blocks that join text and picture, what the picture's tokens look at in the text."""
        length = 0

        def joint(index: int, module: nn.Module, inputs: tuple[Any, ...]) -> None:
            nonlocal length
            length = inputs[1].shape[1]  # of the text; in the blocks after these it is no longer apart
            watch(index, cast(JointAttention, module).looks(*inputs))

        def single(index: int, module: nn.Module, inputs: tuple[Any, ...]) -> None:
            x, rotation = inputs
            watch(index, cast(SelfAttention, module).looks(x, rotation, length))

        blocks = [(block, joint) for block in self.transformer.transformer_blocks]
        blocks += [(block, single) for block in self.transformer.single_transformer_blocks]
        with ExitStack() as hooks:
            for index, (block, tell) in enumerate(blocks):
                hooks.enter_context(_hooked(cast(nn.Module, block.attn), partial(tell, index)))
            yield

    def _scale(self, guidance: float | None, device: torch.device) -> Tensor | None:
        if not self.transformer.config.guidance_embeds:
            return None
        return torch.tensor([1.0 if guidance is None else guidance], device=device)


@contextmanager
def _hooked(module: nn.Module, before: Callable[[nn.Module, tuple[Any, ...]], None]) -> Iterator[None]:
    """Calls `before` with the module's inputs before each of its calls."""
    handle = module.register_forward_pre_hook(before)
    try:
        yield
    finally:
        handle.remove()
