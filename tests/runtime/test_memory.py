"""The collector rests while it is asked to, and goes on even after an error."""

from __future__ import annotations

import gc

import pytest

from wordbrush.runtime.memory import collector_resting


@collector_resting()
def _fails() -> None:
    assert not gc.isenabled()
    with collector_resting():
        pass
    assert not gc.isenabled()  # the outer one says when
    raise KeyError


def test_the_collector_rests_and_goes_on() -> None:
    with pytest.raises(KeyError):
        _fails()
    assert gc.isenabled()
