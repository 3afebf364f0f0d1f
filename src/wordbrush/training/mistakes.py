"""What is wrong with a recipe, in words: the key as the file has it, and the nearest key where one is misspelt."""

from __future__ import annotations

import difflib
from types import UnionType
from typing import Annotated, Any, Literal, NamedTuple, TypeGuard, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

# Where pydantic's sentences speak of Python: recipes have lists and tables.
_LIST, _TABLE = "Input should be a list", "Input should be a table of keys and values"
_SAID = {"tuple_type": _LIST, "model_type": _TABLE, "model_attributes_type": _TABLE, "dict_type": _TABLE}


def mistakes(model: type[BaseModel], error: ValidationError, *, where: str = "") -> list[str]:
    """One sentence for each thing that is wrong, in the order of the file; `where` is put before the keys."""
    found: dict[tuple[str, ...] | int, list[_Mistake]] = {}
    for number, detail in enumerate(error.errors()):
        mistake = _Mistake(detail, _path(model, detail["loc"]))
        found.setdefault(mistake.place.union or number, []).append(mistake)
    return [_of_one_value(tried, where) for tried in found.values()]


def nearest(name: str, known: list[str]) -> str:
    """The end of a sentence about an unknown name: what was meant, if that can be guessed, or else what there is."""
    close = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.6)
    return f"did you mean {close[0]}?" if close else f"there are {', '.join(sorted(known))}"


class _Place(NamedTuple):
    """Where in the file something is wrong.

    Attributes:
        keys: on the way to it, as the file has them.
        tables: what the last of these lies in may be.
        union: the keys of the value that was tried as several kinds, if there is one on the way.
    """

    keys: list[str]
    tables: list[type[BaseModel]]
    union: tuple[str, ...] | None


class _Mistake(NamedTuple):
    detail: ErrorDetails
    place: _Place

    @property
    def nearness(self) -> tuple[int, bool]:
        """How near the value came to being of the kind that it was tried as: how deep, and whether only in its size."""
        return len(self.place.keys), not self.detail["type"].endswith(("_type", "_parsing"))


def _of_one_value(tried: list[_Mistake], where: str) -> str:
    """One sentence for what is wrong with a value as each kind that it may be: as those that it came nearest to."""
    named = [mistake for mistake in tried if mistake.detail["type"] == "literal_error"]
    if named and isinstance(named[0].detail["input"], str):
        return _told(*named[0], where)
    most = max(mistake.nearness for mistake in tried)
    near = [mistake for mistake in tried if mistake.nearness == most]
    if len(near) == 1:
        return _told(*near[0], where)
    said = [_said(mistake.detail) for mistake in near]
    wanted = ", or ".join([said[0], *(text.removeprefix("Input should be ") for text in said[1:])])
    return f"{_at(near[0].place, where)} is wrong: {wanted} (given: {near[0].detail['input']!r:.80})"


def _told(detail: ErrorDetails, place: _Place, where: str) -> str:
    at = _at(place, where)
    match detail["type"]:
        case "extra_forbidden":
            known = sorted({key for table in place.tables for key in table.model_fields})
            return f"{at} is not a key that is known; {nearest(place.keys[-1], known)}"
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
        case "tuple_type" if isinstance(detail["input"], str):
            return f"{at} is wrong: {_LIST}, like [{detail['input']}] (given: {detail['input']!r})"
    return f"{at} is wrong: {_said(detail)} (given: {detail['input']!r:.80})"


def _at(place: _Place, where: str) -> str:
    return ".".join([*([where] if where else []), *place.keys]) or "the file"


def _said(detail: ErrorDetails) -> str:
    """Pydantic's sentence, in a recipe's words."""
    return _SAID.get(detail["type"], detail["msg"]).replace("Tuple ", "List ")


def _path(model: type[BaseModel], loc: tuple[int | str, ...]) -> _Place:
    """The place in the file, without the names of alternatives that pydantic puts between.

    Pydantic names the alternative of a union that it tried: a table by its tag, or by the name of its class; another
    type by its own name, which is a key of nothing.
    """
    keys: list[str] = []
    union: tuple[str, ...] | None = None
    kinds: list[Any] = [model]  # what the value here may be
    holders: list[type[BaseModel]] = [model]
    for part in loc:
        if part == "[key]":  # of a table whose keys are checked: the one before
            continue
        tables = [kind for kind in kinds if _is_table(kind)]
        chosen = [table for table in tables if part in (table.__name__, *_tags(table))]
        if chosen and len(tables) > 1:
            kinds = holders = chosen
        elif isinstance(part, int):
            keys.append(str(part))
            kinds = [inner for kind in kinds if get_origin(kind) in (tuple, list) for inner in _kinds(*get_args(kind))]
        elif tables:
            keys.append(part)
            fields = [table.model_fields[part] for table in tables if part in table.model_fields]
            holders, kinds = tables, _kinds(*(field.annotation for field in fields))
        elif any(get_origin(kind) is dict for kind in kinds):
            keys.append(part)
            kinds = [inner for kind in kinds for inner in _kinds(*get_args(kind)[1:])]
        else:
            union = union or tuple(keys)
    return _Place(keys, holders, union)


def _is_table(kind: Any) -> TypeGuard[type[BaseModel]]:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _kinds(*annotations: Any) -> list[Any]:
    """All that a value of these types may be."""
    found: list[Any] = []
    for annotation in annotations:
        if get_origin(annotation) is Annotated:
            found += _kinds(get_args(annotation)[0])
        elif get_origin(annotation) in (Union, UnionType):
            found += _kinds(*get_args(annotation))
        else:
            found.append(annotation)
    return found


def _tags(table: type[BaseModel]) -> tuple[Any, ...]:
    """What the fields of one fixed value say: the discriminator of a union among them."""
    return tuple(
        value
        for field in table.model_fields.values()
        if get_origin(field.annotation) is Literal and len(values := get_args(field.annotation)) == 1
        for value in values
    )
