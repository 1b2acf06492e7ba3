"""Reading YAML: numbers, words, merge keys, lines."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdsearch.errors import SpecError
from kdsearch.spec.yaml_reader import MAX_NODES, dump_yaml, parse_yaml


def read(text: str) -> Any:
    return parse_yaml(text, "f.yaml").data


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1E5", 1e5),
        (".5", 0.5),
        ("5.", 5.0),
        ("-3", -3),
        ("0x10", 16),
        ("0o17", 15),
        ("no", "no"),
        ("on", "on"),
        ("true", True),
        ("~", None),
        ("1:30", "1:30"),
        ("2024-01-01", "2024-01-01"),
        ("'1'", "1"),
        ("e5", "e5"),
        ("1_000", "1_000"),
    ],
)
def test_scalars_follow_yaml_1_2(text: str, value: object) -> None:
    got = read(f"a: {text}")["a"]
    assert got == value and type(got) is type(value)


def test_keys_are_text_as_written() -> None:
    assert read("{1: a, on: b, 1.50: c}") == {"1": "a", "on": "b", "1.50": "c"}


def test_merge_keys_are_overridden_by_own_keys_and_earlier_sources_win() -> None:
    text = "x: &x {a: 1, b: 1}\ny: &y {b: 2, c: 2}\nz:\n  <<: [*x, *y]\n  a: 3\n"
    assert read(text)["z"] == {"a": 3, "b": 1, "c": 2}


def test_every_path_knows_its_line() -> None:
    document = parse_yaml("a:\n  b: 1\n  c:\n    - x\n    - y: 2\nd: {e: 3,\n  f: 4}\n", "f.yaml")
    lines = {(): 1, ("a",): 1, ("a", "b"): 2, ("a", "c"): 3, ("a", "c", 1, "y"): 5, ("d", "e"): 6, ("d", "f"): 7}
    assert {path: document.line(path) for path in lines} == lines
    assert document.line(("a", "c", 0, "missing")) == 4, "a path that is not written has the line of what is around it"


def test_values_of_an_alias_have_the_lines_of_their_anchor() -> None:
    document = parse_yaml("a: &a\n  b: 1\nc: *a\nd:\n  <<: *a\n", "f.yaml")
    assert document.line(("c", "b")) == 2
    assert document.line(("d", "b")) == 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: 1\nb: 2\na: 3\n", "f.yaml:3: key 'a' stands twice, first on line 1"),
        ("a:\n  b: 1\n  b: 2\n", "f.yaml:3: a: key 'b' stands twice"),
        ("", "f.yaml: is empty"),
        ("# only a comment\n", "f.yaml: is empty"),
        ("a: [1,\nb: }", "f.yaml:2: is not valid YAML"),
        ("a: 1\n---\nb: 2\n", "is not valid YAML"),
        ("a: !!python/object/apply:os.system [ls]", "f.yaml:1: a: the tag"),
        ("a: !!int x", "f.yaml:1: a: 'x' is not of the type"),
        ("[a]: 1", "f.yaml:1: a key must be plain text"),
        ("a: *b", "is not valid YAML: found undefined alias"),
        ("a: &a [*a]", "nested deeper"),
        ("a: &a {<<: *a}", "merge keys that never end"),
        ("<<: 3", "<<: needs a mapping"),
        ("[" * 3000, "nested deeper"),
        ("a\0b", "so it is not a YAML text"),
        ("\t- a", "is not valid YAML"),
    ],
)
def test_what_cannot_be_read_is_one_error_with_its_line(text: str, said: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse_yaml(text, "f.yaml")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_aliases_that_explode_are_refused_before_they_are_built() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    with pytest.raises(SpecError, match=f"more than {MAX_NODES} values once its aliases are expanded"):
        read("\n".join(lines))


def test_merge_keys_that_explode_are_refused() -> None:
    lines = ["a0: &a0 {x: 1}"] + [f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 10)}]}}" for i in range(1, 12)]
    with pytest.raises(SpecError, match="merge keys"):
        read("\n".join(lines))


_scalars = st.none() | st.booleans() | st.integers(-(10**12), 10**12) | st.floats(allow_nan=False, allow_infinity=False) | st.text()
_keys = st.text().filter(lambda key: key != "<<")
_trees = st.recursive(_scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_keys, inner, max_size=4), max_leaves=12)


def _surrogate(tree: object) -> bool:
    return any(0xD800 <= ord(letter) < 0xE000 for letter in str(tree))


@given(_trees.filter(lambda tree: tree is not None and not _surrogate(tree)))
@settings(max_examples=200, deadline=None)
def test_what_is_dumped_is_read_to_the_same_values(tree: Any) -> None:
    text = dump_yaml({"a": tree})
    assert parse_yaml(text, "f.yaml").data == {"a": tree}


@given(st.text(alphabet=st.sampled_from("ab:{}[],&*!|>'\"-# \n\t<~1.e$%@`?"), max_size=60))
@settings(max_examples=300, deadline=None)
def test_any_text_is_read_or_is_one_error(text: str) -> None:
    try:
        parse_yaml(text, "f.yaml")
    except SpecError as error:
        assert "\n" not in str(error)
