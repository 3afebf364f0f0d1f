"""Files of upscalers: our own folders, and the weights people have: ESRGAN, Real-ESRGAN, its compact networks.

Which network a file is for is told by the names and shapes of its tensors, never by its name. RRDBNets come with three
sets of names: those of Real-ESRGAN, which are ours too, and those of ESRGAN before and after May 2019.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path

from torch import Tensor, nn

from wordbrush.errors import ModelFileError
from wordbrush.formats.weight_files import find_weights
from wordbrush.formats.weights import fill, listed, read_weights, without_weights
from wordbrush.networks.rrdbnet import RRDBNet, RRDBNetConfig
from wordbrush.networks.srresnet import SRResNet, SRResNetConfig
from wordbrush.networks.srvgg import SRVGG, SRVGGConfig

UpscalerNetwork = SRResNet | RRDBNet | SRVGG

SHIPPED_SCALES = (2, 4)
"""Of the upscalers that come with the package."""

_REMEDY = "ESRGAN, Real-ESRGAN and its compact networks are read here"

# ESRGAN's names after May 2019 -> Real-ESRGAN's.
_RENAMED = (
    (re.compile(r"^RRDB_trunk\."), "body."),
    (re.compile(r"\.RDB(\d)\."), r".rdb\1."),
    (re.compile(r"^trunk_conv\."), "conv_body."),
    (re.compile(r"^upconv(\d)\."), r"conv_up\1."),
    (re.compile(r"^HRconv\."), "conv_hr."),
)
_OLD_DENSE = re.compile(r"model\.1\.sub\.(\d+)\.RDB(\d)\.conv(\d)\.0\.(weight|bias)")
_OLD_TRUNK = re.compile(r"model\.1\.sub\.(\d+)\.(weight|bias)")
_OLD_LAYER = re.compile(r"model\.(\d+)\.(weight|bias)")


def shipped_upscaler(scale: int) -> Path:
    """The folder of the upscaler of this scale that comes with the package."""
    return Path(str(files("wordbrush"))) / "models" / f"upscaler-x{scale}"


def read_upscaler(path: Path) -> UpscalerNetwork:
    """The network of a file or of one of our folders, in the number format it is stored in, on the CPU.

    Raises:
        ModelFileError: it is damaged, no upscaler, or one of a network that is not read here.
    """
    if path.is_dir():
        return _read_folder(path)
    tensors = _unwrapped(read_weights([path]))
    network: UpscalerNetwork
    try:
        if "body.1.weight" in tensors and tensors["body.1.weight"].ndim == 1:
            compact = _compact_config(tensors)
            network = without_weights(lambda: SRVGG(compact))
        else:
            tensors = _named_as_here(tensors)
            dense = _dense_config(tensors)
            network = without_weights(lambda: RRDBNet(dense))
    except (KeyError, IndexError, ValueError) as error:
        raise ModelFileError(f"{path} is no upscaler that is known here ({error}); {_REMEDY}") from error
    _check(network, tensors, path)
    return fill(network, tensors, path)


def _read_folder(folder: Path) -> SRResNet:
    try:
        config = SRResNetConfig.from_dict(json.loads((folder / "config.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ModelFileError(f"{folder} is no folder of an upscaler: {error}") from error
    tensors = read_weights(find_weights(folder, "model"))
    network = without_weights(lambda: SRResNet(config))
    _check(network, tensors, folder)
    return fill(network, tensors, folder)


def _check(network: nn.Module, tensors: Mapping[str, Tensor], source: Path) -> None:
    wanted = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    for problem, names in (
        ("lacks", [name for name in wanted if name not in tensors]),
        ("holds unexpected", [name for name in tensors if name not in wanted]),
        ("has other shapes in", [name for name in wanted if name in tensors and tensors[name].shape != wanted[name]]),
    ):
        if names:
            what = type(network).__name__
            raise ModelFileError(f"{source} looks like a {what} but {problem} {listed(names)}; {_REMEDY}")


def _unwrapped(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The network's own names: without those of the dict around it, the average of the weights where there is one."""
    for prefix in ("params_ema.", "params.", "module."):
        found = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
        if found:
            return _unwrapped(found)
    return dict(tensors)


def _compact_config(tensors: Mapping[str, Tensor]) -> SRVGGConfig:
    last = max(int(match[1]) for name in tensors if (match := re.fullmatch(r"body\.(\d+)\.weight", name)))
    first, final = tensors["body.0.weight"], tensors[f"body.{last}.weight"]
    scale = round((final.shape[0] / 3) ** 0.5)
    if first.shape[1] != 3 or last % 2 or 3 * scale**2 != final.shape[0]:
        raise ValueError(f"its last layer has {final.shape[0]} channels, its first sees {first.shape[1]}")
    return SRVGGConfig(features=first.shape[0], convolutions=last // 2 - 1, scale=scale)


def _dense_config(tensors: Mapping[str, Tensor]) -> RRDBNetConfig:
    blocks = {int(match[1]) for name in tensors if (match := re.match(r"body\.(\d+)\.rdb1\.", name))}
    if not blocks:
        raise ValueError(f"its tensors are {listed(sorted(tensors)) or 'none'}")
    features, seen = tensors["conv_first.weight"].shape[:2]
    folds = {3: 1, 12: 2, 48: 4}
    if seen not in folds:
        raise ValueError(f"its first layer sees {seen} channels, not 3, 12 or 48")
    return RRDBNetConfig(
        features=features,
        growth=tensors["body.0.rdb1.conv1.weight"].shape[0],
        blocks=max(blocks) + 1,
        doublings=sum(f"conv_up{number}.weight" in tensors for number in range(1, 4)),
        unshuffle=folds[seen],
    )


def _named_as_here(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """An RRDBNet's tensors by Real-ESRGAN's names."""
    if not any(name.startswith("model.") for name in tensors):
        renamed = dict(tensors)
        for pattern, name in _RENAMED:
            renamed = {pattern.sub(name, key): tensor for key, tensor in renamed.items()}
        return renamed
    # Before May 2019 layers are numbered: model.0 first, model.1 the blocks and, last of `sub`, what follows them, then
    # model.N where N skips what has no weights: one convolution for each doubling, and the two at the end.
    layers = sorted({int(match[1]) for name in tensors if (match := _OLD_LAYER.fullmatch(name))})
    if len(layers) < 3:
        raise ValueError(f"of the layers model.N it has {len(layers)}")
    names = {0: "conv_first", layers[-2]: "conv_hr", layers[-1]: "conv_last"}
    names |= {layer: f"conv_up{number}" for number, layer in enumerate(layers[1:-2], 1)}
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if match := _OLD_DENSE.fullmatch(name):
            name = f"body.{match[1]}.rdb{match[2]}.conv{match[3]}.{match[4]}"
        elif match := _OLD_TRUNK.fullmatch(name):
            name = f"conv_body.{match[2]}"
        elif match := _OLD_LAYER.fullmatch(name):
            name = f"{names[int(match[1])]}.{match[2]}"
        found[name] = tensor
    return found
