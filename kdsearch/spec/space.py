"""A search space: parameters, the holes they fill, and which of them exist when.

``$name`` as a whole value is a hole; ``$$`` stands for a plain dollar sign. A parameter is a list of ``choices`` (numbers, words),
a mapping of labelled fragments (each any YAML, with holes of its own), or a range. A hole that stands only inside a fragment
exists only where that fragment is chosen: such a parameter is conditional.
"""

from __future__ import annotations

import itertools
import math
import random
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from pydantic import Field, model_validator

from kdsearch.spec.base import FieldProblem, Flag, Frozen, Real
from kdsearch.spec.explain import meant, plain, shown
from kdsearch.spec.yaml_reader import Keys

HOLE = re.compile(r"\$([A-Za-z_]\w*)")
NAME = re.compile(r"[A-Za-z_]\w*")
MOST_CHOICES = 1000
MOST_CELLS = 100_000


class ParameterSpec(Frozen):
    """One parameter of a space as written: choices or a range."""

    choices: list[Any] | dict[str, Any] | None = Field(
        None, description="Numbers and words to choose from; or labelled fragments (label: any part of a recipe, null too)."
    )
    ordered: Flag = Field(False, description="Whether the order of the choices means something; the sampler then knows it.")
    low: Real | None = Field(None, description="Lower end of a range, included.")
    high: Real | None = Field(None, description="Upper end of a range, included.")
    log: Flag = Field(False, description="Sample the range on a logarithmic scale.")
    step: Real | None = Field(None, description="Distance between the levels of a range; null is continuous.", gt=0)
    integer: Flag = Field(False, alias="int", description="Whole numbers only.")
    title: str | None = Field(None, description="Name in the report.")
    unit: str | None = Field(None, description="Unit in the report.")
    description: str | None = Field(None, description="What it is.")

    @model_validator(mode="before")
    @classmethod
    def _choices_or_range(cls, raw: Any) -> Any:
        if not isinstance(raw, dict):
            return raw
        choices = raw.get("choices")
        if unknown := set(raw) - {field.alias or name for name, field in cls.model_fields.items()}:
            close = meant(min(unknown), [field.alias or name for name, field in cls.model_fields.items()])
            raise FieldProblem(f"unknown key{close}", min(unknown))
        if choices is None:
            if "low" not in raw or "high" not in raw:
                raise FieldProblem("needs either choices, or low and high")
            return raw
        for key in ("low", "high", "log", "step", "int"):
            if key in raw:
                raise FieldProblem(f"a parameter with choices has no {key!r}; leave one of the two out", key)
        if not isinstance(choices, list | dict):
            raise FieldProblem(f"must be a list, or a mapping of labelled fragments, not {shown(choices)}", "choices")
        if not 1 <= len(choices) <= MOST_CHOICES:
            raise FieldProblem(f"must hold 1 to {MOST_CHOICES} choices, not {len(choices)}", "choices")
        if isinstance(choices, list):
            _check_plain(choices)
        return raw

    @model_validator(mode="after")
    def _range(self) -> ParameterSpec:
        if self.choices is not None:
            return self
        if self.low is None or self.high is None:
            raise FieldProblem("needs either choices, or low and high")
        if not self.low < self.high:
            raise FieldProblem(f"must be below high: {plain(self.high)}, not {plain(self.low)}", "low")
        if self.log and self.low <= 0:
            raise FieldProblem(f"must be greater than 0 on a log scale, not {plain(self.low)}", "low")
        if self.log and self.step is not None:
            raise FieldProblem("a log scale has no step; list the levels as choices with ordered: true", "step")
        if self.integer:
            for name in ("low", "high", "step"):
                value = getattr(self, name)
                if value is not None and not float(value).is_integer():
                    raise FieldProblem(f"must be a whole number, as the parameter is int, not {value}", name)
        if self.step is not None:
            count = (self.high - self.low) / self.step
            if abs(count - round(count)) > 1e-8 * max(1.0, count):
                raise FieldProblem(
                    f"does not divide the range from {plain(self.low)} to {plain(self.high)}, not {plain(self.step)}", "step"
                )
        return self

    @property
    def kind(self) -> Literal["categorical", "float", "int"]:
        """categorical, float or int."""
        if self.choices is not None:
            return "categorical"
        return "int" if self.integer else "float"

    @property
    def labels(self) -> list[Any]:
        """What a person sees of the choices: numbers and words, or the fragments' labels."""
        return list(self.choices or ())

    def content(self, value: Any) -> Any:
        """What a hole gets for ``value``: the fragment of a label, else the value itself."""
        return self.choices[value] if isinstance(self.choices, dict) else value

    def corners(self) -> list[Any]:
        """Values that are checked before anything starts: every label, or both ends."""
        return self.labels if self.choices is not None else [self._number(self.low), self._number(self.high)]

    def levels(self) -> list[Any] | None:
        """Every value of a discrete parameter; None when it is continuous or has more than a grid could take."""
        if self.choices is not None:
            return self.labels
        assert self.low is not None and self.high is not None
        step = self.step if self.step is not None else 1.0 if self.integer else None
        if step is None or (self.high - self.low) / step > MOST_CELLS:
            return None
        return [self._number(self.low + i * step) for i in range(round((self.high - self.low) / step) + 1)]

    def sample(self, draw: random.Random) -> Any:
        """A random value."""
        levels = self.levels()
        if levels is not None:
            return draw.choice(levels)
        assert self.low is not None and self.high is not None
        if self.log:
            return self.normal(math.exp(draw.uniform(math.log(self.low), math.log(self.high))))
        return self.normal(draw.uniform(self.low, self.high))

    def normal(self, value: Any) -> Any:
        """``value`` as written in the space (1 for 1.0 …). Raises FieldProblem when the parameter cannot be that."""
        if self.choices is not None:
            for label in self.labels:
                if label == value and isinstance(label, bool) == isinstance(value, bool):
                    return label
            raise FieldProblem(f"{shown(value)} is no choice; allowed: {', '.join(map(str, self.labels))}")
        assert self.low is not None and self.high is not None
        number = isinstance(value, int | float) and not isinstance(value, bool)
        slack = 1e-9 * max(abs(self.low), abs(self.high))
        if not number or not self.low - slack <= value <= self.high + slack:
            raise FieldProblem(f"{shown(value)} is outside {plain(self.low)} to {plain(self.high)}")
        return self._number(min(max(value, self.low), self.high))

    def _number(self, value: float | None) -> float | int:
        assert value is not None
        return round(value) if self.integer else float(f"{value:.12g}") if self.step is not None else float(value)


def _check_plain(choices: Sequence[Any]) -> None:
    seen: list[tuple[bool, Any]] = []
    for index, choice in enumerate(choices):
        if choice is None or isinstance(choice, list | dict):
            raise FieldProblem(f"{shown(choice)} needs a label: write choices as a mapping, label: value", "choices", index)
        if isinstance(choice, float) and not math.isfinite(choice):
            raise FieldProblem(f"must be finite, not {choice}", "choices", index)
        if isinstance(choice, str) and choice.startswith("$"):
            raise FieldProblem(f"{choice!r} needs a label: write choices as a mapping, label: {choice}", "choices", index)
        if (isinstance(choice, bool), choice) in seen:
            raise FieldProblem(f"{shown(choice)} stands twice", "choices", index)
        seen.append((isinstance(choice, bool), choice))


@dataclass(frozen=True)
class Parameter:
    """One parameter as a sampler sees it in a stratum."""

    name: str
    kind: Literal["categorical", "float", "int"]
    low: float | None = None
    high: float | None = None
    log: bool = False
    step: float | None = None
    choices: list[Any] = field(default_factory=list)
    """Labels: numbers and words as written, or the labels of fragments."""
    ordered: bool = False
    parents: tuple[tuple[str, Any], ...] = ()
    """Any of these (parameter, label) must hold for the parameter to exist; none: it always does."""
    title: str | None = None
    unit: str | None = None

    @property
    def parent(self) -> tuple[str, Any] | None:
        """The (first) parameter and label it depends on."""
        return self.parents[0] if self.parents else None

    def active(self, chosen: Mapping[str, Any]) -> bool:
        """Whether it exists, given what was chosen for the parameters before it (inactive ones left out)."""
        return not self.parents or any(name in chosen and chosen[name] == label for name, label in self.parents)


def hole(value: Any) -> str | None:
    """Name of the hole that ``value`` is, if it is one.

    Raises:
        FieldProblem: it starts with a dollar sign but is no hole.
    """
    if not isinstance(value, str) or not value.startswith("$") or value.startswith("$$"):
        return None
    match = HOLE.fullmatch(value)
    if match is None:
        raise FieldProblem(f"{value!r} is no hole: a hole is $ and a name, as the whole value; write $$ for a plain dollar sign")
    return match[1]


def holes(tree: Any, path: Keys = ()) -> Iterator[tuple[str, Keys]]:
    """Name and path of every hole in ``tree``, in the order written. A FieldProblem carries the path."""
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from holes(value, (*path, key))
    elif isinstance(tree, list):
        for index, value in enumerate(tree):
            yield from holes(value, (*path, index))
    else:
        try:
            name = hole(tree)
        except FieldProblem as problem:
            raise FieldProblem(str(problem), *path) from None
        if name is not None:
            yield name, path


def filled(tree: Any, values: Mapping[str, Any], space: Mapping[str, ParameterSpec]) -> Any:
    """``tree`` with each hole replaced by what its parameter's value in ``values`` stands for."""
    if isinstance(tree, Mapping):
        return {key: filled(value, values, space) for key, value in tree.items()}
    if isinstance(tree, list):
        return [filled(value, values, space) for value in tree]
    name = hole(tree)
    if name is not None:
        return filled(space[name].content(values[name]), values, space) if isinstance(space[name].choices, dict) else values[name]
    return tree[1:] if isinstance(tree, str) and tree.startswith("$$") else tree


def place(tree: Any, path: Keys, values: Mapping[str, Any], space: Mapping[str, ParameterSpec], root: Keys) -> Keys:
    """Where the value at ``path`` of the filled tree was written, as a path of the study: in the tree, at ``root``, or the space."""
    written = root
    for index in range(len(path) + 1):
        name = hole(tree)
        while name is not None and name in values:
            spec, value = space[name], values[name]
            if isinstance(spec.choices, dict):
                written, tree = ("space", name, "choices", value), spec.choices[value]
            elif spec.choices is not None:
                return ("space", name, "choices", spec.labels.index(value))
            else:
                return ("space", name, "low" if value == spec.low else "high" if value == spec.high else "step")
            name = hole(tree)
        if index < len(path):
            step = path[index]
            holds = step in tree if isinstance(tree, Mapping) else isinstance(tree, list) and isinstance(step, int) and step < len(tree)
            tree = tree[step] if holds else None
            written = (*written, step)
    return written


class Structure:
    """Which parameters a tree with holes has, given values that are fixed already (those of a stratum)."""

    def __init__(self, tree: Any, space: Mapping[str, ParameterSpec], fixed: Mapping[str, Any]) -> None:
        self.space, self.fixed = space, fixed
        self._always: set[str] = set()
        self._parents: dict[str, list[tuple[str, Any]]] = {}
        self._seen: set[tuple[str, tuple[str, Any] | None]] = set()
        self._visit(tree, None, ())
        self.order = self._ordered()

    def _visit(self, tree: Any, parent: tuple[str, Any] | None, above: tuple[str, ...]) -> None:
        for name, path in holes(tree):
            if name not in self.space:
                raise FieldProblem(f"hole ${name} is not defined in the space{meant(name, self.space)}", *path)
            if name in above:
                raise FieldProblem(f"parameter {name!r} stands inside itself", "space", name)
            if parent is None:
                self._always.add(name)
            elif parent not in self._parents.setdefault(name, []):
                self._parents[name].append(parent)
            if (name, parent) in self._seen:
                continue
            self._seen.add((name, parent))
            fragments = self.space[name].choices
            for label, fragment in fragments.items() if isinstance(fragments, dict) else ():
                if name in self.fixed:
                    if label == self.fixed[name]:
                        self._visit(fragment, parent, (*above, name))
                else:
                    self._visit(fragment, (name, label), (*above, name))

    @cached_property
    def names(self) -> set[str]:
        """Every parameter that a hole names, fixed ones included."""
        return self._always | set(self._parents)

    def _ordered(self) -> list[str]:
        """Parameters that are open, in the space's order, but parents before what depends on them."""
        done: list[str] = []

        def take(name: str) -> None:
            if name not in done:
                for parent, _ in self.parents(name):
                    take(parent)
                done.append(name)

        for name in self.space:
            if name in self.names and name not in self.fixed:
                take(name)
        return done

    def parents(self, name: str) -> tuple[tuple[str, Any], ...]:
        """(parameter, label) pairs of which one must hold; none when the parameter always exists."""
        if name in self._always:
            return ()
        found = self._parents.get(name, [])
        for parent in {parent for parent, _ in found}:
            covers = {label for one, label in found if one == parent} == set(self.space[parent].labels)
            if covers and not self.parents(parent):
                return ()  # it stands in every fragment of a parameter that always exists
        return tuple(found)

    def parameters(self) -> list[Parameter]:
        """As a sampler sees them."""
        return [
            Parameter(
                name=name,
                kind=spec.kind,
                low=spec._number(spec.low) if spec.low is not None else None,
                high=spec._number(spec.high) if spec.high is not None else None,
                log=spec.log,
                step=spec._number(spec.step) if spec.step is not None else None,
                choices=spec.labels,
                ordered=spec.ordered,
                parents=self.parents(name),
                title=spec.title,
                unit=spec.unit,
            )
            for name, spec in ((name, self.space[name]) for name in self.order)
        ]

    def assignment(self, wanted: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """A value for every open parameter that exists: of ``wanted`` (with the parents it needs), else its first corner."""
        wanted = dict(wanted or {})
        for name in reversed(self.order):
            parents = self.parents(name)
            if name in wanted and parents and not any(wanted.get(parent) == label for parent, label in parents):
                wanted[parents[0][0]] = parents[0][1]
        chosen: dict[str, Any] = {}
        for parameter in self.parameters():
            if parameter.active(chosen):
                chosen[parameter.name] = wanted.get(parameter.name, self.space[parameter.name].corners()[0])
        return chosen

    def grid(self, only: Collection[str] | None = None) -> list[dict[str, Any]]:
        """Every combination of the open parameters that exist together; with ``only``, the others stay at their first corner.

        Raises:
            FieldProblem: a parameter is continuous, or there are more than 100,000 combinations.
        """
        cells: list[dict[str, Any]] = [{}]
        for parameter in self.parameters():
            spec = self.space[parameter.name]
            levels = spec.levels() if only is None or parameter.name in only else spec.corners()[:1]
            if levels is None:
                raise FieldProblem("is continuous, so a grid cannot list it; give choices or a step", "space", parameter.name)
            cells = list(
                itertools.chain.from_iterable(
                    [{**cell, parameter.name: level} for level in levels] if parameter.active(cell) else [cell] for cell in cells
                )
            )
            if len(cells) > MOST_CELLS:
                raise FieldProblem(f"the grid has more than {MOST_CELLS:,} cells by here; give fewer levels", "space", parameter.name)
        return cells

    def sample(self, draw: random.Random) -> dict[str, Any]:
        """A random configuration of the open parameters that exist together."""
        chosen: dict[str, Any] = {}
        for parameter in self._parameters:
            if parameter.active(chosen):
                chosen[parameter.name] = self.space[parameter.name].sample(draw)
        return chosen

    def check(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """``params`` as written in the space, parameters that do not exist under them left out.

        Raises:
            FieldProblem: one is unknown, missing or out of bounds.
        """
        for name in params:
            if name not in self.names:
                raise FieldProblem(f"no parameter {name!r} here{meant(name, self.order)}")
        chosen: dict[str, Any] = {}
        for parameter in self._parameters:
            if parameter.active(chosen):
                if parameter.name not in params:
                    raise FieldProblem(f"no value for parameter {parameter.name!r}")
                try:
                    chosen[parameter.name] = self.space[parameter.name].normal(params[parameter.name])
                except FieldProblem as problem:
                    raise FieldProblem(f"parameter {parameter.name!r}: {problem}") from None
        return chosen

    @cached_property
    def _parameters(self) -> list[Parameter]:
        return self.parameters()
