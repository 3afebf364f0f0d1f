"""Files damaged at random: no crash but a ModelFileError, no hang, no memory beyond the file's size."""

from __future__ import annotations

import json
import random
import resource
import time
from pathlib import Path

import pytest
import torch
from tests.formats.mutants import mutants, no_more_memory_than, shapes_of, sound_header
from tests.formats.single_files import lora, tiny_flux, tiny_unet

from wordbrush.errors import ModelFileError
from wordbrush.formats.checkpoint import open_checkpoint
from wordbrush.formats.pickles import read_pickled_tensors
from wordbrush.formats.single_file.contents import check_nothing_else, content_of
from wordbrush.formats.single_file.detect import detect

MUTANTS = 2400


def test_thousands_of_damaged_headers(tmp_path: Path) -> None:
    own = json.dumps({"configs": {"unet": {"attention_head_dim": 4}}, "scheduler": {"_class_name": "DDIMScheduler"}})
    unet = tiny_unet("sd1", block_out_channels=(32,), down_block_types=("CrossAttnDownBlock2D",),
                     up_block_types=("CrossAttnUpBlock2D",))  # fmt: skip
    bases = [
        sound_header(shapes_of(dict(unet.state_dict())), {"wordbrush": own, "modelspec.resolution": "512x512"}),
        sound_header(shapes_of(dict(tiny_flux(dev=True).state_dict()))),
        sound_header(shapes_of(lora()), {"ss_network_dim": "4"}),
    ]
    path = tmp_path / "mutant.safetensors"
    dice = random.Random(20261120)
    outcomes = {"refused": 0, "detected": 0, "whole": 0}
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number, (start, total) in enumerate(mutants(bases, MUTANTS, dice)):
        with path.open("wb") as file:
            file.write(start)
            file.truncate(total)  # a hole: the tensors' bytes are never looked at
        began = time.process_time()
        with no_more_memory_than(40 * len(start) + 4_000_000 if number % 8 == 0 else None):
            outcomes[_outcome(path, thorough=number % 32 == 0)] += 1
        assert time.process_time() - began < 5.0
    assert sum(outcomes.values()) == MUTANTS
    assert outcomes["detected"] > 100, outcomes
    assert outcomes["whole"] > 0, outcomes
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000, "kilobytes"


def _outcome(path: Path, *, thorough: bool) -> str:
    """How far a file gets; anything but a ModelFileError on the way fails the test."""
    try:
        checkpoint = open_checkpoint(path)
        found = detect(checkpoint.header)
        if found.family is None:
            assert found.what
            return "refused"
        if thorough:
            contents = [content_of(checkpoint, component) for component in found.components.values()]
            check_nothing_else(checkpoint, contents)
            return "whole"
        return "detected"
    except ModelFileError as error:
        text = str(error)
    assert str(path) in text
    assert len(text) < 1500
    return "refused"


@pytest.mark.parametrize("legacy", [False, True])
def test_hundreds_of_damaged_pickles(tmp_path: Path, legacy: bool) -> None:
    path = tmp_path / "mutant.ckpt"
    torch.save(
        {"state_dict": {f"layer.{i}.weight": torch.ones(3, 2) for i in range(6)}, "global_step": 3}, path,
        _use_new_zipfile_serialization=not legacy,
    )  # fmt: skip
    whole = path.read_bytes()
    # half of them where a pickle's own instructions are
    pickled = whole.index(b"state_dict") + (0 if legacy else 20)
    dice = random.Random(7)
    outcomes = {"refused": 0, "read": 0}
    for number in range(400):
        content = bytearray(whole)
        for _ in range(dice.randint(1, 4)):
            place = dice.randrange(pickled, pickled + 600) if number % 2 else dice.randrange(len(content))
            content[min(place, len(content) - 1)] = dice.randrange(256)
        path.write_bytes(content[: dice.randrange(len(content))] if number % 10 == 0 else content)
        with no_more_memory_than(2_000_000 if number % 8 == 0 else None):
            outcomes[_pickle_outcome(path)] += 1
    assert min(outcomes.values()) > 20, outcomes  # damage to numbers or names alone leaves a sound file


def _pickle_outcome(path: Path) -> str:
    """Whether a file is read, every number of it, or refused; anything but a ModelFileError fails the test."""
    try:
        for tensor in read_pickled_tensors(path).values():
            assert tensor.numel() < 1000
            tensor.double().sum()
        return "read"
    except ModelFileError as error:
        text = str(error)
    assert str(path) in text
    return "refused"
