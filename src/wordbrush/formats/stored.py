"""A network's weights as they were stored, for writing a model back without loss."""

from __future__ import annotations

import contextlib

from torch import Tensor, nn

from wordbrush.errors import ModelFileError
from wordbrush.formats.diffusers_folder.networks import class_of, stored_tensors
from wordbrush.formats.parts import ModelParts


def stored_weights(parts: ModelParts, part: str, network: nn.Module) -> dict[str, Tensor]:
    """The network's tensors, in the number format they were read in as long as nothing has changed them.

    A model opened in bfloat16 from a float16 folder or file is so written back without loss.
    """
    stored: dict[str, Tensor] = {}
    with contextlib.suppress(ModelFileError):  # what it came from may be gone by now
        stored = _stored(parts, part, network)
    result = {}
    for name, tensor in network.state_dict().items():
        before = stored.get(name)
        unchanged = (
            before is not None
            and before.shape == tensor.shape
            and (before.data_ptr() == tensor.data_ptr() or before.to(tensor.dtype).equal(tensor.cpu()))
        )
        result[name] = before if before is not None and unchanged else tensor
    return result


def scaled_weights(parts: ModelParts, part: str, dialect: str) -> dict[str, Tensor]:
    """The 8-bit weights of a part that its file holds with scales, those scales and what else runs them in 8 bits.

    By their names in the file without the prefix; none if the file spells them in another dialect than the one asked
    for, and without weights that have been changed since.
    """
    if parts.source is None or not parts.source.is_file():
        return {}
    from wordbrush.formats.single_file.read import scaled_part

    state = parts.networks[part].state_dict()
    kept: dict[str, Tensor] = {}
    with contextlib.suppress(ModelFileError):  # as above
        for own, stored in scaled_part(parts.source, part, dialect):
            if all(tensor.to(state[name].dtype).equal(state[name].cpu()) for name, tensor in own.items()):
                kept |= stored
    return kept


def _stored(parts: ModelParts, part: str, network: nn.Module) -> dict[str, Tensor]:
    if parts.source is None:
        return {}
    if parts.source.is_dir():
        return stored_tensors(parts.source / part, class_of(network), parts.variant)
    from wordbrush.formats.single_file.read import stored_part

    return stored_part(parts.source, part)
