"""The store: entries whole or absent, leases that end with their holder, checkpoints and tables that notice damage."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from kdsearch.errors import StoreError
from kdsearch.record.store import Leased, Store

KEY = "ab" * 32
HOLDER = """
import sys
from kdsearch.record.store import Store
with Store(sys.argv[1]).lease(sys.argv[2]):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def _write(store: Store, key: str = KEY, weights: bytes = b"w" * 1000) -> None:
    store.write(key, {"seed": 1}, {"final": {"val_accuracy": 50.0}}, weights)


def _holder(store: Store, key: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", HOLDER, str(store.root), key]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_written_entry_is_read_back_by_another_store(store: Store) -> None:
    assert not store.has(KEY)
    _write(store)
    entry = Store(store.root).entry(KEY)
    assert (entry.recipe, entry.metrics) == ({"seed": 1}, {"final": {"val_accuracy": 50.0}})
    assert entry.weights.read_bytes() == b"w" * 1000
    assert list(store.keys()) == [KEY]
    assert not list(store.root.glob("tmp/*"))


@pytest.mark.parametrize("name", ["recipe.json", "metrics.json", "weights.safetensors", "manifest.json"])
@pytest.mark.parametrize("how", ["changed", "truncated", "removed"])
def test_a_damaged_entry_counts_as_absent_and_is_replaced(store: Store, name: str, how: str) -> None:
    _write(store)
    assert store.has(KEY)
    path = store.entry(KEY).folder / name
    content = path.read_bytes()
    if how == "removed":
        path.unlink()
    else:
        path.write_bytes(content[: len(content) // 2] if how == "truncated" else content[:-2] + b"##")
    assert not store.has(KEY)
    with pytest.raises(StoreError, match="no finished entry"):
        store.entry(KEY)
    _write(store)
    assert store.has(KEY)


def test_a_valid_entry_is_kept_when_the_same_key_is_written_again(store: Store) -> None:
    _write(store)
    _write(store, weights=b"other")
    assert store.entry(KEY).weights.read_bytes() == b"w" * 1000


def test_a_name_that_would_leave_the_store_is_refused(store: Store) -> None:
    for name in ("../x", "a/b", "", ".hidden"):
        with pytest.raises(StoreError, match="not a name"):
            store.has(name)


def test_metrics_that_are_not_finite_are_refused_and_leave_nothing_behind(store: Store) -> None:
    with pytest.raises(ValueError, match="JSON"):
        store.write(KEY, {}, {"x": float("nan")}, b"")
    assert not store.has(KEY)
    assert not list(store.root.glob("tmp/*"))


def test_a_lease_excludes_other_processes_and_ends_when_its_holder_is_killed(store: Store) -> None:
    holder = _holder(store, KEY)
    with pytest.raises(Leased), store.lease(KEY, wait=False):
        pass
    waited = threading.Event()

    def wait() -> None:
        with store.lease(KEY):
            waited.set()

    thread = threading.Thread(target=wait)
    thread.start()
    assert not waited.is_set()
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    thread.join(30)
    assert waited.is_set()
    with store.lease(KEY, wait=False):
        pass


def test_ctrl_c_ends_the_wait_for_a_lease(store: Store) -> None:
    holder = _holder(store, KEY)
    # In the background of a shell, a process and all that it starts would ignore the signal.
    heeding = "import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
    script = heeding + HOLDER.replace("with Store", 'print("waiting", flush=True)\nwith Store')
    command = [sys.executable, "-c", script, str(store.root), KEY]
    waiter = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert waiter.stdout is not None
    assert waiter.stdout.readline() == "waiting\n"
    for _ in range(30):  # a signal just before the process waits in the kernel is acted upon with the next one
        waiter.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            assert waiter.wait(1) != 0
            break
    else:
        pytest.fail("Ctrl-C does not end the wait")
    holder.communicate("")


def test_a_thread_that_asks_for_its_own_lease_again_is_told(store: Store) -> None:
    with store.lease(KEY), pytest.raises(StoreError, match="itself"):
        store.lease(KEY)
    with store.lease(KEY):
        pass


def test_the_last_checkpoint_comes_back_and_older_ones_go(store: Store) -> None:
    assert store.latest_checkpoint(KEY) is None
    for epoch in range(1, 12):
        store.save_checkpoint(KEY, epoch, b"state %d" % epoch)
    assert store.latest_checkpoint(KEY) == (11, b"state 11")
    assert len(list((store.root / "checkpoints" / KEY).iterdir())) == 2
    store.drop_checkpoints(KEY)
    assert store.latest_checkpoint(KEY) is None


@pytest.mark.parametrize("cut", [0, 3, 20, -1])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(store: Store, cut: int) -> None:
    store.save_checkpoint(KEY, 1, b"first")
    store.save_checkpoint(KEY, 2, b"second")
    path = store.root / "checkpoints" / KEY / "000002"
    path.write_bytes(path.read_bytes()[:cut])
    assert store.latest_checkpoint(KEY) == (1, b"first")


def test_abandoned_checkpoints_go_but_not_those_that_somebody_is_at(store: Store) -> None:
    keys = [letter * 64 for letter in "abc"]
    for key in keys:
        store.save_checkpoint(key, 1, b"x")
    holder = _holder(store, keys[1])
    store.drop_abandoned(keys[1:])
    assert [store.latest_checkpoint(key) is not None for key in keys] == [True, True, False]
    holder.communicate("")


def test_tables_are_mapped_and_damage_is_noticed(store: Store) -> None:
    table = np.arange(600, dtype=np.float16).reshape(60, 10)
    store.blobs.put_array("tables", "t", table)
    found = store.blobs.get_array("tables", "t")
    assert isinstance(found, np.memmap)
    np.testing.assert_array_equal(found, table)
    path = store.blob_path("tables", "t")
    content = bytearray(path.read_bytes())
    for damage in (content[: len(content) // 2], bytes(content[:200]) + b"\x01" + bytes(content[201:]), b""):
        path.write_bytes(damage)
        assert Store(store.root).blobs.get_array("tables", "t") is None
        assert store.blobs.get_array("tables", "t") is None
        assert not path.exists()
    store.put_blob("other", "b", b"bytes")
    assert store.get_blob("other", "b") == b"bytes"
    assert store.get_blob("other", "missing") is None


def test_the_least_recently_used_tables_are_evicted_at_the_limit(tmp_path: Path) -> None:
    store = Store(tmp_path, blob_limit=5_000)
    for i in range(4):
        store.put_blob("tables", f"t{i}", bytes(1_000))
        os.utime(store.blob_path("tables", f"t{i}"), ns=(i, i))
    assert store.get_blob("tables", "t0") is not None  # used just now
    store.put_blob("tables", "t4", bytes(1_000))
    kept = {path.name for path in (tmp_path / "blobs" / "tables").iterdir()}
    assert "t4" in kept and "t0" in kept and "t1" not in kept
    assert store.blobs.size() <= 5_000


def test_a_folder_without_permission_and_a_file_in_its_place_are_told_plainly(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError, match="is a file"):
        Store(tmp_path / "file")
    with pytest.raises(StoreError, match=r"file.*"):
        Store(tmp_path / "file" / "below").save_checkpoint(KEY, 1, b"x")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_told_plainly(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Path.open
    monkeypatch.setattr(Path, "open", lambda self, mode="r", **kw: real(Path("/dev/full") if "w" in mode else self, mode, **kw))
    with pytest.raises(StoreError, match="disk is full"):
        store.save_checkpoint(KEY, 1, bytes(100_000))


def test_the_default_store_is_named_by_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDSEARCH_STORE", str(tmp_path / "named"))
    assert Store.default().root == tmp_path / "named"
    monkeypatch.delenv("KDSEARCH_STORE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert Store.default().root == tmp_path / "kdsearch" / "store"
