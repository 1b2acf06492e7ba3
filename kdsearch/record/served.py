"""A store that other stores have as their upstream."""

from __future__ import annotations

from kdsearch.errors import StoreError
from kdsearch.record.files import sealed, unsealed
from kdsearch.record.store import Store
from kdsearch.record.upstream import checkpoint_bytes, checkpoint_of, packed


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
