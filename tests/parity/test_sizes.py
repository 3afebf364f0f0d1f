"""The table of full-size networks against diffusers and transformers: the same names and shapes, without memory."""

from typing import Any

import pytest
import torch
from tests.networks.checks import count_parameters, without_memory
from tests.networks.test_sizes import SIZES
from torch import nn

from wordbrush.networks.clip_config import CLIPTextConfig
from wordbrush.networks.t5 import T5Config, encoder_state

diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")


def _reference(config: Any, network: nn.Module) -> nn.Module:
    """The network that the library makes of the config.json we write."""
    if isinstance(config, T5Config):
        return transformers.T5EncoderModel(transformers.T5Config(**config.to_dict()))
    if isinstance(config, CLIPTextConfig):
        values = network.to_dict()
        return getattr(transformers, values["architectures"][0])(transformers.CLIPTextConfig(**values))
    values = config.to_dict()
    return getattr(diffusers, values["_class_name"]).from_config(values)


def _state(config: Any, network: nn.Module) -> dict[str, torch.Tensor]:
    """The reference's weights by the names its files have."""
    state = network.state_dict()
    if isinstance(config, T5Config):
        return encoder_state(state)
    if isinstance(config, CLIPTextConfig):  # transformers 5 leaves out a prefix in memory
        return {key if key.startswith("text_") else f"text_model.{key}": value for key, value in state.items()}
    return state


@pytest.mark.parametrize("name", SIZES)
def test_the_reference_has_the_same_weights(name: str) -> None:
    make, config, count = SIZES[name]
    ours = without_memory(lambda: make(config))
    theirs = without_memory(lambda: _reference(config, ours))
    assert count_parameters(theirs) == count
    shapes = {key: value.shape for key, value in ours.state_dict().items()}
    assert shapes == {key: value.shape for key, value in _state(config, theirs).items()}
