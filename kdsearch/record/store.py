"""The store: what training produced, under the key of the recipe that produced it.

::

    <root>/<key[:2]>/<key>/         a finished entry: recipe.json, metrics.json, weights.safetensors, manifest.json (checksums)
    <root>/checkpoints/<key>/       epoch checkpoints of what is unfinished, the last two
    <root>/blobs/<kind>/<name>      tables that can be computed again (teacher outputs), least recently used ones evicted
    <root>/unsent/<key>             empty; entries that an upstream (:mod:`kdsearch.record.upstream`) has yet to get
    <root>/leases/<key>             lock files; an operating-system lock on one is the right to work on its key
    <root>/tmp/                     files being written

Everything is written under a temporary name and renamed, so a reader sees all of a thing or nothing, and carries SHA-256, so
that what a full disk, a crash or a bad sector damaged counts as absent and is made again. Nothing here is ever unpickled.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import threading
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdsearch.errors import StoreError
from kdsearch.record.blobs import Blobs
from kdsearch.record.files import checked_read, checked_write, storage_errors
from kdsearch.record.upstream import ENTRY_FILES, MANIFEST, Upstream, checkpoint_bytes, checkpoint_of, packed, unpacked

KEEP_CHECKPOINTS = 2
"""Epoch checkpoints kept of an unfinished key: the last one, and the one before in case it is damaged."""
SENT_SECONDS = 30.0
"""A checkpoint goes upstream when the last one of its key that did is this old; so much is lost with a machine."""

_NAME = re.compile(r"[A-Za-z0-9_][\w.-]*")


class Leased(StoreError):
    """Somebody else holds the lease that was asked for without waiting."""


@dataclass(frozen=True)
class Entry:
    """A finished training run."""

    key: str
    folder: Path

    @property
    def recipe(self) -> dict[str, Any]:
        """The resolved recipe, as written in its JSON."""
        return _read_json(self.folder / "recipe.json")

    @property
    def metrics(self) -> dict[str, Any]:
        """``{"epochs": [...], "final": {...}, "environment": {...}}``."""
        return _read_json(self.folder / "metrics.json")

    @property
    def weights(self) -> Path:
        """The safetensors file of trained weights."""
        return self.folder / "weights.safetensors"


class Lease:
    """The right to work on one key; a context manager. It ends with :meth:`release`, or with the process that holds it."""

    def __init__(self, path: Path, wait: bool, transient: bool) -> None:
        self._descriptor: int | None = None
        self._path, self._transient = path, transient
        self._owner = (os.getpid(), threading.get_ident())
        self._id = (str(path), *self._owner)
        if self._id in _HELD:
            if not wait:
                raise Leased(f"{path.name}: this thread is working on it")
            raise StoreError(f"{path.name}: this thread holds the lease already and would wait for itself for ever")
        with storage_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            while True:
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
                try:
                    # Blocks in the kernel, without polling; a signal handler that raises (Ctrl-C) ends it.
                    fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
                    # Whoever cleans up may have removed the file between opening and locking: then the lock means nothing.
                    with contextlib.suppress(FileNotFoundError):
                        if os.fstat(descriptor).st_ino == path.stat().st_ino:
                            break
                except BlockingIOError:
                    os.close(descriptor)
                    raise Leased(f"{path.name}: another process is working on it") from None
                except BaseException:
                    os.close(descriptor)
                    raise
                os.close(descriptor)
        self._descriptor = descriptor
        _HELD.add(self._id)

    def release(self) -> None:
        """Give the lease up; a second call does nothing."""
        if self._descriptor is not None:
            # Closing in a forked child must not unlock what the parent holds; closing alone leaves the parent's lock in force.
            if os.getpid() == self._owner[0]:
                if self._transient:  # while it is locked: a waiter sees that its file is gone and makes another
                    self._path.unlink(missing_ok=True)
                fcntl.flock(self._descriptor, fcntl.LOCK_UN)
            os.close(self._descriptor)
            self._descriptor = None
            _HELD.discard(self._id)

    def __enter__(self) -> Lease:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def __del__(self) -> None:
        self.release()


_HELD: set[tuple[str, int, int]] = set()


class Store:
    """A folder of finished entries, checkpoints, leases and tables. Safe for many processes on one machine at once.

    With an upstream, what is missing here is looked for there, and what is finished here goes there: at once, or, where it cannot
    be reached, with the next thing that does. Leases are this machine's; two machines may train the same recipe at once.
    """

    def __init__(self, root: str | Path, *, blob_limit: int | None = None, upstream: Upstream | None = None) -> None:
        """``blob_limit``: bytes of tables to keep; default 20 GiB, or ``KDSEARCH_TABLES_GIB`` from the environment."""
        self.root = Path(root).expanduser().absolute()
        if self.root.exists() and not self.root.is_dir():
            raise StoreError(f"{self.root}: is a file; the store needs a folder")
        self.upstream = upstream
        self._verified: dict[str, tuple[tuple[int, int, int], ...]] = {}
        self._shared: set[str] = set()
        self._sent: dict[str, float] = {}
        self._blobs = Blobs(self.root / "blobs", self.root / "tmp", blob_limit, upstream)

    @classmethod
    def default(cls) -> Store:
        """The store of ``KDSEARCH_STORE``, else ``kdsearch/store`` in the user's cache folder."""
        return cls(default_root())

    # Entries

    def has(self, key: str) -> bool:
        """Whether ``key`` is finished and its files match their checksums (read once per process and change of the files).

        Fetches it where only the upstream has it. Raises :class:`StoreError` where that cannot be asked.
        """
        if self._intact(key):
            self.share(key)
            return True
        content = self.upstream.fetch(f"entries/{key}") if self.upstream is not None else None
        if content is None or not self.accept(key, content):
            return False
        self._shared.add(key)
        return True

    def accept(self, key: str, content: bytes) -> bool:
        """File an entry that came in one piece; returns False where it is damaged. One that is here already stays."""
        files = unpacked(key, content)
        if files is not None:
            self._file(key, files)
        return files is not None

    def send_unsent(self) -> int:
        """Offer the upstream what it did not get when it was made; returns how many entries it still lacks."""
        return sum(not self._send(marker.name) for marker in _listed(self.root / "unsent"))

    def _intact(self, key: str) -> bool:
        folder = self._folder(key)
        try:
            manifest = _read_json(folder / MANIFEST)
            files = manifest["files"]
            if manifest["key"] != key or set(files) != set(ENTRY_FILES):
                return False
            stats = [(folder / name).stat() for name in ENTRY_FILES]
            state = tuple((stat.st_ino, stat.st_size, stat.st_mtime_ns) for stat in stats)
            if self._verified.get(key) == state:
                return True
            for name in ENTRY_FILES:
                with (folder / name).open("rb") as file:
                    if hashlib.file_digest(file, "sha256").hexdigest() != files[name]:
                        return False
        except (OSError, ValueError, KeyError, TypeError, RecursionError, StoreError):
            return False
        self._verified[key] = state
        return True

    def share(self, key: str) -> None:
        """See to it, once per process, that the upstream has an entry that is here."""
        if self.upstream is None or key in self._shared:
            return
        self._shared.add(key)
        try:
            there = self.upstream.holds(f"entries/{key}")
        except StoreError:
            there = False
        if not there:
            self._send(key)

    def _send(self, key: str) -> bool:
        """Offer an entry; where that fails it is noted on disk, and offered again later. Nobody's training ends with it."""
        if self.upstream is None:
            return False
        marker = self.root / "unsent" / key
        with storage_errors(marker):
            marker.parent.mkdir(parents=True, exist_ok=True)
            marker.touch()
        try:
            if self._intact(key):
                self.upstream.offer(f"entries/{key}", packed(self._folder(key)))
        except (StoreError, OSError):
            return False
        marker.unlink(missing_ok=True)
        self._shared.add(key)
        return True

    def entry(self, key: str) -> Entry:
        """The finished entry of ``key``. Raises :class:`StoreError` where there is none, or only a damaged one."""
        if not self.has(key):
            raise StoreError(f"{self.root}: no finished entry {key}; `kdsearch train` with its recipe makes one")
        return Entry(key, self._folder(key))

    def keys(self) -> Iterator[str]:
        """Keys that have an entry, checked or not."""
        for folder in sorted(self.root.glob("[0-9a-f][0-9a-f]/*")):
            if (folder / "manifest.json").is_file():
                yield folder.name

    def write(self, key: str, recipe: Mapping[str, Any], metrics: Mapping[str, Any], weights: bytes) -> Entry:
        """File a finished run, whole or not at all. A valid entry that is there already is kept; a damaged one is replaced."""
        self._file(key, {"recipe.json": _json_bytes(recipe), "metrics.json": _json_bytes(metrics), "weights.safetensors": weights})
        if self._send(key):
            self.send_unsent()
        return Entry(key, self._folder(key))

    def _file(self, key: str, contents: Mapping[str, bytes]) -> None:
        folder = self._folder(key)
        with self.lease(f"filing-{key}", transient=True):  # it may come from upstream and from training at once
            if self._intact(key):
                return
            with storage_errors(folder):
                made = self._temporary(key)
                made.mkdir(parents=True)
                try:
                    for name, content in contents.items():
                        (made / name).write_bytes(content)
                    sums = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
                    (made / MANIFEST).write_bytes(_json_bytes({"key": key, "files": sums}))
                    folder.parent.mkdir(parents=True, exist_ok=True)
                    self._discard(folder)
                    made.rename(folder)
                finally:
                    shutil.rmtree(made, ignore_errors=True)
            self._verified.pop(key, None)

    def lease(self, key: str, wait: bool = True, *, transient: bool = False) -> Lease:
        """The right to work on ``key``; without ``wait`` raises :class:`Leased` where another process or thread has it.

        ``transient`` removes the lock file afterwards, for keys of which there are many.
        """
        return Lease(self.root / "leases" / _checked(key), wait, transient)

    # Checkpoints

    def save_checkpoint(self, key: str, epoch: int, blob: bytes) -> None:
        """Keep the state after ``epoch`` (from 1); older ones than the last two go."""
        folder = self._checkpoints(key)
        checked_write(folder / f"{epoch:06d}", self.root / "tmp", blob)
        for old in sorted(_listed(folder))[:-KEEP_CHECKPOINTS]:
            old.unlink(missing_ok=True)
        now = time.monotonic()
        if self.upstream is not None and now - self._sent.setdefault(key, now) >= SENT_SECONDS:
            self._sent[key] = now
            with contextlib.suppress(StoreError):
                self.upstream.offer(f"checkpoints/{key}", checkpoint_bytes(key, epoch, blob))

    def latest_checkpoint(self, key: str) -> tuple[int, bytes] | None:
        """The last undamaged checkpoint of ``key``, here or upstream, as (epoch, bytes)."""
        here = self._latest_here(key)
        there = None
        if self.upstream is not None:
            with contextlib.suppress(StoreError):
                there = checkpoint_of(key, self.upstream.fetch(f"checkpoints/{key}") or b"")
        return max((found for found in (here, there) if found is not None), key=lambda found: found[0], default=None)

    def _latest_here(self, key: str) -> tuple[int, bytes] | None:
        for path in sorted(_listed(self._checkpoints(key)), reverse=True):
            blob = checked_read(path)
            if blob is not None and path.name.isdigit():
                return int(path.name), blob
            path.unlink(missing_ok=True)
        return None

    def drop_checkpoints(self, key: str) -> None:
        """Remove the checkpoints of ``key``, upstream too."""
        shutil.rmtree(self._checkpoints(key), ignore_errors=True)
        self._sent.pop(key, None)
        if self.upstream is not None:
            with contextlib.suppress(StoreError):
                self.upstream.drop(f"checkpoints/{key}")

    def drop_abandoned(self, keys: Iterable[str]) -> None:
        """Remove the checkpoints of ``keys``, which the caller will not train further; those that somebody else trains stay."""
        for key in keys:
            with contextlib.suppress(Leased, StoreError), self.lease(key, wait=False, transient=True):
                self.drop_checkpoints(key)

    # Tables

    def blob_path(self, kind: str, name: str) -> Path:
        """Where the table ``name`` of ``kind`` lies, or would lie."""
        return self._blobs.path(_checked(kind), _checked(name))

    @property
    def blobs(self) -> Blobs:
        """Tables that can be computed again."""
        return self._blobs

    def put_blob(self, kind: str, name: str, blob: bytes) -> None:
        """Keep ``blob``, whole or not at all."""
        self._blobs.put(_checked(kind), _checked(name), blob)

    def get_blob(self, kind: str, name: str) -> bytes | None:
        """The bytes kept under ``name``; None where there are none or they are damaged."""
        return self._blobs.get(_checked(kind), _checked(name))

    # Places

    def _folder(self, key: str) -> Path:
        return self.root / _checked(key)[:2] / key

    def _checkpoints(self, key: str) -> Path:
        return self.root / "checkpoints" / _checked(key)

    def _temporary(self, name: str) -> Path:
        return self.root / "tmp" / f"{name}.{os.getpid()}.{uuid.uuid4().hex[:8]}"

    def _discard(self, folder: Path) -> None:
        if folder.exists():
            aside = self._temporary(folder.name + ".damaged")
            folder.rename(aside)
            shutil.rmtree(aside, ignore_errors=True)


def default_root() -> Path:
    """Folder of the default store: ``KDSEARCH_STORE`` where that names one, else ``kdsearch/store`` in the user's cache folder."""
    named = os.environ.get("KDSEARCH_STORE")
    if named and "://" not in named:
        return Path(named)
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "kdsearch" / "store"


def _checked(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise StoreError(f"{name!r} is not a name the store can use: letters, digits, '_', '-' and '.' only")
    return name


def _listed(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def _json_bytes(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, sort_keys=True, indent=1, allow_nan=False).encode()


def _read_json(path: Path) -> dict[str, Any]:
    with storage_errors(path):
        found = json.loads(path.read_bytes())
    if not isinstance(found, dict):
        raise StoreError(f"{path}: expected a JSON object")
    return found
