"""What files say of themselves: licence, author, training. Taken over as it is written, never believed for loading."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

# The licences under which the published models of a family stand, and with them what is made from those.
FAMILY_LICENCES = {
    "sd1": "CreativeML OpenRAIL-M",
    "sd2": "CreativeML Open RAIL++-M",
    "sdxl": "CreativeML Open RAIL++-M",
    "sdxl-refiner": "CreativeML Open RAIL++-M",
    "flux": "FLUX.1 [dev] Non-Commercial or Apache-2.0 (schnell)",
    "flux-dev": "FLUX.1 [dev] Non-Commercial",
    "flux-schnell": "Apache-2.0",
}

_MODELSPEC = (
    "title", "author", "description", "architecture", "resolution", "date", "trigger_phrase", "usage_hint", "tags",
    "merged_from",
)  # fmt: skip
_TRAINING = (
    "ss_output_name", "ss_base_model_version", "ss_sd_model_name", "ss_sd_model_hash", "ss_network_module",
    "ss_network_dim", "ss_network_alpha", "ss_network_args", "ss_resolution", "ss_num_train_images", "ss_num_epochs",
    "ss_epoch", "ss_max_train_steps", "ss_steps", "ss_batch_size_per_device", "ss_learning_rate", "ss_unet_lr",
    "ss_text_encoder_lr", "ss_optimizer", "ss_lr_scheduler", "ss_mixed_precision", "ss_clip_skip", "ss_noise_offset",
    "ss_min_snr_gamma", "ss_seed", "ss_training_comment",
)  # fmt: skip
_MOST_TAGS = 10


def licence_of(metadata: Mapping[str, str]) -> str | None:
    """The licence that a file states."""
    return metadata.get("modelspec.license") or metadata.get("license")


def family_licence(family: str | None) -> str | None:
    """What to say of a model that states no licence: that of the published models it must have been made from."""
    usual = FAMILY_LICENCES.get(family or "")
    return None if usual is None else f"not stated; that of the family is {usual}"


def model_card(metadata: Mapping[str, str]) -> dict[str, str]:
    """Title, author and the like of a file that follows the ModelSpec."""
    return {name: metadata[f"modelspec.{name}"] for name in _MODELSPEC if metadata.get(f"modelspec.{name}")}


def training_of(metadata: Mapping[str, str]) -> dict[str, str]:
    """How kohya's scripts trained a file: the settings by their names without `ss_`, and the tags it saw most."""
    given = {name: metadata[name] for name in _TRAINING if metadata.get(name) not in (None, "None")}
    stated = {name.removeprefix("ss_"): value for name, value in given.items()}
    tags = _frequent_tags(metadata.get("ss_tag_frequency", "{}"))
    return stated | ({"most_frequent_tags": ", ".join(tags)} if tags else {})


def _frequent_tags(text: str) -> list[str]:
    counts: Counter[str] = Counter()
    try:
        for tags in json.loads(text).values():  # by folder of pictures
            counts.update({str(tag).strip(): int(count) for tag, count in tags.items()})
    except (ValueError, TypeError, AttributeError, RecursionError):
        return []
    return [tag for tag, _ in counts.most_common(_MOST_TAGS)]


def card_licence(folder: Path) -> str | None:
    """The licence in the heading of a folder's README.md, as the hub's model cards have it."""
    try:
        text = (folder / "README.md").read_text(encoding="utf-8")
    except (OSError, ValueError):
        return None
    heading = re.match(r"---\s*\n(.*?)\n---\s*(?:\n|$)", text, flags=re.DOTALL)
    if heading is None:
        return None
    found = dict(re.findall(r"^(license(?:_name)?):\s*['\"]?([^'\"\n#]+?)['\"]?\s*$", heading[1], flags=re.MULTILINE))
    return found.get("license_name") or found.get("license")
