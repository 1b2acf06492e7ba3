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
from typing import Protocol

from kdsearch.record.files import sealed, unsealed

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
