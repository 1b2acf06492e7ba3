"""Files that are whole or absent: atomic writes with a checksum at the end, and disk errors told to people."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import uuid
from collections.abc import Iterator
from pathlib import Path

from kdsearch.errors import StoreError

_MAGIC = b"kdsum-2\n"
TRAILER = len(_MAGIC) + hashlib.sha256().digest_size
"""Bytes after a checked file's content: a mark and the SHA-256 of folder, name and content, so that a file that took another one's
place is noticed too. At the end, so that the content can be memory-mapped."""


_SECRET = re.compile(r"([?&][^=&\s]*(?:passw|secret|token|key|sig|credential)[^=&\s]*=)[^&\s]*", re.IGNORECASE)


def without_password(url: str) -> str:
    """``url`` with what is secret in it, before its host or among its options, replaced by ``***``."""
    return _SECRET.sub(r"\1***", re.sub(r"(://[^:/@\s]*):.*@", r"\1:***@", url))


@contextlib.contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn a full disk or a missing permission into a :class:`StoreError` that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StoreError(f"{path}: the disk is full; make room and run the same command again") from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise StoreError(f"{path}: no permission to write here; name another folder with --store or KDSEARCH_STORE") from error
        if isinstance(error, BlockingIOError | InterruptedError):
            raise
        raise StoreError(f"{path}: {error.strerror or error}") from error


def _place(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"


def _begun(place: str) -> hashlib._Hash:
    return hashlib.sha256(f"{place}\n".encode())


def checked_write(path: Path, temporary: Path, *pieces: bytes | memoryview) -> int:
    """Write ``pieces``, one after another, and their checksum to ``path``, whole or not at all; returns the bytes written.

    ``temporary`` is a folder on the same file system.
    """
    digest, size = _begun(_place(path)), TRAILER
    with storage_errors(path):
        temporary.mkdir(parents=True, exist_ok=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        made = temporary / f"{path.name}.{os.getpid()}.{uuid.uuid4().hex[:8]}"
        try:
            with made.open("wb") as file:
                for piece in pieces:
                    file.write(piece)
                    digest.update(piece)
                    size += len(piece)
                file.write(_MAGIC + digest.digest())
            made.replace(path)
        finally:
            made.unlink(missing_ok=True)
    return size


def checked_read(path: Path) -> bytes | None:
    """The content of a file of :func:`checked_write`; None where it is absent or damaged."""
    try:
        whole = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror or error}") from error
    return unsealed(_place(path), whole)


def sealed(place: str, content: bytes) -> bytes:
    """``content`` as :func:`checked_write` would write it to ``place``, a file's folder and name as ``folder/name``."""
    digest = _begun(place)
    digest.update(content)
    return content + _MAGIC + digest.digest()


def unsealed(place: str, whole: bytes) -> bytes | None:
    """The content of what :func:`sealed` gave; None where it is damaged, or was made for another place."""
    content, trailer = whole[:-TRAILER], whole[-TRAILER:]
    digest = _begun(place)
    digest.update(content)
    return content if trailer == _MAGIC + digest.digest() else None


def intact(path: Path) -> bool:
    """Whether a file of :func:`checked_write` is there and undamaged, read in pieces."""
    try:
        left = path.stat().st_size - TRAILER
        if left < 0:
            return False
        digest = _begun(_place(path))
        with path.open("rb") as file:
            while left:
                piece = file.read(min(left, 1 << 22))
                if not piece:
                    return False
                digest.update(piece)
                left -= len(piece)
            return file.read() == _MAGIC + digest.digest()
    except OSError:
        return False
