"""The parts of a model that its file lacks, or that were given in their place: from other files and folders."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from torch import nn

from wordbrush.errors import ModelFileError
from wordbrush.formats.checkpoint import open_checkpoint
from wordbrush.formats.diffusers_folder.networks import read_network
from wordbrush.formats.json_file import read_json
from wordbrush.formats.single_file.components import component_of
from wordbrush.formats.single_file.configs import TEXT_ENCODERS
from wordbrush.formats.single_file.contents import check_nothing_else, class_name, content_of, with_weights
from wordbrush.formats.single_file.detect import detect
from wordbrush.formats.single_file.shapes import UnknownShape
from wordbrush.formats.weight_files import PICKLED, SAFETENSORS
from wordbrush.formats.weights import without_weights
from wordbrush.networks.tiny_vae import Autoencoder, TinyAutoencoder
from wordbrush.networks.vae import AutoencoderKL
from wordbrush.runtime.policy import Runtime


def read_vae(path: Path, family: str, runtime: Runtime | None = None) -> Autoencoder:
    """The autoencoder in a file or folder, for a model of that family, which decides the scale of its latents.

    A tiny autoencoder is often shared as two files, `…decoder…` and `…encoder…`: either means both, if both are there.

    Raises:
        ModelFileError: there is no such file, or it is damaged, or holds no autoencoder that decodes.
    """
    network = read_part(path, family, "vae", runtime)
    assert isinstance(network, AutoencoderKL | TinyAutoencoder)
    if isinstance(network, AutoencoderKL) or None not in (network.encoder, network.decoder):
        return network
    held, lacking = ("encoder", "decoder") if network.decoder is None else ("decoder", "encoder")
    beside = _other_half(path, held, lacking)
    if beside is not None:
        other = read_part(beside, family, "vae", runtime)
        if isinstance(other, TinyAutoencoder) and getattr(other, lacking) is not None:
            return _joined(path, network, beside, other, lacking)
    if network.decoder is None:
        raise ModelFileError(
            f"{path} holds only the encoder of a tiny autoencoder; put its decoder beside it (taesd_decoder beside "
            "taesd_encoder), or give a VAE that has one"
        )
    return network


def _other_half(path: Path, held: str, lacking: str) -> Path | None:
    """The file of the other half of a tiny autoencoder, beside the given one and called alike."""
    if path.is_dir() or held not in path.stem:
        return None
    stem = path.stem.replace(held, lacking)
    names = [stem + ending for ending in dict.fromkeys((path.suffix, *SAFETENSORS, *PICKLED))]
    return next((path.with_name(name) for name in names if path.with_name(name).is_file()), None)


def _joined(path: Path, network: TinyAutoencoder, beside: Path, other: TinyAutoencoder, half: str) -> TinyAutoencoder:
    """The tiny autoencoder with its missing half from another one."""
    theirs = asdict(other.config)
    channels = "in_channels" if half == "encoder" else "out_channels"
    names = (f"{half}_block_out_channels", f"num_{half}_blocks", channels)
    try:
        config = replace(network.config, **{name: theirs[name] for name in names})
        if config.latent_channels != other.config.latent_channels:
            raise ValueError(f"{config.latent_channels} and {other.config.latent_channels} latent channels")
    except ValueError as error:
        raise ModelFileError(
            f"{path} and {beside} are called like halves of one tiny autoencoder and are not: {error}; move one away"
        ) from error
    whole = without_weights(lambda: TinyAutoencoder(config))
    for source in (network, other):
        for name in ("encoder", "decoder"):
            if getattr(source, name) is not None and (source is network or name == half):
                setattr(whole, name, getattr(source, name))
    return whole


def missing_networks(
    path: Path,
    family: str,
    present: Collection[str],
    vae: Path | None,
    text_encoders: Sequence[Path],
    runtime: Runtime | None = None,
) -> dict[str, nn.Module]:
    """The networks that the file of a model lacks, from where the caller says.

    Args:
        path: the model's file, for messages.
        present: the parts that it has.
        vae, text_encoders: files or folders.
        runtime: where the model will run, as in `fill`.

    Raises:
        ModelFileError: one of them is missing, or what was given for it is not it.
    """
    found: dict[str, nn.Module] = {}
    if "vae" not in present:
        if vae is None:
            raise ModelFileError(f"{path} holds no autoencoder; give one beside it, a file or folder, as its VAE")
        found["vae"] = read_vae(vae, family, runtime)
    missing = [part for part in TEXT_ENCODERS[family] if part not in present]
    assigned = _assigned(family, missing, text_encoders)
    found |= {part: read_part(place, family, part, runtime) for part, place in assigned}
    still = " and no ".join(_called(family, part) for part in missing if part not in found)
    if still:
        raise ModelFileError(f"{path} holds no {still}; give beside it the files or folders of its text encoders")
    return found


def read_part(path: Path, family: str, part: str, runtime: Runtime | None = None) -> nn.Module:
    """One network from a file that holds it, alone or in a model, or from a folder.

    runtime: where it will run, as in `fill`.

    Raises:
        ModelFileError: there is no such file, or it is damaged, or holds no such network.
    """
    if path.is_dir():
        place = path / part if (path / part / "config.json").is_file() else path
        return read_network(place, class_name(part, t5=_has_t5(family)), runtime=runtime)
    checkpoint = open_checkpoint(path)
    shapes = {name: info.shape for name, info in checkpoint.header.tensors.items()}
    try:
        component = component_of(shapes, family, part)
    except UnknownShape as error:
        raise ModelFileError(f"{path} holds {error}") from error
    found = detect(checkpoint.header)
    if component is None:
        raise ModelFileError(f"{path} is {found.what}; it holds no {_called(family, part)}")
    content = content_of(checkpoint, component)
    if found.family is None:
        check_nothing_else(checkpoint, [content])
    return with_weights(checkpoint, content, runtime)


def _has_t5(family: str) -> bool:
    return family.startswith("flux")


def _called(family: str, part: str) -> str:
    if part == "vae":
        return "autoencoder"
    if part == "text_encoder":
        return "text encoder OpenCLIP-H" if family == "sd2" else "text encoder CLIP-L"
    return "text encoder T5-XXL" if _has_t5(family) else "text encoder OpenCLIP-bigG"


def _assigned(family: str, missing: Sequence[str], places: Sequence[Path]) -> Iterator[tuple[str, Path]]:
    """Which of the given files or folders is which of the missing text encoders."""
    if len(missing) == 2 and len(places) == 2 and not _has_t5(family):
        yield from zip(missing, sorted(places, key=_width), strict=True)  # of two CLIPs the wider one is the second
        return
    for part in missing:
        t5 = _has_t5(family) and part == "text_encoder_2"
        place = next((place for place in places if _may_be(place, part, t5=t5)), None)
        if place is not None:
            yield part, place


def _may_be(place: Path, part: str, *, t5: bool) -> bool:
    """Whether a file or folder holds a T5, or a CLIP; a folder of a whole model may be any part it has."""
    if (place / part / "config.json").is_file():
        return True
    if place.is_dir():
        return (read_json(place / "config.json").get("model_type") == "t5") == t5
    return any("SelfAttention" in name for name in open_checkpoint(place).header.tensors) == t5


def _width(place: Path) -> int:
    """The width of a CLIP."""
    if place.is_dir():
        return int(read_json(place / "config.json").get("hidden_size", 0))
    tensors = open_checkpoint(place).header.tensors
    return next((info.shape[-1] for name, info in tensors.items() if "token_embedding" in name and info.shape), 0)
