"""Inheritance: from the short recipe a person writes to the complete one the trainer reads.

``init``, ``distill.teachers`` and ``distill.cotrain.init`` take ``data``, ``optim`` and ``seed`` from the recipe around them
unless they say otherwise, field by field. A teacher with ``count: n`` stands for n teachers whose seeds are 1000 apart. So each
seed of a study has its own teachers, unless a teacher's seed is written down.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kdsearch.spec.base import FieldProblem
from kdsearch.spec.recipe import Recipe

INHERITED = ("data", "optim", "seed")
SEED_STRIDE = 1000
"""Distance between the seeds that ``count`` derives; far above the number of seeds of a study, so none meet."""
LARGEST_COUNT = 100

Path = tuple[str | int, ...]


def resolve_recipe(raw: Mapping[str, Any]) -> Recipe:
    """Fill in what children inherit and validate.

    Raises :class:`pydantic.ValidationError`, or :class:`~kdsearch.spec.base.FieldProblem` for a bad ``count``; both are put into
    words, with file and line, by :mod:`kdsearch.spec.explain`.
    """
    return Recipe.model_validate(fill(raw))


def fill(raw: Mapping[str, Any]) -> dict[str, Any]:
    """The complete mapping of a short one. Parts that are not of the expected type are left for validation to refuse."""
    full = dict(raw)
    for path in (("init",), ("distill", "cotrain", "init")):
        child = _get(full, path)
        if isinstance(child, Mapping):
            _put(full, path, fill(_inherit(raw, child)))
    teachers = _get(full, ("distill", "teachers"))
    if isinstance(teachers, Sequence) and not isinstance(teachers, str):
        expanded: list[Any] = []
        for index, teacher in enumerate(teachers):
            if isinstance(teacher, Mapping):
                expanded.extend(fill(one) for one in _counted(_inherit(raw, teacher), index))
            else:
                expanded.append(teacher)
        _put(full, ("distill", "teachers"), expanded)
    return full


def written_path(raw: Mapping[str, Any], path: Path) -> Path:
    """Where the value at ``path`` of the filled-in recipe stands in the short one: undoes ``count`` and inheritance."""
    trail: list[tuple[Any, Path]] = [(raw, ())]  # recipes from the outside in, with their written paths
    here: Any = raw
    written: Path = ()
    rest = list(path)
    while rest:
        step = rest.pop(0)
        if here is trail[-1][0] and step in INHERITED:
            return _nearest(trail, (step, *rest))
        if written[-1:] == ("teachers",) and isinstance(here, Sequence) and isinstance(step, int):
            step = _before_count(here, step)
        here = here[step] if _holds(here, step) else None
        written = (*written, step)
        if step == "init" or (len(written) > 1 and written[-2] == "teachers" and isinstance(step, int)):
            trail.append((here, written))
    return written


def _nearest(trail: list[tuple[Any, Path]], path: Path) -> Path:
    """The innermost recipe that writes ``path``; when none does (a missing key), the innermost that writes most of it."""
    for length in range(len(path), 0, -1):
        for recipe, written in reversed(trail):
            if _has(recipe, path[:length]):
                return (*written, *path)
    return (*trail[-1][1], *path)


def merged(below: Any, above: Any) -> Any:
    """Deep merge: mappings are merged key by key, anything else (null too) replaces what is below."""
    if not (isinstance(below, Mapping) and isinstance(above, Mapping)):
        return above
    return {**below, **{key: merged(below[key], value) if key in below else value for key, value in above.items()}}


def _inherit(parent: Mapping[str, Any], child: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(child)
    for key in INHERITED:
        if key in parent:
            result[key] = merged(parent[key], child[key]) if key in child else parent[key]
    return result


def _counted(teacher: dict[str, Any], index: int) -> list[dict[str, Any]]:
    if "count" not in teacher:
        return [teacher]
    count = teacher.pop("count")
    if type(count) is not int or not 1 <= count <= LARGEST_COUNT:
        raise FieldProblem(f"count must be a whole number from 1 to {LARGEST_COUNT}, not {count!r}", "distill", "teachers", index, "count")
    first = teacher.get("seed", 0)
    if type(first) is not int:
        return [teacher]  # validation names the seed
    return [{**teacher, "seed": first + SEED_STRIDE * i} for i in range(count)]


def _before_count(teachers: Sequence[Any], index: int) -> int:
    for written, teacher in enumerate(teachers):
        count = teacher.get("count", 1) if isinstance(teacher, Mapping) else 1
        index -= count if type(count) is int else 1
        if index < 0:
            return written
    return max(len(teachers) - 1, 0)


def _holds(value: Any, step: str | int) -> bool:
    if isinstance(value, Mapping):
        return step in value
    return isinstance(value, Sequence) and not isinstance(value, str) and isinstance(step, int) and 0 <= step < len(value)


def _has(value: Any, path: Path) -> bool:
    for step in path:
        if not _holds(value, step):
            return False
        value = value[step]
    return True


def _get(tree: Mapping[str, Any], path: tuple[str, ...]) -> Any:
    value: Any = tree
    for step in path:
        if not isinstance(value, Mapping) or step not in value:
            return None
        value = value[step]
    return value


def _put(tree: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    """Replace the value at ``path``, copying the mappings on the way so that the caller's stay as they are."""
    for step in path[:-1]:
        tree[step] = dict(tree[step])
        tree = tree[step]
    tree[path[-1]] = value
