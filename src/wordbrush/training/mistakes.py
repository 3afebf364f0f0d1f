"""What is wrong with a recipe, in words: the key as the file has it, and the nearest key where one is misspelt."""

from __future__ import annotations

import difflib
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails


def mistakes(model: type[BaseModel], error: ValidationError, *, where: str = "") -> list[str]:
    """One sentence for each thing that is wrong, in the order of the file; `where` is put before the keys."""
    return [_told(model, detail, where) for detail in error.errors()]


def nearest(name: str, known: list[str]) -> str:
    """The end of a sentence about an unknown name: what was meant, if that can be guessed, or else what there is."""
    close = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.6)
    return f"did you mean {close[0]}?" if close else f"there are {', '.join(sorted(known))}"


def _told(model: type[BaseModel], detail: ErrorDetails, where: str) -> str:
    keys, tables = _path(model, detail["loc"])
    at = ".".join([*([where] if where else []), *keys]) or "the file"
    match detail["type"]:
        case "extra_forbidden":
            known = sorted({key for table in tables for key in table.model_fields})
            return f"{at} is not a key that is known; {nearest(keys[-1], known)}"
        case "missing":
            return f"{at} is missing"
        case "union_tag_invalid":
            context = detail.get("ctx", {})
            key = str(context.get("discriminator", "")).strip("'")
            known = [name.strip(" '") for name in str(context.get("expected_tags", "")).split(",")]
            return f"{at}.{key}={context.get('tag')!r} is not known; {nearest(str(context.get('tag')), known)}"
        case "union_tag_not_found":
            key = str(detail.get("ctx", {}).get("discriminator", "")).strip("'")
            return f"{at}.{key} is missing"
        case "value_error":
            return f"{at}: {detail['msg'].removeprefix('Value error, ')}"
        case "literal_error":
            known = [name.strip(" '") for name in str(detail["ctx"]["expected"]).replace(" or ", ", ").split(",")]
            return f"{at}={detail['input']!r} is not known; {nearest(str(detail['input']), known)}"
    return f"{at} is wrong: {detail['msg']} (given: {detail['input']!r:.80})"


def _path(model: type[BaseModel], loc: tuple[int | str, ...]) -> tuple[list[str], list[type[BaseModel]]]:
    """The keys of a place, without the names of alternatives that pydantic puts between; the tables the last lies in.

    Pydantic names the alternative of a union that it tried: by its tag, or by the name of its class.
    """
    keys: list[str] = []
    tables: list[type[BaseModel]] = [model]  # what the value here may be
    holders = tables
    for part in loc:
        if part == "[key]":  # of a table whose keys are checked: the one before
            continue
        chosen = [table for table in tables if part in (table.__name__, *_tags(table))]
        if chosen and len(tables) > 1:
            tables = holders = chosen
            continue
        keys.append(str(part))
        holders = tables
        fields = [table.model_fields[part] for table in tables if part in table.model_fields]
        inner = [found for field in fields for found in _models(field.annotation)]
        if isinstance(part, int):  # an entry of a list of the same tables
            continue
        tables = inner
    return keys, holders


def _models(annotation: Any) -> list[type[BaseModel]]:
    """The tables that a value of this type may be."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if get_origin(annotation) is Annotated:
        return _models(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType, tuple, list, dict):
        return [found for part in get_args(annotation) for found in _models(part)]
    return []


def _tags(table: type[BaseModel]) -> tuple[Any, ...]:
    """What the fields of one fixed value say: the discriminator of a union among them."""
    return tuple(
        value
        for field in table.model_fields.values()
        if get_origin(field.annotation) is Literal and len(values := get_args(field.annotation)) == 1
        for value in values
    )
