"""Keys: pinned by golden values, moved by what changes results and by nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kdsearch.errors import SpecError
from kdsearch.spec import key as key_module
from kdsearch.spec import numerics
from kdsearch.spec.inherit import resolve_recipe
from kdsearch.spec.key import key_payload, recipe_key
from kdsearch.spec.recipe import Data

SMALL: dict[str, Any] = {"model": {"architecture": "resnet8", "width": 0.5}}
STUDENT: dict[str, Any] = {
    **SMALL,
    "precision": {"weights": {"quantizer": "shin", "bits": 2}},
    "init": SMALL,
    "distill": {"teachers": [{"model": {"width": 2}}], "temperature": 3, "schedule": "cr_linear"},
    "optim": {"epochs": 3},
    "seed": 1,
}
GOLDEN = {
    "defaults": ({}, "6bdc5b791b6603f30cd442bf01f437242d50ab7ed79482678d990d34ae012b98"),
    "small": (SMALL, "432f5371c2c81a627c3b5cf8ad19c1df41636c7a4fff04abaae39964bfa3e245"),
    "student": (STUDENT, "afefefef25edb3d2abc317be4e49f2946d67f1c680b6936ffc8f20b94ded0ea4"),
    "apprentice": (
        {
            "precision": {"weights": {"quantizer": "ttq"}, "activations": {"quantizer": "wrpn", "bits": 8}, "keep": ["first", "last"]},
            "distill": {"cotrain": {"model": {"width": 2}}, "temperature": 1, "loss": {"soft": "cross_entropy", "hard_weight": 1}},
        },
        "7a5af5ebe54b5796ba22906ee47d03011c800eb49d16101de3611ab3174a6b37",
    ),
}


def key(raw: dict[str, Any]) -> str:
    return recipe_key(resolve_recipe(raw), lambda data: f"content of {data.name}")


def changed(path: str, value: object) -> dict[str, Any]:
    raw: dict[str, Any] = dict(STUDENT)
    here = raw
    *steps, last = path.split(".")
    for step in steps:
        here[step] = dict(here.get(step, {}))
        here = here[step]
    here[last] = value
    return raw


@pytest.mark.parametrize("name", GOLDEN)
def test_keys_stay_as_they_were(name: str) -> None:
    raw, expected = GOLDEN[name]
    assert key(raw) == expected, "a moved key orphans everything stored under it: see the module's text before changing this"


def test_ways_of_writing_the_same_recipe_have_one_key() -> None:
    written = changed("optim", {"epochs": 3.0, "learning_rate": 0.1, "gradient_clip": None})
    written["distill"] = {**STUDENT["distill"], "schedule": {"name": "cr_linear", "end": 0}, "temperature": 3.0}
    assert key(written) == key(STUDENT)


@pytest.mark.parametrize(("path", "value"), [("data.root", "/elsewhere"), ("data.workers", 9)])
def test_paths_and_worker_counts_are_outside_the_key(path: str, value: object) -> None:
    assert key(changed(path, value)) == key(STUDENT)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("seed", 2),
        ("optim.epochs", 4),
        ("optim.dtype", "bfloat16"),
        ("data.validation", 0.2),
        ("data.split_seed", 1),
        ("distill.temperature", 3.5),
        ("distill.teachers", [{"model": {"width": 3}}]),
        ("distill.teachers", [{"model": {"width": 2}}, {"model": {"width": 2}, "seed": 9}]),
        ("precision.weights", {"quantizer": "shin", "bits": 2, "step_policy": "once"}),
        ("init", None),
    ],
)
def test_what_changes_training_changes_the_key(path: str, value: object) -> None:
    assert key(changed(path, value)) != key(STUDENT)


def test_the_content_of_the_data_changes_the_key() -> None:
    recipe = resolve_recipe(STUDENT)
    assert recipe_key(recipe, lambda data: "a") != recipe_key(recipe, lambda data: "b")


def test_a_raised_numerics_version_moves_the_keys_that_use_it_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    before = {name: key(raw) for name, (raw, _) in GOLDEN.items()}
    monkeypatch.setitem(numerics.NUMERICS, "coefficient.cr_linear", 2)
    after = {name: key(raw) for name, (raw, _) in GOLDEN.items()}
    assert {name for name in GOLDEN if before[name] != after[name]} == {"student"}


def test_a_childs_key_stands_for_the_child() -> None:
    recipe = resolve_recipe(STUDENT)
    assert recipe.distill is not None and recipe.init is not None
    payload = key_payload(recipe, lambda data: "x")
    assert payload["recipe"]["init"] == recipe_key(recipe.init, lambda data: "x")
    assert payload["recipe"]["distill"]["teachers"] == [recipe_key(recipe.distill.teachers[0], lambda data: "x")]


def test_a_field_added_later_is_left_out_at_its_historic_value(monkeypatch: pytest.MonkeyPatch) -> None:
    field = Data.model_fields["split_seed"]
    monkeypatch.setattr(field, "json_schema_extra", {"kdsearch_historic": 0})
    assert "split_seed" not in key_payload(resolve_recipe({}), lambda data: "x")["recipe"]["data"]
    assert key_payload(resolve_recipe({"data": {"split_seed": 3}}), lambda data: "x")["recipe"]["data"]["split_seed"] == 3


def test_pretrained_weights_count_by_content_not_by_path_seed_or_optimizer(tmp_path: Path) -> None:
    for name, content in (("a", b"1"), ("b", b"1"), ("c", b"2")):
        (tmp_path / name).write_bytes(content)

    def of(name: str, **more: Any) -> str:
        return key({"pretrained": {"file": str(tmp_path / name)}, **more})

    assert of("a") == of("b") == of("a", seed=4, optim={"epochs": 9})
    assert of("a") != of("c")
    with pytest.raises(SpecError, match=r"missing: cannot be read: No such file"):
        of("missing")


def test_a_users_code_counts_by_its_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    module = tmp_path / "kdsearch_test_networks.py"
    module.write_text("def net(): ...\n")
    raw = {"model": {"architecture": "kdsearch_test_networks:net"}}
    before = key(raw)
    module.write_text("def net(): return 1\n")
    key_module._file_digest.cache_clear()
    assert key(raw) != before
    with pytest.raises(SpecError, match="module 'kdsearch_nowhere' of 'kdsearch_nowhere:net' is not found"):
        key({"model": {"architecture": "kdsearch_nowhere:net"}})


def test_minus_zero_is_zero() -> None:
    assert key(changed("optim.weight_decay", -0.0)) == key(changed("optim.weight_decay", 0))
