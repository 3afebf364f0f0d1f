"""A scheduler_config.json of a scheduler that is not known here."""

from __future__ import annotations

import pytest

from wordbrush.diffusion.process import BetaConfig, RectifiedFlow
from wordbrush.formats.schedulers import sampling_of

BETAS = {"num_train_timesteps": 500, "beta_schedule": "linear", "beta_start": 0.001, "beta_end": 0.02}


def test_a_known_one_is_read_without_a_note() -> None:
    read, note = sampling_of({"_class_name": "DDIMScheduler", **BETAS}, "sd1")
    assert (read.sampler, note) == ("ddim", None)


@pytest.mark.parametrize(("family", "sampler"), [("sd1", "pndm"), ("sd2", "ddim"), ("sdxl", "euler")])
def test_of_an_unknown_one_the_process_counts(family: str, sampler: str) -> None:
    config = {"_class_name": "DDIMParallelScheduler", "prediction_type": "v_prediction", "solver_order": 3, **BETAS}
    read, note = sampling_of(config, family)
    assert (read.sampler, read.prediction) == (sampler, "v")
    assert read.noise == BetaConfig(num_train_timesteps=500, beta_schedule="linear", beta_start=0.001, beta_end=0.02)
    assert note is not None
    assert "DDIMParallelScheduler" in note


def test_of_a_flow_the_shift_counts() -> None:
    for option in ({"shift": 2.5}, {"use_flow_sigmas": True, "flow_shift": 2.5}):
        config = {"_class_name": "FlowMatchOddScheduler", "use_dynamic_shifting": False, **option}
        read, note = sampling_of(config, "flux-dev")
        assert (read.sampler, read.prediction, read.noise) == ("euler", "flow", RectifiedFlow(shift=2.5))
        assert note is not None


@pytest.mark.parametrize(
    ("config", "family"),
    [
        ({"_class_name": "EDMEulerScheduler", "sigma_data": 0.5}, "sdxl"),
        ({"_class_name": "FlowMatchOddScheduler", "shift": 3.0}, "sd1"),
        ({"_class_name": "TCDScheduler", **BETAS}, "flux-dev"),
        ({"_class_name": "Odd", **BETAS}, "sd1"),
        (BETAS, "sd1"),
    ],
)
def test_one_of_another_process_is_refused(config: dict[str, object], family: str) -> None:
    with pytest.raises(ValueError, match="is unknown; there are DDPMScheduler"):
        sampling_of(config, family)
