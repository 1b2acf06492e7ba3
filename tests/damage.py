"""Damage to a file's content, as disks, crashes and editors do it."""

from __future__ import annotations

import random


def damaged(content: bytes, draw: random.Random, other: bytes = b"") -> bytes:
    """``content`` cut, emptied, altered in a bit or a stretch, with bytes put in, or replaced by ``other``; never the same."""
    place = draw.randrange(max(len(content), 1))
    ways = [
        lambda: b"",
        lambda: content[:place],
        lambda: content[:place] + bytes([content[place] ^ (1 << draw.randrange(8))]) + content[place + 1 :],
        lambda: content[:place] + draw.randbytes(draw.randrange(1, 9)) + content[place:],
        lambda: content[:place] + bytes(draw.randrange(1, 65)) + content[place + 64 :],
        lambda: content[:place] + content[place + draw.randrange(1, 40) :],
        lambda: other,
    ]
    made = draw.choice(ways)() if content else draw.randbytes(8)
    return made if made != content else content + b"\0"
