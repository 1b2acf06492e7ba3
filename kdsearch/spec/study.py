"""The door of this room: reading studies, recipes and spaces from files, each checked before anything starts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from kdsearch.errors import SpecError
from kdsearch.spec import bundled
from kdsearch.spec.base import FieldProblem
from kdsearch.spec.check import check_recipe, check_study
from kdsearch.spec.explain import explained, meant, shown
from kdsearch.spec.overrides import apply_override, split_override
from kdsearch.spec.recipe import Recipe
from kdsearch.spec.space import ParameterSpec, holes
from kdsearch.spec.study_model import Baseline, Stratum, Study
from kdsearch.spec.yaml_reader import Document, Keys, read_yaml

__all__ = ["Baseline", "Stratum", "Study", "dump_recipe", "load_recipe", "load_study", "validate_file"]


def load_study(source: str | Path, overrides: Sequence[str] = (), *, allow_code: bool = False) -> Study:
    """Read and check a study.

    Args:
        source: a YAML file, a bundled study's name, or a run's folder.
        overrides: ``path=value`` texts, applied in order.
        allow_code: whether it may name code as ``package.module:function``.

    Raises:
        SpecError: names file, line, key, what was there and what is allowed.
    """
    path = find_study(source)
    document = _mapping(read_yaml(path), "a study is a mapping with name, recipe, space …")
    later = []
    for text in overrides:
        if split_override(text)[0][:1] == ("space",) and "." in text.partition("=")[0]:
            later.append(text)  # may name a parameter of a space file
        else:
            apply_override(document, text)
    _inline_space(document, path.parent)
    for text in later:
        apply_override(document, text)
    if isinstance(document.data["space"], dict):  # null removes a parameter
        document.data["space"] = {name: spec for name, spec in document.data["space"].items() if spec is not None}
    try:
        study = Study.model_validate(document.data)
    except ValidationError as error:
        raise explained(error, Study, document, lambda where: _as_written(document, where)) from None
    return check_study(study, document, allow_code=allow_code)


def find_study(source: str | Path) -> Path:
    """The file that ``source`` means. Raises SpecError with near misses."""
    path = Path(source)
    if path.is_dir() and (path / "study.yaml").is_file():
        return path / "study.yaml"
    if path.is_file():
        return path
    known = bundled.study_path(str(source))
    if known is not None:
        return known
    if path.is_dir():
        raise SpecError("holds no study.yaml, so it is no run's folder", file=path)
    said = meant(str(source), bundled.study_names())
    raise SpecError(f"no such file, run or bundled study{said.replace('allowed', 'bundled')}", file=source)


def load_recipe(path: str | Path, overrides: Sequence[str] = (), *, allow_code: bool = False) -> tuple[Recipe, dict[str, Any]]:
    """Read and check a recipe file: the complete recipe, and its ``provenance`` block (empty when it has none).

    Raises:
        SpecError: as :func:`load_study`.
    """
    document = _mapping(read_yaml(path), "a recipe is a mapping with data, model, optim …")
    for text in overrides:
        apply_override(document, text)
    provenance = document.data.pop("provenance", None) or {}
    if not isinstance(provenance, dict):
        raise document.error(f"must be a mapping, not {shown(provenance)}", ("provenance",))
    try:
        for name, where in holes(document.data):
            raise document.error(f"${name} is a hole, and a recipe has none", where, "write a value, or run the study it belongs to")
    except FieldProblem as problem:
        raise document.error(str(problem), problem.path) from None
    return check_recipe(document, allow_code=allow_code), provenance


def dump_recipe(recipe: Recipe) -> dict[str, Any]:
    """Plain data of a recipe, complete: independent of defaults, children's inheritance used where it loses nothing.

    :func:`load_recipe` of it gives an equal recipe.
    """
    return _dumped(recipe, None)


def _dumped(recipe: Recipe, parent: Recipe | None) -> dict[str, Any]:
    data: dict[str, Any] = {}
    for name in ("data", "model", "precision", "init", "distill", "pretrained", "optim", "seed"):
        value = getattr(recipe, name)
        if value is None or (parent is not None and name in ("data", "optim", "seed") and value == getattr(parent, name)):
            continue
        if name == "init":
            data[name] = _dumped(value, recipe)
        elif name == "seed":
            data[name] = value
        elif name == "distill":
            data[name] = _escaped(value.model_dump(mode="json", exclude_none=True, exclude={"teachers", "cotrain"}))
            if value.teachers:
                data[name]["teachers"] = [_dumped(teacher, recipe) for teacher in value.teachers]
            if value.cotrain is not None:
                data[name]["cotrain"] = _escaped(value.cotrain.model_dump(mode="json", exclude_none=True, exclude={"init"}))
                if value.cotrain.init is not None:
                    data[name]["cotrain"]["init"] = _dumped(value.cotrain.init, recipe)
        else:  # nulls of a child are written: they may stand above a value it would inherit
            keep_nulls = parent is not None and name in ("data", "optim")
            data[name] = _escaped(value.model_dump(mode="json", exclude_none=not keep_nulls))
    return data


def _escaped(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {key: _escaped(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_escaped(value) for value in tree]
    return f"${tree}" if isinstance(tree, str) and tree.startswith("$") else tree


def validate_file(path: str | Path, *, allow_code: bool = False) -> Literal["study", "space", "recipe"]:
    """Check a file of any kind and say which it is. Raises SpecError."""
    document = _mapping(read_yaml(path), "a study, recipe or space is a mapping")
    if "recipe" in document.data or {"space", "strata", "baselines", "sampler"} & set(document.data):
        load_study(Path(path).resolve() if Path(path).is_file() else path, allow_code=allow_code)
        return "study"
    if document.data and all(isinstance(one, dict) and ({"choices", "low", "high"} & set(one)) for one in document.data.values()):
        check_space(document)
        return "space"
    load_recipe(path, allow_code=allow_code)
    return "recipe"


def check_space(document: Document, at: Keys = ()) -> None:
    """Check each parameter of a space on its own. Raises SpecError."""
    for name, raw in document.data.items():
        try:
            spec = ParameterSpec.model_validate(raw)
            list(holes(spec.choices if isinstance(spec.choices, dict) else {}))
        except ValidationError as error:
            raise explained(error, ParameterSpec, document, lambda where, name=name: (*at, name, *where)) from None  # type: ignore[misc]
        except FieldProblem as problem:
            raise document.error(str(problem), (*at, name, "choices", *problem.path)) from None


def _mapping(document: Document, wanted: str) -> Document:
    if not isinstance(document.data, dict):
        raise document.error(f"{wanted}, not {shown(document.data)}")
    return document


def _as_written(document: Document, path: Keys) -> Keys:
    """Path in the file of a path in the data: one objective may stand without its list."""
    if path[:2] == ("objective", 0) and isinstance(document.data.get("objective"), dict):
        return ("objective", *path[2:])
    return path


def _inline_space(document: Document, folder: Path) -> None:
    """Replace names of space files by what they hold, keeping track of where each parameter stands."""
    value = document.data.get("space")
    if value is None:
        document.data["space"] = {}
        return
    if isinstance(value, dict):
        return
    parts = value if isinstance(value, list) else [value]
    whole: dict[str, Any] = {}
    origin = Document(None, document.file, dict(document.marks))
    document.forget(("space",))
    document.marks[("space",)] = origin.where(("space",))
    for index, part in enumerate(parts):
        at: Keys = ("space", index) if isinstance(value, list) else ("space",)
        if isinstance(part, dict):
            content, below = origin, at
        elif isinstance(part, str):
            content, below = _mapping(read_yaml(_find_space(part, folder, origin, at)), "a space is a mapping of parameters"), ()
            part = content.data
        else:
            raise origin.error(f"must be a mapping of parameters, or a space file's name, not {shown(part)}", at)
        for name, spec in part.items():
            whole[name] = spec
            document.adopt(("space", name), content, (*below, name))
    document.data["space"] = whole


def _find_space(name: str, folder: Path, document: Document, at: Keys) -> Path:
    for candidate in (folder / name, folder / f"{name}.yaml", folder / "search_spaces" / f"{name}.yaml", Path(name)):
        if candidate.is_file() and candidate.resolve() != Path(document.file).resolve():  # a study may bear its space's name
            return candidate
    known = bundled.space_path(name)
    if known is None:
        raise document.error(f"no space file {name!r}{meant(name, bundled.space_names()).replace('allowed', 'bundled')}", at)
    return known
