"""A store backed by another one, or by a URI: what is missing comes, what is made goes, damage is noticed, nothing finished is lost."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import fsspec
import numpy as np
import pytest

from kdsearch.errors import StoreError, UsageError
from kdsearch.record import remote, store
from kdsearch.record.files import without_password
from kdsearch.record.remote import FolderByUri, is_uri, open_store
from kdsearch.record.served import Served
from kdsearch.record.store import Store
from kdsearch.record.upstream import packed, unpacked

KEY, OTHER = "ab" * 32, "cd" * 32


def _write(where: Store, key: str = KEY, weights: bytes = b"w" * 1000) -> None:
    where.write(key, {"seed": 1}, {"final": {"val_accuracy": 50.0}}, weights)


class Breakable(Served):
    """A served store that can be out of reach."""

    away = False

    def __getattribute__(self, name: str) -> object:
        if name in ("holds", "fetch", "offer", "drop") and self.away:
            raise StoreError("out of reach")
        return super().__getattribute__(name)


@pytest.fixture
def middle(tmp_path: Path) -> Breakable:
    return Breakable(Store(tmp_path / "middle"))


@pytest.fixture
def node(tmp_path: Path, middle: Breakable) -> Callable[[str], Store]:
    return lambda name: Store(tmp_path / name, upstream=middle)


def test_what_one_node_finished_is_found_by_another_and_lies_in_the_middle(node: Callable[[str], Store], middle: Breakable) -> None:
    _write(node("a"))
    found = node("b").entry(KEY)
    assert (found.recipe, found.metrics["final"], found.weights.read_bytes()) == ({"seed": 1}, {"val_accuracy": 50.0}, b"w" * 1000)
    assert Store(middle.store.root).has(KEY)
    assert not node("b").has(OTHER)


def test_what_a_node_finished_goes_on_through_the_middle_to_what_is_behind_it(tmp_path: Path) -> None:
    far = f"memory://{tmp_path.name}"
    _write(Store(tmp_path / "a", upstream=Served(Store(tmp_path / "middle", upstream=FolderByUri(far)))))
    assert Store(tmp_path / "b", upstream=Served(Store(tmp_path / "other", upstream=FolderByUri(far)))).has(KEY)


def test_what_a_node_had_before_goes_to_the_middle_when_it_is_asked_for(node: Callable[[str], Store], middle: Breakable) -> None:
    _write(Store(node("a").root))
    assert not middle.store.has(KEY)
    assert node("a").has(KEY)
    assert middle.store.has(KEY)


def test_an_entry_that_arrives_damaged_is_as_good_as_none(tmp_path: Path) -> None:
    here, other = Store(tmp_path / "a"), Store(tmp_path / "b")
    _write(here)
    content = packed(here.entry(KEY).folder)
    assert unpacked(KEY, content) is not None
    assert not other.accept(OTHER, content)
    assert not any(other.accept(KEY, content[:size]) for size in range(0, len(content), 97))
    for at in range(0, len(content), 53):
        files = unpacked(KEY, content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        assert files is None or files["weights.safetensors"] == b"w" * 1000  # a byte of the zip that says nothing about its files
    assert not other.has(KEY)


def test_what_is_finished_while_the_middle_is_away_is_kept_and_sent_later(node: Callable[[str], Store], middle: Breakable) -> None:
    a = node("a")
    middle.away = True
    _write(a)
    assert a.has(KEY)
    with pytest.raises(StoreError, match="out of reach"):
        a.has(OTHER)
    middle.away = False
    assert not middle.store.has(KEY)
    _write(a, OTHER)  # the first thing that gets through takes the rest along
    assert middle.store.has(KEY) and middle.store.has(OTHER)
    assert not list((a.root / "unsent").iterdir())


def test_another_process_of_the_node_sends_what_one_could_not(node: Callable[[str], Store], middle: Breakable) -> None:
    middle.away = True
    _write(node("a"))
    middle.away = False
    node("a").send_unsent()
    assert middle.store.has(KEY)


def test_a_checkpoint_goes_now_and_then_and_another_node_goes_on_from_it(
    node: Callable[[str], Store], middle: Breakable, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(store.time, "monotonic", lambda: now[0])
    a, b = node("a"), node("b")
    for epoch in range(1, 7):
        a.save_checkpoint(KEY, epoch, b"state %d" % epoch)
        now[0] += 10
    assert b.latest_checkpoint(KEY) == (4, b"state 4")  # 30 s after the first
    assert a.latest_checkpoint(KEY) == (6, b"state 6")
    middle.away = True
    assert a.latest_checkpoint(KEY) == (6, b"state 6")
    middle.away = False
    a.drop_checkpoints(KEY)
    assert b.latest_checkpoint(KEY) is None


def test_tables_travel_and_are_the_same(node: Callable[[str], Store], middle: Breakable) -> None:
    table = np.arange(24, dtype=np.float16).reshape(4, 6)
    node("a").blobs.put_array("kind", "name", table)
    found = node("b").blobs.get_array("kind", "name")
    assert found is not None and found.dtype == np.float16
    assert np.array_equal(found, table)
    middle.away = True
    assert node("c").blobs.get_array("kind", "name") is None  # it can be computed again
    node("c").blobs.put_array("kind", "name", table)


@pytest.fixture(params=["memory", "file"])
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"memory://{tmp_path.name}/store" if request.param == "memory" else f"file://{tmp_path}/far/store"


def test_a_store_by_uri_outlives_its_machine(uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDSEARCH_STORE", str(tmp_path / "one"))
    monkeypatch.setattr(store, "SENT_SECONDS", 0.0)
    first = open_store(uri)
    assert first.root == tmp_path / "one"
    _write(first)
    first.save_checkpoint(OTHER, 3, b"state")
    first.blobs.put_array("kind", "name", np.zeros(3))
    monkeypatch.setenv("KDSEARCH_STORE", str(tmp_path / "two"))
    second = open_store(uri)
    assert second.entry(KEY).weights.read_bytes() == b"w" * 1000
    assert second.latest_checkpoint(OTHER) == (3, b"state")
    second.drop_checkpoints(OTHER)
    assert first.latest_checkpoint(OTHER) == (3, b"state")  # its own copy
    assert second.latest_checkpoint(OTHER) is None
    assert second.blobs.get_array("kind", "name") is None  # tables are computed again


class _Away:
    """Stands before a file system and fails as often as it is told to."""

    def __init__(self, real: object, failures: int, error: Exception) -> None:
        self.real, self.failures, self.error = real, failures, error

    def __getattr__(self, name: str) -> object:
        if name in ("cat_file", "pipe_file") and self.failures > 0:
            self.failures -= 1
            raise self.error
        return getattr(self.real, name)


def _behind(where: Store, failures: int, error: Exception) -> _Away:
    assert isinstance(where.upstream, FolderByUri)
    where.upstream._files = _Away(where.upstream._files, failures, error)
    return where.upstream._files


def test_a_uri_that_is_away_for_a_while_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote.time, "sleep", lambda seconds: None)
    far = f"memory://{tmp_path.name}"
    _write(Store(tmp_path / "a", upstream=FolderByUri(far)))
    other = Store(tmp_path / "b", upstream=FolderByUri(far))
    away = _behind(other, 3, ConnectionError("no route"))
    assert other.has(KEY)
    assert away.failures == 0


def test_a_uri_that_stays_away_ends_with_what_to_do_and_no_password_and_what_is_finished_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "PATIENCE", 0.3)
    monkeypatch.setattr(remote, "SHORT_PATIENCE", 0.3)
    monkeypatch.setattr(remote, "_PAUSE", 0.0)
    uri = f"memory://me:s3cr3t@{tmp_path.name}/x"
    here = Store(tmp_path / "a", upstream=FolderByUri(uri))
    away = _behind(here, 10**6, OSError(f"cannot reach {uri}"))
    _write(here)
    assert here.has(KEY)
    with pytest.raises(StoreError, match=r"does not answer.*look at the network, the credentials") as caught:
        here.has(OTHER)
    assert "s3cr3t" not in str(caught.value)
    away.failures = 0
    here.send_unsent()
    assert Store(tmp_path / "b", upstream=FolderByUri(uri)).has(KEY)


def test_a_uri_that_refuses_is_told_at_once(tmp_path: Path) -> None:
    here = Store(tmp_path / "a", upstream=FolderByUri(f"memory://{tmp_path.name}"))
    away = _behind(here, 10**6, PermissionError("not yours"))
    with pytest.raises(StoreError, match="refuses"):
        here.has(KEY)
    assert away.failures == 10**6 - 1


@pytest.mark.parametrize("given", ["nosuch://me:s3cr3t@host/x", "nosuch://AKIA1:s3cr3t@bucket/x?token=s3cr3t"])
def test_a_uri_that_cannot_be_opened_is_one_message_without_its_secrets(given: str) -> None:
    with pytest.raises(UsageError) as caught:
        open_store(given)
    assert "--store" in str(caught.value)
    assert "s3cr3t" not in str(caught.value) and "AKIA1" not in str(caught.value)


def test_secrets_among_a_url_s_options_are_hidden_too() -> None:
    assert without_password("postgresql://host/db?user=me&password=s3cr3t&x=1") == "postgresql://host/db?user=me&password=***&x=1"


def test_a_folder_is_a_folder_and_an_upstream_travels(tmp_path: Path) -> None:
    assert not is_uri(str(tmp_path)) and not is_uri(tmp_path) and not is_uri(None) and is_uri("s3://bucket")
    assert open_store(str(tmp_path)).upstream is None
    again = pickle.loads(pickle.dumps(FolderByUri(f"memory://{tmp_path.name}")))
    again.offer("entries/x", b"content")
    assert fsspec.filesystem("memory").exists(f"/{tmp_path.name}/entries/x")
