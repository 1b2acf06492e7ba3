"""The key of a recipe: under it the store files what training gives, so equal keys must mean equal results.

SHA-256 over canonical JSON of the resolved recipe (paths left out, children replaced by their keys), the fingerprint of its data,
the ``numerics`` version of each component it uses, and the content of files and code it brings along. Keys are pinned by golden
tests: a change that moves them orphans everything people have stored, so it must be meant.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from kdsearch.errors import SpecError
from kdsearch.spec.numerics import numerics_of
from kdsearch.spec.recipe import USER_CODE, Data, Recipe

KEY_FORMAT = 1


def recipe_key(recipe: Recipe, fingerprint: Callable[[Data], str]) -> str:
    """64 hexadecimal digits.

    ``fingerprint`` gives a data set's content as a string (never its path). Raises SpecError when a pretrained file or a user's
    module cannot be read, and whatever ``fingerprint`` raises.
    """
    return _digest(key_payload(recipe, fingerprint))


def key_payload(recipe: Recipe, fingerprint: Callable[[Data], str]) -> dict[str, Any]:
    """What is hashed, for a person who asks why two keys differ."""
    body = _canonical(recipe, lambda child: recipe_key(child, fingerprint))
    content: dict[str, str] = {}
    if recipe.pretrained is not None:
        content["pretrained"] = file_digest(recipe.pretrained.file)
        for unused in ("optim", "seed"):  # nothing is trained, so neither changes the weights
            body.pop(unused, None)
    for name in (recipe.data.name, recipe.model.architecture, *_cotrained(recipe)):
        if USER_CODE.fullmatch(name):
            content[name] = code_digest(name)
    payload = {"format": KEY_FORMAT, "recipe": body, "data": fingerprint(recipe.data), "numerics": numerics_of(recipe)}
    return payload | ({"content": content} if content else {})


def _cotrained(recipe: Recipe) -> tuple[str, ...]:
    cotrain = recipe.distill.cotrain if recipe.distill is not None else None
    return (cotrain.model.architecture,) if cotrain is not None else ()


def _canonical(value: Any, key_of: Callable[[Recipe], str]) -> Any:
    """Plain JSON of a model. Absent and null mean the same in every field, so both are left out."""
    if isinstance(value, BaseModel):
        result = {}
        for name, field in type(value).model_fields.items():
            mark = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
            inner = getattr(value, name)
            if inner is None or mark.get("kdsearch_key") is False:
                continue
            if "kdsearch_historic" in mark and inner == mark["kdsearch_historic"]:
                continue
            result[name] = key_of(inner) if isinstance(inner, Recipe) else _canonical(inner, key_of)
        return result
    if isinstance(value, tuple | list):
        return [key_of(item) if isinstance(item, Recipe) else _canonical(item, key_of) for item in value]
    if isinstance(value, float):
        return value + 0.0  # −0.0 is 0.0
    return value


def _digest(payload: dict[str, Any]) -> str:
    text = json.dumps(payload, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def file_digest(path: str) -> str:
    """SHA-256 of a file's content, read once as long as its size and time of change stay."""
    try:
        status = Path(path).stat()
        return _file_digest(path, status.st_size, status.st_mtime_ns)
    except OSError as error:
        raise SpecError(f"cannot be read: {error.strerror or error}", file=path, hint="pretrained.file names a file of weights") from None


@lru_cache(maxsize=256)
def _file_digest(path: str, _size: int, _changed: int) -> str:
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def code_digest(name: str) -> str:
    """SHA-256 of the source of the module that ``package.module:function`` names."""
    module = name.partition(":")[0]
    try:
        found = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        found = None
    if found is None or found.origin is None or not Path(found.origin).is_file():
        raise SpecError(f"module {module!r} of {name!r} is not found", hint="it must be importable, for example on PYTHONPATH")
    return file_digest(found.origin)
