"""YAML reading that remembers where everything stands.

Differences from ``yaml.safe_load``, each a refusal of a way to be fooled: duplicate keys are errors; aliases are counted as they
expand, so that a small file cannot become a huge tree; scalars follow YAML 1.2, so ``1e-3`` is a number and ``no`` and ``on`` are
words; keys are text as written. Merge keys (``<<``) work. Nothing in a file can construct an object.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from kdsearch.errors import SpecError

Keys = tuple[str | int, ...]
MAX_BYTES = 4_000_000
MAX_NODES = 20_000
"""Values in a file, aliases counted each time they stand for something. The largest bundled study has a few hundred."""
MAX_DEPTH = 60

_TAG = "tag:yaml.org,2002:"
_FLOAT = r"^(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
_SCALARS = (
    ("null", r"^(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    ("bool", r"^(?:true|True|TRUE|false|False|FALSE)$", list("tTfF")),
    ("int", r"^(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)$", list("-+0123456789")),
    ("float", _FLOAT, list("-+.0123456789")),
    ("merge", r"^<<$", ["<"]),
)
"""YAML 1.2's core schema, and merge keys: tag, pattern, first characters."""


class _Loader(yaml.SafeLoader):
    """YAML 1.2's scalars, given below."""


class _Dumper(yaml.SafeDumper):
    """Quotes whatever YAML 1.1 or the reader above would take for something else than text."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    quoted = any(letter in value for letter in "\x85\u2028\u2029\ufeff\r")  # line breaks that PyYAML writes but reads as spaces
    return dumper.represent_scalar(_TAG + "str", value, style='"' if quoted else None)


_Dumper.add_representer(str, _text)
_Loader.yaml_implicit_resolvers = {}
_Dumper.yaml_implicit_resolvers = {first: list(known) for first, known in yaml.SafeDumper.yaml_implicit_resolvers.items()}
for _name, _pattern, _first in _SCALARS:
    _Loader.add_implicit_resolver(_TAG + _name, re.compile(_pattern), _first)
    _Dumper.add_implicit_resolver(_TAG + _name, re.compile(_pattern), _first)


@dataclass
class Document:
    """Plain Python data and where each part of it was written."""

    data: Any
    file: str
    marks: dict[Keys, tuple[str, int | None]] = field(default_factory=dict)
    """Path of keys → (file, line); more than one file where one took in another."""

    def where(self, path: Keys) -> tuple[str, int | None]:
        """File and line of the value at ``path``; for one that is not written, of the innermost one around it that is."""
        for length in range(len(path), -1, -1):
            if path[:length] in self.marks:
                return self.marks[path[:length]]
        return self.file, None

    def line(self, path: Keys) -> int | None:
        """Line (from 1) of the value at ``path``, or of the innermost one around it."""
        return self.where(path)[1]

    def error(self, problem: str, path: Keys = (), hint: str | None = None) -> SpecError:
        """The error that says ``problem`` about ``path``."""
        file, line = self.where(path)
        return SpecError(problem, file=file, line=line, key=dotted(path) or None, hint=hint)

    def forget(self, path: Keys) -> None:
        """Drop the marks at and below ``path``, before something else is put there."""
        self.marks = {known: mark for known, mark in self.marks.items() if known[: len(path)] != path}

    def adopt(self, path: Keys, other: Document, below: Keys = ()) -> None:
        """Take in the marks of ``other`` at and below ``below``, as those of ``path``."""
        self.forget(path)
        for known, mark in other.marks.items():
            if known[: len(below)] == below:
                self.marks[path + known[len(below) :]] = mark


def dotted(path: Keys) -> str:
    """``recipe.distill.teachers.0.seed``."""
    return ".".join(map(str, path))


def read_yaml(path: str | Path) -> Document:
    """Read a file.

    Raises:
        SpecError: it is missing, a folder, not text, too large, empty, or not the YAML described above.
    """
    path = Path(path)
    try:
        if path.is_dir():
            raise SpecError("is a folder", file=path, hint="name a YAML file")
        if path.stat().st_size > MAX_BYTES:
            raise SpecError(f"is larger than {MAX_BYTES // 1_000_000} MB, so hardly a file a person wrote", file=path)
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise SpecError("no such file", file=path) from None
    except (OSError, ValueError) as error:
        if isinstance(error, UnicodeDecodeError):
            raise SpecError("is not text in UTF-8", file=path, hint="a YAML file is expected") from None
        raise SpecError(f"cannot be read: {getattr(error, 'strerror', None) or error}", file=path) from None
    return parse_yaml(text, str(path))


def parse_yaml(text: str, name: str) -> Document:
    """Parse YAML that stands in ``name`` (for messages). Raises SpecError."""
    try:
        node = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        said = ", ".join(part for part in (error.context, error.problem) if part)
        raise SpecError(f"is not valid YAML: {said}", file=name, line=mark.line + 1 if mark else None) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise SpecError(f"holds the character {error.character!r}, so it is not a YAML text", file=name, line=line) from None
    except RecursionError:
        raise SpecError(f"is nested deeper than {MAX_DEPTH} levels", file=name) from None
    except (yaml.YAMLError, ValueError) as error:
        raise SpecError(f"is not valid YAML: {error}", file=name) from None
    if node is None:
        raise SpecError("is empty", file=name)
    document = Document(None, name)
    document.data = _Builder(document).build(node, ())
    return document


def dump_yaml(data: Any) -> str:
    """YAML text that :func:`parse_yaml` reads to equal data."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


class _Builder:
    def __init__(self, document: Document) -> None:
        self.document = document
        self.nodes = 0

    def build(self, node: yaml.Node, path: Keys, line: int | None = None) -> Any:
        """Plain data of ``node``; marks ``path`` with ``line``, by default the node's own."""
        line = node.start_mark.line + 1 if line is None else line
        self.document.marks[path] = (self.document.file, line)
        self.nodes += 1
        if self.nodes > MAX_NODES:
            raise self.document.error(f"holds more than {MAX_NODES} values once its aliases are expanded", path[:1])
        if len(path) > MAX_DEPTH:
            raise self.document.error(f"is nested deeper than {MAX_DEPTH} levels", path[:1])
        if isinstance(node, yaml.MappingNode):
            self._refuse_tag(node, "map", path)
            return {key: self.build(value, (*path, key), at) for key, value, at in self._items(node, path)}
        if isinstance(node, yaml.SequenceNode):
            self._refuse_tag(node, "seq", path)
            return [self.build(item, (*path, index)) for index, item in enumerate(node.value)]
        return self._scalar(node, path)

    def _items(self, node: yaml.MappingNode, path: Keys, depth: int = 0) -> Iterator[tuple[str, yaml.Node, int]]:
        own: dict[str, tuple[yaml.Node, int]] = {}
        merged: dict[str, tuple[yaml.Node, int]] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                raise self._at("a key must be plain text, not a list or mapping", path, line)
            if key.tag == _TAG + "merge":
                for name, item, at in self._merged(value, path, line, depth):
                    merged.setdefault(name, (item, at))
            elif key.value in own:
                raise self._at(f"key {key.value!r} stands twice, first on line {own[key.value][1]}", path, line)
            else:
                own[key.value] = (value, line)
        for name, (item, at) in {**merged, **own}.items():
            # where the value is one scalar, its own line; a mapping or list starts where its key stands
            yield name, item, at if not isinstance(item, yaml.ScalarNode) else max(at, item.start_mark.line + 1) if name in own else at

    def _merged(self, value: yaml.Node, path: Keys, line: int, depth: int) -> Iterator[tuple[str, yaml.Node, int]]:
        for source in value.value if isinstance(value, yaml.SequenceNode) else [value]:
            self.nodes += 1
            if not isinstance(source, yaml.MappingNode):
                raise self._at("<<: needs a mapping, or a list of them", path, line)
            if depth > MAX_DEPTH or self.nodes > MAX_NODES:
                raise self._at("merge keys that never end", path, line)
            yield from self._items(source, path, depth + 1)

    def _scalar(self, node: yaml.Node, path: Keys) -> Any:
        text, kind = str(node.value), node.tag.removeprefix(_TAG)
        try:
            if kind == "null":
                return None
            if kind == "bool":
                return {"true": True, "false": False}[text.lower()]
            if kind == "int":
                return int(text, 0) if text[:2] in ("0o", "0x") else int(text)
            if kind == "float":
                return float(text.replace(".inf", "inf").replace(".nan", "nan") if text.lower().lstrip("+-") in (".inf", ".nan") else text)
        except (ValueError, KeyError):
            raise self.document.error(f"{text!r} is not of the type {node.tag}", path) from None
        if kind in ("str", "merge", "value"):
            return text
        raise self.document.error(f"the tag {node.tag!r} is not supported", path, "plain YAML values only")

    def _refuse_tag(self, node: yaml.Node, expected: str, path: Keys) -> None:
        if node.tag != _TAG + expected:
            raise self.document.error(f"the tag {node.tag!r} is not supported", path, "plain YAML values only")

    def _at(self, problem: str, path: Keys, line: int) -> SpecError:
        return SpecError(problem, file=self.document.file, line=line, key=dotted(path) or None)
