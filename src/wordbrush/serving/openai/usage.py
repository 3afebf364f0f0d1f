"""Tokens, which hosted services charge by: those of the prompt are counted, pictures have none."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from pydantic import BaseModel

from wordbrush.errors import RequestError
from wordbrush.serving import tokens

if TYPE_CHECKING:
    from wordbrush.serving.server import Server


class TokenDetails(BaseModel):
    """Tokens of texts and of pictures."""

    text_tokens: int = 0
    image_tokens: int = 0


class Usage(BaseModel):
    """How many tokens a request took.

    A picture is no row of tokens to these models, so input pictures and painted ones count 0; what a request really
    costs is its pictures' pixels times steps.
    """

    input_tokens: int
    input_tokens_details: TokenDetails
    output_tokens: int = 0
    output_tokens_details: TokenDetails
    total_tokens: int


def usage_of(texts: list[str], model: str | None, server: Server) -> Usage:
    """Of prompts and negative prompts, each counted once, however many pictures there are.

    model: its own CLIP tokenizer counts where it has one beside it, else the embedded model's.
    """
    catalogue = server.catalogue
    known = [catalogue.model(None)]
    with suppress(RequestError):  # deleted since
        known.insert(0, catalogue.model(model))
    count = 0
    for text in texts:
        found = next(filter(None, (tokens.count(one, text) for one in known)), None)
        count += 0 if found is None else found.pieces
    details = TokenDetails(text_tokens=count)
    return Usage(
        input_tokens=count, input_tokens_details=details, output_tokens_details=TokenDetails(), total_tokens=count
    )
