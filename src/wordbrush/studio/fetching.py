"""Gradio fetches a file where a call names an address in place of an uploaded one; this server fetches nothing."""

from __future__ import annotations

from typing import Any, NoReturn

import gradio as gr
from gradio import processing_utils


def forbid() -> None:
    """From now on Gradio, in the whole process, refuses such a call. Harmless the second time.

    Its own check lets every public address through, of any size, and hands back what it got.
    """
    for name in ("async_ssrf_protected_get", "async_ssrf_protected_download"):
        assert hasattr(processing_utils, name), f"Gradio has no {name} any more: look for how it fetches now"
        setattr(processing_utils, name, _refuse)


async def _refuse(*_: Any, **__: Any) -> NoReturn:
    raise gr.Error("this server fetches nothing; upload the file", print_exception=False)
