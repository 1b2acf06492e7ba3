"""What is damaged in a store, however, counts as absent: never a wrong result taken as right, never a traceback."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import numpy as np
import pytest

from kdsearch.errors import StoreError
from kdsearch.record.store import Store
from tests.damage import damaged

KEYS = [letter * 64 for letter in "abc"]


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _harm(files: list[Path], draw: random.Random) -> Path:
    """Damage one of ``files``, or put another one's content in its place."""
    path = draw.choice(files)
    like = [other for other in files if other.name == path.name and other != path]
    other = draw.choice(like or files).read_bytes()
    path.write_bytes(other if draw.random() < 0.25 and other != path.read_bytes() else damaged(path.read_bytes(), draw, other))
    return path


def _entry(key: str) -> tuple[dict[str, object], dict[str, object], bytes]:
    return {"seed": key[0]}, {"final": {"val_accuracy": float(ord(key[0]))}}, key.encode() * 20


@pytest.mark.parametrize("seed", range(4))
def test_an_entry_with_an_altered_file_is_absent_and_made_again(seed: int, tmp_path: Path) -> None:
    whole, draw = Store(tmp_path / "whole"), random.Random(seed)
    for key in KEYS:
        whole.write(key, *_entry(key))
    for number in range(40):
        root = tmp_path / f"store-{number}"
        shutil.copytree(whole.root, root)
        harmed = _harm([path for key in KEYS for path in _files(root / key[:2] / key)], draw).parent.name
        for key in KEYS:
            store = Store(root)
            assert store.has(key) == (key != harmed)
            if key == harmed:
                with pytest.raises(StoreError, match="no finished entry"):
                    store.entry(key)
                store.write(key, *_entry(key))
            found = store.entry(key)
            assert (found.recipe, found.metrics, found.weights.read_bytes()) == _entry(key)


def test_an_entry_copied_under_another_key_is_not_taken_for_it(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.write(KEYS[0], *_entry(KEYS[0]))
    (tmp_path / KEYS[1][:2]).mkdir()
    shutil.copytree(tmp_path / KEYS[0][:2] / KEYS[0], tmp_path / KEYS[1][:2] / KEYS[1])
    assert not store.has(KEYS[1])
    store.write(KEYS[1], *_entry(KEYS[1]))
    assert store.entry(KEYS[1]).metrics == _entry(KEYS[1])[1]


@pytest.mark.parametrize("seed", range(2))
def test_an_altered_checkpoint_falls_back_to_the_one_before_and_a_swapped_one_too(seed: int, tmp_path: Path) -> None:
    draw = random.Random(seed)
    states = {(key, epoch): f"{key[0]} after {epoch}".encode() * 9 for key in KEYS for epoch in (1, 2)}
    for number in range(40):
        store = Store(tmp_path / f"store-{number}")
        for (key, epoch), blob in states.items():
            store.save_checkpoint(key, epoch, blob)
        harmed = _harm(_files(store.root / "checkpoints"), draw)
        for key in KEYS:
            left = 1 if harmed.parent.name == key and harmed.name == "000002" else 2
            assert store.latest_checkpoint(key) == (left, states[key, left])


@pytest.mark.parametrize("seed", range(2))
def test_an_altered_table_or_one_under_another_s_name_is_absent(seed: int, tmp_path: Path) -> None:
    draw = random.Random(seed)
    tables = {f"t{number}": np.random.default_rng(number).normal(size=(9, 10)).astype(np.float16) for number in range(3)}
    for number in range(40):
        root = tmp_path / f"store-{number}"
        for name, table in tables.items():
            Store(root).blobs.put_array("tables", name, table)
        harmed = _harm(_files(root / "blobs"), draw).name
        store = Store(root)
        for name, table in tables.items():
            found = store.blobs.get_array("tables", name)
            if name == harmed:
                assert found is None
                store.blobs.put_array("tables", name, table)
                found = store.blobs.get_array("tables", name)
            assert found is not None
            np.testing.assert_array_equal(found, table)


def test_what_is_no_file_in_a_store_is_told_or_absent(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.save_checkpoint(KEYS[0], 1, b"x")
    (tmp_path / "checkpoints" / KEYS[0] / "000002").mkdir()
    with pytest.raises(StoreError, match="000002"):
        store.latest_checkpoint(KEYS[0])
    (tmp_path / KEYS[1][:2]).mkdir()
    (tmp_path / KEYS[1][:2] / KEYS[1]).write_text("a file in an entry's place")
    assert not store.has(KEYS[1])
    store.write(KEYS[1], *_entry(KEYS[1]))
    assert store.has(KEYS[1])
    folder = tmp_path / KEYS[1][:2] / KEYS[1]
    for manifest in ("[" * 100_000, "[]", '{"key": 3}', json.dumps({"key": KEYS[1], "files": [1]}), "\xff"):
        (folder / "manifest.json").write_text(manifest, "latin-1")
        assert not Store(tmp_path).has(KEYS[1])
