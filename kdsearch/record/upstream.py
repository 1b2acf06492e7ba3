"""Where a store finds what it lacks, and leaves what was made in it: the store of a cluster's driver, or a folder by URI.

Things go by name: ``entries/<key>`` is a zip of an entry's files, whose manifest holds their SHA-256; ``checkpoints/<key>`` the last
checkpoint that was sent; ``blobs/<kind>/<name>`` a table. Checkpoints and tables carry a checksum at their end, as on disk.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from kdsearch.errors import StoreError
from kdsearch.record.files import sealed, unsealed

if TYPE_CHECKING:
    from kdsearch.record.store import Store

ENTRY_FILES = ("recipe.json", "metrics.json", "weights.safetensors")
MANIFEST = "manifest.json"


class Upstream(Protocol):
    """Every method raises :class:`StoreError` where the upstream cannot be reached."""

    def holds(self, name: str) -> bool:
        """Whether it has ``name``."""

    def fetch(self, name: str) -> bytes | None:
        """The content of ``name``; None where it has none."""

    def offer(self, name: str, content: bytes) -> None:
        """Keep ``content``; one that does not keep such things passes over it."""

    def drop(self, name: str) -> None:
        """Forget ``name``, if it is there."""


class Served:
    """A store as the upstream of others."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def holds(self, name: str) -> bool:
        """See :class:`Upstream`."""
        kind, _, rest = name.partition("/")
        return kind == "entries" and self.store.has(rest)

    def fetch(self, name: str) -> bytes | None:
        """See :class:`Upstream`."""
        kind, _, rest = name.partition("/")
        if kind == "entries":
            return packed(self.store.entry(rest).folder) if self.store.has(rest) else None
        if kind == "checkpoints":
            found = self.store.latest_checkpoint(rest)
            return None if found is None else checkpoint_bytes(rest, *found)
        if kind == "blobs":
            content = self.store.get_blob(*_table(rest))
            return None if content is None else sealed(rest, content)
        return None

    def offer(self, name: str, content: bytes) -> None:
        """See :class:`Upstream`. An entry that arrives damaged is an error; a checkpoint or a table is passed over."""
        kind, _, rest = name.partition("/")
        if kind == "entries":
            if not self.store.accept(rest, content):
                raise StoreError(f"{name}: arrived damaged")
            self.store.share(rest)
        if kind == "checkpoints" and (found := checkpoint_of(rest, content)) is not None:
            self.store.save_checkpoint(rest, *found)
        if kind == "blobs" and (table := unsealed(rest, content)) is not None:
            self.store.put_blob(*_table(rest), table)

    def drop(self, name: str) -> None:
        """See :class:`Upstream`; only checkpoints are ever dropped."""
        kind, _, rest = name.partition("/")
        if kind == "checkpoints":
            self.store.drop_checkpoints(rest)


def _table(name: str) -> tuple[str, str]:
    kind, _, rest = name.partition("/")
    return kind, rest


def packed(folder: Path) -> bytes:
    """The files of an entry in one piece; weights do not shrink, so nothing is compressed."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_STORED) as archive:
        for name in (*ENTRY_FILES, MANIFEST):
            archive.write(folder / name, name)
    return made.getvalue()


def unpacked(key: str, content: bytes) -> dict[str, bytes] | None:
    """The files of :func:`packed`, without the manifest; None where they are damaged or of another key."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            manifest = json.loads(archive.read(MANIFEST))
            files = {name: archive.read(name) for name in ENTRY_FILES}
        sums = {name: hashlib.sha256(file).hexdigest() for name, file in files.items()}
        return files if manifest["key"] == key and manifest["files"] == sums else None
    except (zipfile.BadZipFile, ValueError, KeyError, TypeError, EOFError, NotImplementedError):
        return None


def checkpoint_bytes(key: str, epoch: int, blob: bytes) -> bytes:
    """A checkpoint in one piece."""
    return sealed(f"checkpoints/{key}", epoch.to_bytes(8, "little") + blob)


def checkpoint_of(key: str, content: bytes) -> tuple[int, bytes] | None:
    """(epoch, blob) of :func:`checkpoint_bytes`; None where it is damaged or of another key."""
    plain = unsealed(f"checkpoints/{key}", content)
    return None if plain is None or len(plain) < 8 else (int.from_bytes(plain[:8], "little"), plain[8:])
