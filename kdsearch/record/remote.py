"""A store backed by a folder anywhere that fsspec reaches: ``s3://bucket/runs``, ``gs://…``, ``file:///…``.

The local store stays where it was; the URI keeps what took training (finished entries, and now and then a checkpoint). Tables are
computed again, which costs less than keeping every epoch's. Who may read and write there is settled by the library's own ways
(environment, configuration files), best not by a password in the URI; one that is there is never shown.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from kdsearch.errors import StoreError, UsageError
from kdsearch.record.files import without_password
from kdsearch.record.store import Store, default_root

PATIENCE = 300.0
"""Seconds for which something that is wanted is asked for again while the URI does not answer."""
SHORT_PATIENCE = 10.0
"""Seconds for sending: what is finished lies here, and is sent again later."""
_PAUSE = 60.0
"""Seconds after sending failed in which it is not tried again."""
T = TypeVar("T")
_KEPT = ("entries", "checkpoints", "about")


def open_store(where: str | Path | None) -> Store:
    """The store of ``--store``: a folder; a URI, which backs the default folder; None: the default.

    Raises:
        UsageError: a URI that fsspec does not know, or whose package is not installed.
    """
    if where is None:
        where = os.environ.get("KDSEARCH_STORE") or default_root()
    if is_uri(where):
        return Store(default_root(), upstream=FolderByUri(str(where)))
    return Store(where)


def is_uri(where: str | Path | None) -> bool:
    """Whether ``where`` is a URI and not a folder of this machine or of a shared file system."""
    return isinstance(where, str) and "://" in where


class FolderByUri:
    """A folder that fsspec reaches, as an upstream."""

    def __init__(self, uri: str) -> None:
        import fsspec  # loads slowly, and only this needs it

        self._uri, self.plain = uri, re.sub(r"://[^/]*@", "://***@", without_password(uri))
        self._away_until = 0.0
        try:
            self._files, self._root = fsspec.core.url_to_fs(uri)
        except ImportError as error:
            raise UsageError(f"--store {self.plain}: {self._said(error)}") from None
        except Exception as error:  # whatever a file system raises at what it is given
            raise UsageError(f"--store {self.plain}: is not a URI that can be opened ({self._said(error)})") from None

    def holds(self, name: str) -> bool:
        """See :class:`~kdsearch.record.upstream.Upstream`."""

        def look() -> bool:
            self._files.invalidate_cache()
            return bool(self._files.exists(self._path(name)))

        return self._keeps(name) and self._sent(look)

    def fetch(self, name: str) -> bytes | None:
        """See :class:`~kdsearch.record.upstream.Upstream`; waits while the URI does not answer."""

        def read() -> bytes | None:
            try:
                return bytes(self._files.cat_file(self._path(name)))
            except FileNotFoundError:
                return None

        return self._tried(read, PATIENCE) if self._keeps(name) else None

    def offer(self, name: str, content: bytes) -> None:
        """See :class:`~kdsearch.record.upstream.Upstream`."""

        def write() -> None:
            path = self._path(name)
            try:
                self._files.pipe_file(path, content)
            except FileNotFoundError:  # where folders have to be made
                self._files.makedirs(path.rpartition("/")[0], exist_ok=True)
                self._files.pipe_file(path, content)

        if self._keeps(name):
            self._sent(write)

    def drop(self, name: str) -> None:
        """See :class:`~kdsearch.record.upstream.Upstream`."""

        def remove() -> None:
            try:
                self._files.rm_file(self._path(name))
            except FileNotFoundError:
                return

        if self._keeps(name):
            self._sent(remove)

    def _path(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}"

    def _keeps(self, name: str) -> bool:
        return name.partition("/")[0] in _KEPT

    def _sent(self, step: Callable[[], T]) -> T:
        if time.monotonic() < self._away_until:
            raise StoreError(f"{self.plain}: did not answer a moment ago")
        try:
            return self._tried(step, SHORT_PATIENCE)
        except StoreError:
            self._away_until = time.monotonic() + _PAUSE
            raise

    def _tried(self, step: Callable[[], T], patience: float) -> T:
        deadline, pause = time.monotonic() + patience, 0.2
        while True:
            try:
                return step()
            except Exception as error:  # each file system raises its own
                refused = isinstance(error, PermissionError | ImportError | NotImplementedError)
                if refused or time.monotonic() + pause > deadline:
                    raise StoreError(
                        f"{self.plain}: {'refuses' if refused else 'does not answer'} ({self._said(error)}); look at the network, the "
                        "credentials and the name, or give --store a folder, then run again: what is finished lies in the local store"
                    ) from None
            time.sleep(pause)
            pause = min(2 * pause, 10.0)

    def _said(self, error: Exception) -> str:
        text = without_password(str(error).replace(self._uri, self.plain)).strip()
        return f"{type(error).__name__}: {text.splitlines()[0]}" if text else type(error).__name__

    def __reduce__(self) -> tuple[Any, ...]:
        return FolderByUri, (self._uri,)
