"""Validation errors in words: what is wrong, where it was written, what is allowed, what was perhaps meant."""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from kdsearch.errors import SpecError
from kdsearch.spec.base import FieldProblem
from kdsearch.spec.yaml_reader import Document, Keys

_BOUNDS = {
    "greater_than": "must be greater than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "too_short": "needs at least {min_length} items",
    "too_long": "has more than {max_length} items",
    "string_pattern_mismatch": "must match {pattern}",
    "string_too_short": "must not be empty",
    "string_too_long": "must have at most {max_length} characters",
}
_TYPES = {
    "float": "a number",
    "int": "a whole number",
    "bool": "true or false",
    "string": "text",
    "tuple": "a list",
    "list": "a list",
    "dict": "a mapping",
    "model": "a mapping",
    "mapping": "a mapping",
    "dataclass": "a mapping",
}


def explained(
    error: Exception,
    model: type[BaseModel],
    document: Document,
    place: Callable[[Keys], Keys] = lambda path: path,
    context: str | None = None,
) -> SpecError:
    """The SpecError that says what a pydantic ValidationError or a FieldProblem means to the person who wrote the file.

    ``place`` maps a path in the validated data to the path where it was written; ``context`` says in which circumstances the
    problem shows ("with width = 4").
    """
    if isinstance(error, FieldProblem):
        return document.error(str(error), place(error.path), context)
    assert isinstance(error, ValidationError)
    details = error.errors(include_url=False)
    detail = min(details, key=lambda one: one["type"] == "missing")  # an unknown key often explains a missing one
    path, problem = _problem(detail, model)
    return document.error(problem, place(path), context)


def _problem(detail: ErrorDetails, model: type[BaseModel]) -> tuple[Keys, str]:
    path: Keys = tuple(detail["loc"])
    kind, value, context = detail["type"], detail["input"], detail.get("ctx", {})
    if kind == "extra_forbidden":
        owner = model_at(model, path[:-1])
        names = [field.alias or name for name, field in owner.model_fields.items()] if owner else []
        names += ["count"] if path[-3:-2] == ("teachers",) else []
        return path, f"unknown key{meant(str(path[-1]), names)}"
    if kind == "missing":
        return path, "is missing"
    if kind == "literal_error":
        allowed = _literals(model, path)
        return path, f"{shown(value)} is not known{meant(str(value), allowed)}"
    if kind == "value_error":
        inner = context.get("error")
        return path + (inner.path if isinstance(inner, FieldProblem) else ()), str(inner)
    if kind in _BOUNDS:
        said = _BOUNDS[kind].format(**{key: plain(bound) for key, bound in context.items()})
        return path, f"{said}, not {shown(value)}"
    if kind == "int_from_float":
        return path, f"must be a whole number, not {shown(value)}"
    if kind == "finite_number":
        return path, f"must be a finite number, not {shown(value)}"
    return path, f"must be {_TYPES.get(kind.split('_')[0], 'of another type')}, not {shown(value)}"


def shown(value: Any) -> str:
    """A value as a person would recognise it, shortened."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, Mapping):
        return f"a mapping with {', '.join(map(str, list(value)[:4]))}" if value else "an empty mapping"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}"
    text = repr(plain(value))
    return text if len(text) <= 80 else text[:77] + "..."


def plain(value: Any) -> Any:
    """2.0 as 2."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def meant(name: str, known: Iterable[str]) -> str:
    """``; did you mean 'x'?`` for a near miss, and what is allowed."""
    known = [str(one) for one in known]
    close = difflib.get_close_matches(name, known, 1, 0.6)
    allowed = f"; allowed: {', '.join(known)}" if known else ""
    return (f"; did you mean {close[0]!r}?" if close else "") + allowed


def model_at(model: type[BaseModel], path: Keys) -> type[BaseModel] | None:
    """The model whose fields stand at ``path``."""
    here: Any = model
    for step in path:
        if isinstance(step, int):
            continue  # items of a list: the annotation already names the item's model
        field = _field(here, step) if here is not None else None
        if field is None:
            return None
        here = next((one for one in _parts(field.annotation) if isinstance(one, type) and issubclass(one, BaseModel)), None)
    return typing.cast("type[BaseModel] | None", here)


def _field(model: type[BaseModel], name: str) -> FieldInfo | None:
    aliased = {field.alias or own: field for own, field in model.model_fields.items()}
    return aliased.get(name)


def _literals(model: type[BaseModel], path: Keys) -> list[str]:
    names = [step for step in path if isinstance(step, str)]
    owner = model_at(model, tuple(names[:-1])) if names else None
    field = _field(owner, names[-1]) if owner else None
    found = [arg for part in _parts(field.annotation) for arg in typing.get_args(part)] if field else []
    return [str(one) for one in found if isinstance(one, str)]


def _parts(annotation: Any) -> Iterable[Any]:
    """The annotation, and what it is made of, down to literals and classes."""
    if typing.get_origin(annotation) is typing.Literal or isinstance(annotation, type):
        yield annotation
    if typing.get_origin(annotation) in (typing.Union, types.UnionType, tuple, list, dict, typing.Annotated):
        for part in typing.get_args(annotation):
            yield from _parts(part)
