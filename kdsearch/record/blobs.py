"""Tables that can be computed again: checked files under a size limit, the least recently used ones evicted first."""

from __future__ import annotations

import contextlib
import io
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kdsearch.errors import StoreError
from kdsearch.record.files import checked_read, checked_write, intact, unsealed
from kdsearch.record.upstream import Upstream

DEFAULT_LIMIT_GIB = 20.0
_TOUCH_SECONDS = 30.0
_RESCAN_WRITES = 64


class Blobs:
    """Files ``<root>/<kind>/<name>``. Arrays are kept as ``.npy`` content, so that a reader maps them into memory."""

    def __init__(self, root: Path, temporary: Path, limit: int | None, upstream: Upstream | None = None) -> None:
        """``limit``: bytes kept; None takes ``KDSEARCH_TABLES_GIB`` from the environment, else 20 GiB. ``upstream``: where arrays
        that are missing are looked for and new ones go; one that cannot be reached is as good as none."""
        if limit is None:
            given = os.environ.get("KDSEARCH_TABLES_GIB", str(DEFAULT_LIMIT_GIB))
            try:
                limit = int(float(given) * 2**30)
            except ValueError:
                raise StoreError(f"KDSEARCH_TABLES_GIB is {given!r}; give a number of GiB such as 20") from None
        self.root, self.limit = root, limit
        self._temporary, self._upstream = temporary, upstream
        self._verified: dict[Path, tuple[int, int, int]] = {}
        self._touched: dict[Path, float] = {}
        self._size: int | None = None
        self._writes = 0

    def path(self, kind: str, name: str) -> Path:
        """Where a blob lies, or would lie."""
        return self.root / kind / name

    def put(self, kind: str, name: str, *content: bytes | memoryview) -> None:
        """Keep ``content``, piece after piece, whole or not at all; may evict others."""
        path = self.path(kind, name)
        written = checked_write(path, self._temporary, *content)
        self._verified.pop(path, None)
        self._writes += 1
        if self._size is None or self._writes % _RESCAN_WRITES == 0:
            self._size = self.size()
        else:
            self._size += written
        if self._size > self.limit:
            self._evict(keep=path)

    def get(self, kind: str, name: str) -> bytes | None:
        """The content; None where it is absent or damaged (a damaged file is removed)."""
        path = self.path(kind, name)
        content = checked_read(path)
        if content is None:
            path.unlink(missing_ok=True)
        else:
            self._touch(path)
        return content

    def put_array(self, kind: str, name: str, array: npt.NDArray[Any]) -> None:
        """Keep ``array`` as ``.npy`` content."""
        self.put(kind, name, *_npy(array))
        if self._upstream is not None:
            with contextlib.suppress(StoreError, OSError):
                self._upstream.offer(f"blobs/{kind}/{name}", self.path(kind, name).read_bytes())

    def get_array(self, kind: str, name: str) -> npt.NDArray[Any] | None:
        """The array, mapped read-only; None where it is absent here and upstream, or damaged (a damaged file is removed).

        The checksum is read once per process and state of the file.
        """
        found = self._mapped(kind, name)
        if found is None and self._upstream is not None:
            with contextlib.suppress(StoreError):
                content = unsealed(f"{kind}/{name}", self._upstream.fetch(f"blobs/{kind}/{name}") or b"")
                if content is not None:
                    self.put(kind, name, content)
                    found = self._mapped(kind, name)
        return found

    def _mapped(self, kind: str, name: str) -> npt.NDArray[Any] | None:
        path = self.path(kind, name)
        try:
            stat = path.stat()
        except FileNotFoundError:
            return None
        state = (stat.st_ino, stat.st_size, stat.st_mtime_ns)
        try:
            if self._verified.get(path) != state:
                if not intact(path):
                    path.unlink(missing_ok=True)
                    return None
                self._verified[path] = state
            found: npt.NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
        except FileNotFoundError:  # evicted by another process meanwhile
            return None
        self._touch(path)
        return found

    def size(self) -> int:
        """Bytes of all blobs."""
        return sum(size for _, size, _ in self._listed())

    def _touch(self, path: Path) -> None:
        # The access time is set by hand (file systems are mounted noatime) and apart from the modification time, which tells
        # a changed file.
        now = time.monotonic()
        if now - self._touched.get(path, -_TOUCH_SECONDS) >= _TOUCH_SECONDS:
            self._touched[path] = now
            with contextlib.suppress(OSError):
                os.utime(path, ns=(time.time_ns(), path.stat().st_mtime_ns))

    def _listed(self) -> list[tuple[int, int, Path]]:
        found = []
        for path in self.root.glob("*/*"):
            with contextlib.suppress(OSError):
                stat = path.stat()
                found.append((stat.st_atime_ns, stat.st_size, path))
        return found

    def _evict(self, keep: Path) -> None:
        # A tenth below the limit, so that not every write lists the folder. Readers that have a file mapped keep it.
        listed = sorted(self._listed())
        total = sum(size for _, size, _ in listed)
        for _, size, path in listed:
            if total <= self.limit * 0.9:
                break
            if path != keep:
                with contextlib.suppress(OSError):
                    path.unlink()
                    total -= size
        self._size = total


def array_bytes(array: npt.NDArray[Any]) -> bytes:
    """The ``.npy`` content that :meth:`Blobs.put_array` keeps."""
    return b"".join(_npy(array))


def _npy(array: npt.NDArray[Any]) -> tuple[bytes, memoryview]:
    array = np.ascontiguousarray(array)
    header = io.BytesIO()
    np.lib.format.write_array_header_2_0(header, np.lib.format.header_data_from_array_1_0(array))
    return header.getvalue(), array.reshape(-1).view(np.uint8).data  # without a copy of a large array
