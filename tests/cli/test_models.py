"""`wordbrush models inspect`."""

from __future__ import annotations

import json
from pathlib import Path

from .conftest import Run


def test_inspect_says_what_a_folder_is(run: Run, tiny_v_folder: Path) -> None:
    content = json.loads(run("models", "inspect", tiny_v_folder, "--json").stdout)
    assert content["prediction_type"] == "v_prediction"
    lines = run("models", "inspect", tiny_v_folder).stdout
    assert "prediction type: v_prediction" in lines
    assert f"parameters: {content['parameters']:,}" in lines


def test_inspect_refuses_what_is_no_model(run: Run, tmp_path: Path) -> None:
    result = run("models", "inspect", tmp_path)
    assert result.exit_code == 2
    assert "model_index.json" in result.stderr
