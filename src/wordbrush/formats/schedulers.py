"""How a model wants to be sampled, by its scheduler_config.json, even one that names a scheduler not known here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wordbrush.diffusion.plan import SamplingConfig
from wordbrush.diffusion.scheduler_config import knows_scheduler, read_scheduler_config
from wordbrush.formats.single_file.configs import scheduler_config

# What of a config is the model's and not the sampler's: its noise process, what its network predicts, its timesteps.
_OF_BETAS = (
    "num_train_timesteps", "beta_schedule", "beta_start", "beta_end", "trained_betas", "rescale_betas_zero_snr",
    "prediction_type", "timestep_spacing", "steps_offset", "set_alpha_to_one",
)  # fmt: skip
_OF_FLOWS = (
    "num_train_timesteps", "shift", "use_dynamic_shifting", "base_shift", "max_shift", "base_image_seq_len",
    "max_image_seq_len", "time_shift_type", "shift_terminal",
)  # fmt: skip


def sampling_of(config: Mapping[str, Any], family: str) -> tuple[SamplingConfig, str | None]:
    """What a scheduler_config.json says of a model of that family, and a sentence on what of it is not followed.

    Of a scheduler that no sampler here stands for, such as TCDScheduler, the noise process counts, and the sampler is
    the usual one of the family.

    Raises:
        ValueError: as `read_scheduler_config`; of an unknown scheduler, also that it does not state its process.
    """
    name = config.get("_class_name")
    named = isinstance(name, str) and name.endswith("Scheduler")
    if not named or knows_scheduler(str(name)) or not _states_process(config, family):
        return read_scheduler_config(config, family=family), None
    flow = family.startswith("flux")
    usual = scheduler_config(
        family, variant="base", prediction="flow" if flow else "epsilon", zero_terminal_snr=False
    )
    stated = {option: config[option] for option in (_OF_FLOWS if flow else _OF_BETAS) if option in config}
    if flow and "flow_shift" in config:  # what the solvers that are not for flows alone call it
        stated.setdefault("shift", config["flow_shift"])
    read = read_scheduler_config({**usual, **stated}, family=family)
    note = f"no sampler here stands for the model's {name}, so {read.sampler} is its own; a request can name another"
    return read, note


def _states_process(config: Mapping[str, Any], family: str) -> bool:
    """Whether the options are those of the family's kind of process; those of EDM's schedulers, for one, are not."""
    flow = "shift" in config or bool(config.get("use_flow_sigmas"))
    if family.startswith("flux"):
        return flow and not config.get("invert_sigmas")
    return not flow and ("beta_schedule" in config or config.get("trained_betas") is not None)
