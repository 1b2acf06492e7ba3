"""A folder of pictures: ``train/<class>/…``, and where they exist ``val/<class>/…`` and ``test/<class>/…``.

Small pictures are decoded once into uint8 arrays and kept. Decoded arrays and the digest of the files are cached in the user's
cache folder under what was read (path, size and time of change of every file), so that another process maps them into memory.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from kdsearch.errors import DataError, StoreError
from kdsearch.record.blobs import Blobs
from kdsearch.training.pictures import Bytes, Pictures, Source

PARTS = ("train", "val", "test")
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".ppm", ".pgm", ".tif", ".tiff", ".webp"})
IN_MEMORY_LIMIT = 8 << 30
"""Bytes of decoded pictures above which a folder is refused without ``streamed``."""
_LISTED_SECONDS = 60.0
_CACHE_LIMIT = 20 << 30


@dataclass(frozen=True)
class Listing:
    """Pictures of one part, in the order of their paths."""

    part: str
    files: tuple[Path, ...]
    labels: tuple[int, ...]
    state: str
    """Digest of paths, sizes and times of change."""


@dataclass(frozen=True)
class Folder:
    """An image folder, listed."""

    root: Path
    classes: tuple[str, ...]
    parts: dict[str, Listing]


_listed: dict[Path, tuple[float, Folder]] = {}


def listed(root: str | None) -> Folder:
    """List the folder; the listing is kept for a minute. Raises :class:`DataError` where something is missing."""
    if root is None:
        raise DataError("imagefolder: data.root must name the folder that holds train/<class>/<pictures>")
    folder = Path(root).expanduser()
    known = _listed.get(folder)
    if known is not None and time.monotonic() - known[0] < _LISTED_SECONDS:
        return known[1]
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; data.root must name the folder that holds train/<class>/<pictures>")
    if not (folder / "train").is_dir():
        found = ", ".join(sorted(path.name for path in folder.iterdir())[:8]) or "nothing"
        raise DataError(f"{folder}: has no train/ folder (it holds {found}); expected train/<class>/<pictures>")
    classes = tuple(sorted(path.name for path in (folder / "train").iterdir() if path.is_dir()))
    if len(classes) < 2:
        raise DataError(f"{folder / 'train'}: {len(classes)} class folders; expected at least two, as train/<class>/<pictures>")
    parts = {part: _list_part(folder, part, classes) for part in PARTS if (folder / part).is_dir()}
    made = Folder(folder, classes, parts)
    _listed[folder] = (time.monotonic(), made)
    return made


def _list_part(folder: Path, part: str, classes: tuple[str, ...]) -> Listing:
    files: list[Path] = []
    labels: list[int] = []
    digest = hashlib.sha256()
    given = {path.name for path in (folder / part).iterdir() if path.is_dir()}
    if unknown := sorted(given - set(classes)):
        raise DataError(f"{folder / part}: class {unknown[0]!r} has no folder in train/; allowed: {', '.join(classes[:20])}")
    for label, name in enumerate(classes):
        before = len(files)
        for directory, _, names in sorted(os.walk(folder / part / name)):
            for file in sorted(names):
                path = Path(directory, file)
                if path.suffix.lower() in SUFFIXES:
                    stat = path.stat()
                    digest.update(f"{path.relative_to(folder)}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode())
                    files.append(path)
                    labels.append(label)
        if part == "train" and len(files) == before:
            raise DataError(f"{folder / part / name}: holds no pictures ({', '.join(sorted(SUFFIXES))})")
    if not files:
        raise DataError(f"{folder / part}: holds no pictures in class folders")
    return Listing(part, tuple(files), tuple(labels), digest.hexdigest())


def folder_fingerprint(root: str | None) -> str:
    """SHA-256 over the relative paths and the bytes of every picture, test part included."""
    folder = listed(root)
    state = hashlib.sha256("".join(folder.parts[part].state for part in sorted(folder.parts)).encode()).hexdigest()
    if state in _fingerprints:
        return _fingerprints[state]
    cache = _cache()
    kept = cache.get("fingerprints", state) if cache is not None else None
    if kept is None:
        digest = hashlib.sha256()
        for part in sorted(folder.parts):
            files = folder.parts[part].files
            with ThreadPoolExecutor(4) as pool:
                for path, content in zip(files, pool.map(_file_digest, files, chunksize=256), strict=True):
                    digest.update(f"{path.relative_to(folder.root).as_posix()}\0".encode() + content)
        kept = digest.hexdigest().encode()
        with contextlib.suppress(StoreError):
            if cache is not None:
                cache.put("fingerprints", state, kept)
    _fingerprints[state] = kept.decode()
    return _fingerprints[state]


_fingerprints: dict[str, str] = {}


def _file_digest(path: Path) -> bytes:
    return hashlib.sha256(path.read_bytes()).digest()


def _cache() -> Blobs | None:
    """The user's cache of decoded pictures and digests; None where the cache folder cannot be written."""
    base = os.environ.get("XDG_CACHE_HOME")
    root = (Path(base) if base else Path.home() / ".cache") / "kdsearch" / "pictures"
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    return Blobs(root, root.parent / "tmp", _CACHE_LIMIT)


def open_folder(root: str | None, image_size: int | None) -> Source:
    """Decode the folder into memory. Raises :class:`DataError` naming the file that does not decode."""
    folder = listed(root)
    size = (image_size, image_size) if image_size is not None else _first_size(folder)
    grey = is_grey(folder)
    bytes_needed = sum(len(listing.files) for name, listing in folder.parts.items() if name != "test") * size[0] * size[1] * 3
    if bytes_needed > IN_MEMORY_LIMIT:
        raise DataError(
            f"{folder.root}: decoded it would take {bytes_needed / 2**30:.0f} GiB of memory; "
            "set data.streamed: true, or a smaller data.image_size"
        )

    def pictures(part: str) -> Pictures:
        if part not in folder.parts:
            raise DataError(f"{folder.root}: has no {part}/ folder; expected {part}/<class>/<pictures>")
        listing = folder.parts[part]
        resize = image_size is not None
        name = hashlib.sha256(f"{folder.root.absolute()}\0{listing.state}\0{size}\0{resize}\0{grey}".encode()).hexdigest()
        cache = _cache()
        images = cache.get_array("decoded", name) if cache is not None else None
        if images is None:
            images = _decoded(listing.files, size, resize, grey)
            with contextlib.suppress(StoreError):
                if cache is not None:
                    cache.put_array("decoded", name, images)
        return Pictures(images, np.asarray(listing.labels, dtype=np.int64))

    validation = pictures("val") if "val" in folder.parts else None
    return Source(pictures("train"), validation, lambda: pictures("test"), len(folder.classes))


def _first_size(folder: Folder) -> tuple[int, int]:
    """(height, width) of the first training picture."""
    with opened(folder.parts["train"].files[0]) as image:
        return image.size[1], image.size[0]


def is_grey(folder: Folder) -> bool:
    """Whether pictures are read as one channel: where the first training picture is grey."""
    with opened(folder.parts["train"].files[0]) as image:
        return image.mode in ("1", "L", "I", "I;16")


def opened(path: Path) -> Image.Image:
    """Open a picture. Raises :class:`DataError` naming it where that fails."""
    try:
        return Image.open(path)
    except (UnidentifiedImageError, OSError) as error:
        raise DataError(f"{path}: is not a picture that decodes ({error}); mend or remove it") from error


def _decoded(files: Sequence[Path], size: tuple[int, int], resize: bool, grey: bool) -> Bytes:
    def one(path: Path) -> Bytes:
        with opened(path) as image:
            try:
                converted = image.convert("L" if grey else "RGB")
            except (OSError, ValueError, SyntaxError) as error:
                raise DataError(f"{path}: is not a picture that decodes ({error}); mend or remove it") from error
        if converted.size != (size[1], size[0]):
            if not resize:
                raise DataError(
                    f"{path}: is {converted.size[0]}×{converted.size[1]} pixels, the first picture {size[1]}×{size[0]}; "
                    "set data.image_size to bring all to one size"
                )
            converted = fitted(converted, size[0])
        array = np.asarray(converted, dtype=np.uint8)
        return array[None] if grey else array.transpose(2, 0, 1)

    images = np.empty((len(files), 1 if grey else 3, *size), dtype=np.uint8)
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:  # PIL decodes without holding the interpreter's lock
        for index, image in enumerate(pool.map(one, files, chunksize=128)):
            images[index] = image
    return images


def fitted(image: Image.Image, side: int) -> Image.Image:
    """Resize the shorter side to ``side`` (bilinear with antialiasing) and cut the centre square."""
    width, height = image.size
    scale = side / min(width, height)
    image = image.resize((max(side, round(width * scale)), max(side, round(height * scale))), Image.Resampling.BILINEAR)
    left, top = (image.size[0] - side) // 2, (image.size[1] - side) // 2
    return image.crop((left, top, left + side, top + side))
