"""The networks of a model with the LoRAs of whichever run is being computed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from torch import Tensor, nn

from wordbrush.runtime.offload import Offload
from wordbrush.runtime.policy import Runtime
from wordbrush.runtime.runners import PackedRunner, Runner, Told, runner_of
from wordbrush.runtime.text_attention import Watch

if TYPE_CHECKING:
    from wordbrush.formats.lora import Attached, LoraUse, Match

Uses = tuple["LoraUse", ...]

# Bytes of a network that denoises from which on a packed copy of its weights takes the place of the plain ones.
LARGE = 256 << 20


class Adapted:
    """Puts LoRAs on a model's networks when a run needs them, and takes them off when another does not.

    Two runs may take turns, each with LoRAs of its own: whichever computes a step gets its weights first. A runner that
    works on copies of the weights is made once for a run and needs no turns.

    The copy that runs without LoRAs is made when it is first needed. If the network is large, the copy takes the
    weights over, and gives them back when LoRAs are to be put on them.

    Args:
        networks: by their names in model_index.json, in their places already.
        denoiser: the one of them that denoises.
        runtime: where and in which number format they are.
        offload: what moves their weights, if something does.
    """

    def __init__(
        self, networks: Mapping[str, nn.Module], denoiser: nn.Module, runtime: Runtime, offload: Offload | None = None
    ) -> None:
        self._networks = dict(networks)
        self._denoiser, self._runtime, self._offload = denoiser, runtime, offload
        self._large = sum(parameter.nbytes for parameter in denoiser.parameters()) >= LARGE
        self._plain: Runner | None = None
        self._uses: Uses = ()
        self._attached: Attached | None = None

    def use(self, uses: Uses) -> Sequence[Match]:
        """Makes these the LoRAs on the networks; () takes all off. Returns how much of each found its place.

        Raises:
            ModelFileError: a LoRA does not fit the model; then none is on the networks.
            RequestError: a strength is too large for the number format.
        """
        if uses != self._uses:
            if self._offload is not None:
                self._offload.clear()
            if self._attached is not None:
                self._attached.detach()
            self._attached, self._uses = None, ()
            if uses:
                from wordbrush.formats.lora import attach

                self._give_back()
                self._attached = attach(self._networks, uses)
            self._uses = uses
        return () if self._attached is None else self._attached.matched

    def match(self, uses: Uses) -> Sequence[Match]:
        """How much of each of these LoRAs fits the networks, without putting them on.

        Raises:
            ModelFileError: a LoRA does not fit the model.
        """
        if not uses:
            return ()
        from wordbrush.formats.lora import match

        return match(self._networks, uses)

    def restore(self) -> None:
        """Makes the networks what they were when they were read: without LoRAs, and with all their weights."""
        self.use(())
        self._give_back()
        if self._offload is not None:
            self._offload.clear()

    def runner(self, uses: Uses) -> Runner:
        """The network that denoises, with these LoRAs, which are on the networks when this returns."""
        self.use(uses)
        if uses and self._runtime.packs(self._denoiser):
            return runner_of(self._denoiser, self._runtime)
        if self._plain is None:
            self._plain = runner_of(self._denoiser, self._runtime, take=self._large)
        return self._plain if self._plain.copies else _TakingTurns(self._plain, self, uses)

    def _give_back(self) -> None:
        if self._large and isinstance(self._plain, PackedRunner):
            self._plain.unet.give_back()
            self._plain = None


class _TakingTurns:
    """A runner on the networks' own weights, which asks for its LoRAs before every call."""

    copies = False

    def __init__(self, runner: Runner, adapted: Adapted, uses: Uses) -> None:
        self.alone, self.single, self.apart = runner.alone, runner.single, runner.apart
        self._runner, self._adapted, self._uses = runner, adapted, uses

    def told(self, context: Tensor, pooled: Tensor | None, time_ids: Tensor | None) -> Told:
        self._adapted.use(self._uses)
        return self._runner.told(context, pooled, time_ids)

    def __call__(self, x: Tensor, timestep: float, told: Told, *, copies: int, guidance: float | None) -> Tensor:
        self._adapted.use(self._uses)
        return self._runner(x, timestep, told, copies=copies, guidance=guidance)

    def watched(self, watch: Watch) -> AbstractContextManager[None]:
        return self._runner.watched(watch)

