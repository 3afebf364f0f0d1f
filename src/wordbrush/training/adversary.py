"""A patch discriminator against an autoencoder, in one loss that one backward pass serves (Esser 2021, §3.1).

The textbook has two optimisers and two backward passes, and to weigh the adversary a third and fourth through the
decoder's last layer. The gradients here are the same, with each network passed once: the losses are differentiated
with respect to the decoded pictures, what comes out is weighed and added, and goes on back through the decoder.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.grad import conv2d_weight

from wordbrush.training.gathering import averaged

_LARGEST = 1e4  # as VQGAN's authors bound the weight
_DELTA = 1e-4


def hinge(real: Tensor, fake: Tensor) -> Tensor:
    """The discriminator's loss for its logits of real and decoded pictures (Lim & Ye 2017, eq. 6, halved by VQGAN)."""
    return 0.5 * (F.relu(1 - real).mean() + F.relu(1 + fake).mean())


def adaptive_weight(reconstruction: Tensor, adversary: Tensor) -> Tensor:
    """How much the adversary counts, from both losses' gradients of the decoder's last layer (Esser 2021, eq. 7).

    The paper's constant is 1e-6; this is 1e-4, as in what its authors run, and so is the bound of 10,000.
    """
    return (reconstruction.norm() / (adversary.norm() + _DELTA)).clamp(0, _LARGEST)


@dataclass(frozen=True, kw_only=True)
class Pull:
    """What the losses ask of the decoded pictures.

    Attributes:
        gradient: (B, 3, H, W), of `value` with respect to them.
        value: the loss, without gradient.
        discriminator: its own loss, with gradients of its parameters alone.
        figures: for the log.
    """

    gradient: Tensor
    value: Tensor
    discriminator: Tensor
    figures: dict[str, Tensor]

    def loss(self, decoded: Tensor) -> Tensor:
        """A number equal to value + discriminator whose backward pass gives everybody their gradients."""
        surrogate = (decoded * self.gradient).sum()
        return surrogate - surrogate.detach() + self.value + self.discriminator


def oppose(
    discriminator: nn.Module,
    images: Tensor,
    leaf: Tensor,
    reconstruction: Tensor,
    *,
    last: nn.Conv2d,
    features: Tensor,
    weight: float,
) -> Pull:
    """Weighs the adversary against a loss of reconstruction.

    Args:
        images: (B, 3, H, W), the pictures as they should be.
        leaf: (B, 3, H, W), the decoded pictures, detached and with gradient.
        reconstruction: the mean loss computed from `leaf`.
        last: the decoder's last layer, a convolution of stride 1 that made the pictures.
        features: (B, C, H, W), what it made them from.
        weight: what the adaptive weight is multiplied by.
    """
    (of_reconstruction,) = torch.autograd.grad(reconstruction, leaf)
    fake = discriminator(leaf).float()
    adversary = -fake.mean()
    # only with respect to the pictures, so nothing of this reaches the discriminator's parameters
    (of_adversary,) = torch.autograd.grad(adversary, leaf, retain_graph=True)
    # the gradients of a mean over all processes' rows are the means of theirs
    both = [averaged(_of_weights(last, features, gradient)) for gradient in (of_reconstruction, of_adversary)]
    weight_now = weight * adaptive_weight(*both)
    own = hinge(discriminator(images).float(), fake)
    return Pull(
        gradient=of_reconstruction + weight_now * of_adversary,
        value=(reconstruction + weight_now * adversary).detach(),
        discriminator=own,
        figures={"adversary": adversary.detach(), "adversary_weight": weight_now, "hinge": own.detach()},
    )


def untouched(module: nn.Module) -> Tensor:
    """0, with a gradient of zero for every parameter: data-parallel training waits for each of them every step."""
    return torch.stack([0.0 * parameter.sum() for parameter in module.parameters()]).sum()


@torch.no_grad()
def _of_weights(last: nn.Conv2d, features: Tensor, gradient: Tensor) -> Tensor:
    """The gradient of the last layer's weights, given that of what it gives."""
    padding = last.padding if not isinstance(last.padding, str) else 0
    return conv2d_weight(features.float(), last.weight.shape, gradient.float(), padding=padding)
