"""How different two pictures look, as a loss: by LPIPS, or by the features of a CLIP's picture tower."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wordbrush.formats.clip_files import ClipFiles, read_clip
from wordbrush.formats.lpips_files import read_lpips
from wordbrush.formats.open import locate_model
from wordbrush.networks.lpips import unit
from wordbrush.training.tasks.recipes import PerceptualRecipe


class CLIPDistance(nn.Module):
    """The distance of patches' features after every layer of a CLIP's picture tower, each scaled to length 1.

    Zhang 2018, eq. 1 with all weights equal, over the patches of a transformer in place of the places of a map; the
    mean over layers of what lies between 0, for equal features, and 4.
    """

    def __init__(self, files: ClipFiles) -> None:
        super().__init__()
        self.tower = files.model.vision_model
        self.mean, self.std = files.mean, files.std

    def forward(self, one: Tensor, other: Tensor) -> Tensor:
        """one, other: (B, 3, H, W) in [-1, 1], of any size: they are brought to the tower's. Returns (B,) float32."""
        layers = zip(self._features(one), self._features(other), strict=True)
        return torch.stack([(unit(a) - unit(b)).square().sum(1).mean(1) for a, b in layers]).mean(0)

    def _features(self, images: Tensor) -> list[Tensor]:
        """(B, D, patches) after each layer, without the class token."""
        side = self.tower.embeddings.size
        if images.shape[2:] != (side, side):
            images = F.interpolate(images, (side, side), mode="bilinear", antialias=True, align_corners=False)
        mean, std = (images.new_tensor(values).view(1, 3, 1, 1) for values in (self.mean, self.std))
        states = self.tower(((images + 1) / 2 - mean) / std).hidden_states[1:]
        return [state[:, 1:].transpose(1, 2) for state in states]


def perceptual_distance(recipe: PerceptualRecipe) -> nn.Module:
    """The network that a recipe names: pairs of pictures (B, 3, H, W) in [-1, 1] to distances (B,).

    Raises:
        ModelFileError: there are no such weights, or they are damaged.
    """
    if recipe.lpips:
        return read_lpips(tuple(Path(name) for name in recipe.lpips))
    return CLIPDistance(read_clip(locate_model(recipe.clip))).eval().requires_grad_(False)
