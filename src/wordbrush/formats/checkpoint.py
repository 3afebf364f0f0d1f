"""A file of weights, whichever of its two forms it has; which one is told by its content, not by its name."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from wordbrush.errors import ModelFileError
from wordbrush.formats.pickles import read_pickled_header, read_pickled_tensors
from wordbrush.formats.safetensors_file import Header, foreign, read_header
from wordbrush.formats.weight_files import PICKLED

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A checked file; none of its weights has been read.

    Attributes:
        pickled: whether torch.save wrote it; otherwise it is a .safetensors file.
    """

    path: Path
    header: Header
    pickled: bool

    def tensors(self, names: Collection[str]) -> dict[str, Tensor]:
        """Some of its tensors, memory-mapped."""
        if self.pickled:
            return read_pickled_tensors(self.path, names)
        from wordbrush.formats.mapped_file import map_tensors  # needs torch, which describing a file does without

        return map_tensors(self.path, {name: self.header.tensors[name] for name in names})


def open_checkpoint(path: Path) -> Checkpoint:
    """Opens a .safetensors file or a file that torch.save wrote (never executed).

    Raises:
        ModelFileError: the file is missing, damaged, or of another form.
    """
    try:
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise ModelFileError(f"{path} is a device or a pipe; name a file")  # to open it could wait for ever
        with path.open("rb") as file:
            start = file.read(9)
    except FileNotFoundError as error:
        raise ModelFileError(f"there is no file {path}") from error
    except OSError as error:
        raise ModelFileError(f"{path} cannot be read: {error.strerror or error}") from error
    # The length of a .safetensors file's header, in eight bytes, of which the last four are 0, and then the header. Its
    # first bytes alone can be those of a pickle: one length in two thousand is.
    safetensors = start[4:] == b"\0\0\0\0{"
    pickle = start[:4] == b"PK\x03\x04" or start[:2] in (b"\x80\2", b"\x80\3", b"\x80\4", b"\x80\5")
    pickled = pickle and not safetensors
    if not pickled and start[8:] != b"{":  # where the header of a .safetensors file begins
        if what := foreign(start):
            raise ModelFileError(f"{path} {what}")
        if path.suffix.lower() in PICKLED:
            raise ModelFileError(f"{path} is not a file that torch.save wrote; get it again from where it came from")
    header = read_pickled_header(path) if pickled else read_header(path)
    return Checkpoint(path=path, header=header, pickled=pickled)
