"""An untrained inspector in a folder, as `recipes/inspector.yaml` would leave a trained one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from wordbrush.networks.inspector import Inspector, InspectorConfig
from wordbrush.training.export import write_network
from wordbrush.training.tasks.inspector import vocabulary


@pytest.fixture(scope="session")
def untrained_inspector(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inspector")
    network = Inspector(InspectorConfig(**vocabulary(), widths=(32, 32, 32), depths=(0, 0, 0), neck=32))
    network.initialise(torch.Generator().manual_seed(0))
    write_network(folder, network.config.to_dict(), network.state_dict(), dtype=torch.float16, weights_name="model")
    return folder
