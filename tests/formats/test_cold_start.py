"""Opening a model and painting loads only what that needs: the first picture waits for every import."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import wordbrush

SLOW = ("torch._dynamo", "sympy", "huggingface_hub", "rich", "scipy", "pandas", "transformers", "diffusers", "yaml")


def test_a_picture_needs_none_of_the_slow_imports(tiny_v_folder: Path) -> None:
    program = (
        "import sys, wordbrush\n"
        f"wordbrush.load({str(tiny_v_folder)!r})('a fox', seed=1, steps=1)\n"
        f"print([name for name in {SLOW!r} if name in sys.modules])\n"
    )
    home = Path(wordbrush.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(home)}
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"
