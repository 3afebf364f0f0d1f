"""One adapter: a low-rank change of a linear layer or a convolution, added to its output.

    LoRA   y = W x + s · B A x                             (Hu 2021, eq. 3), s = alpha / r or alpha / √r
    DoRA   y = m · (W x + s · B A x) / ‖W + s · B A‖       (Liu 2024, eq. 5), a length per output

The norm is held constant (§4.3): it gets no gradient. A bias of the layer is outside all of it. A is drawn as a layer
of its own would be, B is zero, m the length of W's rows: an adapter changes nothing until it has learnt something.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wordbrush.formats.lora.trained import TrainedLayer, scale_of

Layer = nn.Linear | nn.Conv2d


class LowRankAdapter(nn.Module):
    """What is learnt of one layer; called with the layer's input and output, it returns what the output becomes.

    Attributes:
        down: A, (r, in) or (r, in, kh, kw), float32.
        up: B, (out, r) or (out, r, 1, 1), float32.
        magnitude: m, (out,), float32; None without DoRA.
        active: whether it acts; otherwise outputs stay as they are.
    """

    magnitude: nn.Parameter | None

    def __init__(
        self,
        layer: Layer,
        generator: torch.Generator,
        *,
        rank: int,
        alpha: float,
        rooted: bool = False,
        dropout: float = 0.0,
        dora: bool = False,
    ) -> None:
        super().__init__()
        weight, kernel = layer.weight, (1,) * (layer.weight.ndim - 2)
        self.alpha, self.rooted, self.dropout = alpha, rooted, dropout
        self.scale = scale_of(alpha, rank, rooted=rooted)
        self.active = True
        bound = weight[0].numel() ** -0.5
        down = torch.empty(rank, *weight.shape[1:]).uniform_(-bound, bound, generator=generator)
        self.down = nn.Parameter(down.to(weight.device))
        self.up = nn.Parameter(torch.zeros(weight.shape[0], rank, *kernel, device=weight.device))
        lengths = torch.linalg.vector_norm(weight.detach().float().flatten(1), dim=1) if dora else None
        self.register_parameter("magnitude", None if lengths is None else nn.Parameter(lengths))

    def forward(self, x: Tensor, out: Tensor, layer: Layer) -> Tensor:
        """x: the layer's input (..., in) or (B, in, H, W); out: its output. Returns the shape and type of `out`."""
        seen = F.dropout(x, self.dropout, self.training) if self.dropout else x
        if not torch.is_autocast_enabled(x.device.type):
            seen = seen.to(self.down.dtype)
        if isinstance(layer, nn.Conv2d):
            inner = F.conv2d(seen, self.down, None, layer.stride, layer.padding, layer.dilation)  # (B, r, H', W')
            change = F.conv2d(inner * self.scale, self.up)
        else:
            change = F.linear(F.linear(seen, self.down) * self.scale, self.up)  # (..., out)
        if self.magnitude is None:
            return out + change.to(out.dtype)
        factor = self.magnitude / self._length(layer.weight)
        bias = layer.bias
        if isinstance(layer, nn.Conv2d):
            factor = factor[:, None, None]
            bias = None if bias is None else bias[:, None, None]
        if self.dropout and self.training:
            plain = self._plain(seen, layer).to(out.dtype)
        else:
            plain = out if bias is None else out - bias.to(out.dtype)
        # 1 is taken off before rounding: in bfloat16, factors within 1/256 of it would all be 1
        return out + (factor - 1).to(out.dtype) * plain + factor.to(out.dtype) * change.to(out.dtype)

    @torch.no_grad()
    def _length(self, weight: Tensor) -> Tensor:
        """‖W + s · B A‖ of every row, (out,) float32."""
        with torch.autocast(weight.device.type, enabled=False):
            up, down = self.up.flatten(1), self.down.flatten(1)
            return torch.linalg.vector_norm(torch.addmm(weight.float().flatten(1), up, down, alpha=self.scale), dim=1)

    def _plain(self, seen: Tensor, layer: Layer) -> Tensor:
        """W x without a bias, of an x that dropout has been over."""
        weight = layer.weight if torch.is_autocast_enabled(seen.device.type) else layer.weight.to(seen.dtype)
        if isinstance(layer, nn.Conv2d):
            return F.conv2d(seen, weight, None, layer.stride, layer.padding, layer.dilation)
        return F.linear(seen, weight)

    def trained(self) -> TrainedLayer:
        """What has been learnt; the tensors are the parameters', detached."""
        return self.trained_from({name: parameter.detach() for name, parameter in self.named_parameters()})

    def trained_from(self, tensors: Mapping[str, Tensor]) -> TrainedLayer:
        """As `trained`, with other values of the parameters."""
        return TrainedLayer(
            down=tensors["down"], up=tensors["up"], alpha=self.alpha, rooted=self.rooted,
            magnitude=tensors.get("magnitude"),
        )  # fmt: skip
