"""``--set path=value``: a value put into a document before it is validated, so that a wrong path is refused like a wrong file."""

from __future__ import annotations

from typing import Any

from kdsearch.errors import SpecError
from kdsearch.spec.explain import shown
from kdsearch.spec.yaml_reader import Document, Keys, dotted, parse_yaml

SHORTHAND = ("sampler", "pruner", "schedule")
"""Fields that may be written as a bare name; an option set below one turns it into a mapping."""


def split_override(text: str) -> tuple[tuple[str, ...], Any]:
    """``"budget.trials=4"`` → (("budget", "trials"), 4). Raises SpecError."""
    path, equals, value = text.partition("=")
    steps = [step.strip() for step in path.split(".")]
    if not equals or not all(steps):
        raise SpecError(f"{text!r} is not path=value", file="--set", hint="for example --set budget.trials=4")
    return tuple(steps), parse_yaml(value, f"--set {path}").data if value.strip() else None


def apply_override(document: Document, text: str) -> None:
    """Set one value in ``document``. Mappings on the way are made where missing; list items are named by index.

    Raises:
        SpecError: the text is not path=value, or the path leads through a value or past a list's end.
    """
    steps, value = split_override(text)
    here: Any = document.data
    done: Keys = ()
    for index, step in enumerate(steps):
        last = index == len(steps) - 1
        if isinstance(here, list):
            item = int(step) if str(step).isdecimal() else -1
            if not 0 <= item < len(here):
                raise _wrong(text, done, f"is a list of {len(here)}: {step!r} is no index into it")
            done = (*done, item)
            if last:
                here[item] = value
            else:
                here[item] = _opened(here[item], step, done, text)
                here = here[item]
            continue
        if not isinstance(here, dict):
            raise _wrong(text, done, f"is {shown(here)}, so nothing can be set below it")
        done = (*done, step)
        if last:
            here[step] = value
        else:
            here[step] = _opened(here.get(step), step, done, text)
            here = here[step]
    made = next(length for length in range(1, len(done) + 1) if length == len(done) or done[:length] not in document.marks)
    document.forget(done[:made])
    document.marks[done[:made]] = ("--set", None)


def _opened(below: Any, step: str, path: Keys, text: str) -> Any:
    """The mapping or list at ``path``, made where it is missing or a bare name, so that something can be set below it."""
    if below is None:
        return {}
    if isinstance(below, str) and below.startswith("$") and not below.startswith("$$"):
        raise _wrong(text, path, f"is the hole {below}: set it in space.{below[1:]} instead")
    return {"name": below} if isinstance(below, str) and step in SHORTHAND else below


def _wrong(text: str, path: Keys, problem: str) -> SpecError:
    return SpecError(f"{problem}", file=f"--set {text}", key=dotted(path) or None)
