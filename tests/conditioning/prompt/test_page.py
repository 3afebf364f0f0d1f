"""The examples of docs/prompts.md mean what the page says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from wordbrush.conditioning.prompt.schedule import Template
from wordbrush.conditioning.prompt.syntax import parse

PAGE = Path(__file__).resolve().parents[3] / "docs" / "prompts.md"


def rows(heading: str) -> list[tuple[str, str]]:
    section = PAGE.read_text(encoding="utf-8").partition(f"## {heading}\n")[2].partition("\n## ")[0]
    return re.findall(r"^\| `(.+?)` \| (.+) \|$", section, flags=re.MULTILINE)


@pytest.mark.parametrize(("prompt", "told"), rows("Weights"))
def test_weights(prompt: str, told: str) -> None:
    expected = [(text, float(weight)) for text, weight in re.findall(r"`(.+?)` ([\d.]+)", told)]
    (section,) = parse(prompt)
    assert [(run.text, round(run.weight, 3)) for run in section] == expected


@pytest.mark.parametrize(("prompt", "told"), rows("Changing on the way"))
def test_schedules(prompt: str, told: str) -> None:
    expected = [(int(end), text) for _, end, text in re.findall(r"(\d+)–(\d+) `(.+?)`", told)]
    assert [(segment.end, segment.text) for segment in Template.parse(prompt).segments(10)] == expected
