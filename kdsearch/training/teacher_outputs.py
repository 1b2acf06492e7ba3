"""What trained teachers say about the views of an epoch, computed once and shared by every trial, process and later study.

The view of image i in epoch e is a pure function of (stream seed, e, i), and a teacher in eval mode gives one answer to a view,
whatever the student's temperature, coefficient, schedule or precision. So a teacher's logits are kept in a table for each
(teacher, data, augmentation, seed, epoch), made when the first trial reaches that epoch. Without augmentation one table serves all
epochs. Tables are exact up to float16 storage and the numerics of the batch shape they are filled with, which is fixed.

One table with a row for each of a picture's 162 views (crop and flip) would ask the teacher less often in long runs: 42% less in 200
epochs, 3% in 12 (python -m tests.benchmarks.tables). It would be a file that processes change in place; one for each epoch is written
once, checked as a whole, and read in order, in a fifth of the time.
"""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from kdsearch.record.store import Store
from kdsearch.spec.recipe import Recipe
from kdsearch.training.augment import AUGMENTATIONS, VERSION
from kdsearch.training.data import DataSet, Split, fingerprint, load
from kdsearch.training.keys import key_of
from kdsearch.training.networks import autocast, load_trained
from kdsearch.training.quantizers.base import cached
from kdsearch.training.views import Views

KIND = "teacher-outputs"
FILL_BATCH = 256
"""Images per teacher pass. Always full (the last batch is filled up with images from the start), so that the arithmetic of an
image's row depends on the table alone."""
LARGEST = 65504.0
"""Largest float16; logits beyond it are clipped."""


class Teacher:
    """A trained network that answers, from tables where it can. ``network`` loads it, at the first answer that is not there."""

    def __init__(self, key: str, network: Callable[[], nn.Module], dataset: DataSet, dtype: str, store: Store, device: str) -> None:
        """``dataset``: the teacher's own, whose constants normalise what it sees."""
        self.key = key
        self._network, self._dataset, self._dtype = network, dataset, dtype
        self._store, self._device = store, device

    @property
    def network(self) -> nn.Module:
        """The network, in eval mode."""
        return self._network()

    @torch.no_grad()
    def logits(self, images: Tensor) -> Tensor:
        """Live answer to normalised ``images`` (B, C, H, W): (B, K) float32."""
        with autocast(self._device, self._dtype):
            found: Tensor = self.network(images)
        return found.float()

    def epoch(self, dataset: DataSet, augmentation: str, seed: int, epoch: int) -> Tensor:
        """Logits (N, K) float16 on the device for the student's training images, in their order in ``dataset.train``."""
        if AUGMENTATIONS[augmentation] is None:
            seed = epoch = 0
        stem = _digest(self.key, fingerprint(dataset.data), dataset.train.digest(), augmentation, VERSION, seed)
        return self._table(f"{stem}-{epoch:05d}", dataset.train, augmentation, seed, epoch)

    def answers(self, dataset: DataSet, split: str) -> Tensor:
        """Logits (N, K) float16 for the images of a split as they are."""
        part = dataset.split(split)
        return self._table(f"{_digest(self.key, fingerprint(dataset.data), part.digest(), split)}-plain", part, "none", 0, 0)

    def _table(self, name: str, split: Split, augmentation: str, seed: int, epoch: int) -> Tensor:
        blobs = self._store.blobs
        found = blobs.get_array(KIND, name)
        if found is None:
            with self._store.lease(f"{KIND}-{name}", transient=True):
                found = blobs.get_array(KIND, name)  # whoever held the lease may have made it
                if found is None:
                    blobs.put_array(KIND, name, self._computed(split, augmentation, seed, epoch))
                    found = blobs.get_array(KIND, name)
        if found is None:  # evicted at once: the size limit is below one table
            found = self._computed(split, augmentation, seed, epoch)
        return torch.from_numpy(np.array(found)).to(self._device)

    def _computed(self, split: Split, augmentation: str, seed: int, epoch: int) -> np.ndarray[tuple[int, int], np.dtype[np.float16]]:
        count = len(split)
        order = torch.arange(-(-count // FILL_BATCH) * FILL_BATCH, device=self._device) % count
        views = Views(self._dataset, split, augmentation, seed, self._device)
        with torch.no_grad(), cached():
            batches = views.batches(epoch, order, FILL_BATCH)
            rows = [self.logits(images).clamp(-LARGEST, LARGEST).to(torch.float16) for images in batches]
        return torch.cat(rows)[:count].cpu().numpy()


def trained_teacher(recipe: Recipe, store: Store, device: str) -> Teacher:
    """The trained teacher of ``recipe``, which the store has; its network is loaded when it is needed, and kept for later trials."""
    key, dataset = key_of(recipe), load(recipe.data)

    def network() -> nn.Module:
        place = (str(store.root), key, device)
        if place in _NETWORKS:
            _NETWORKS.move_to_end(place)
        else:
            _NETWORKS[place] = load_trained(recipe, store, key=key, dataset=dataset, device=device).requires_grad_(False)
            while len(_NETWORKS) > _KEPT_NETWORKS:
                _NETWORKS.popitem(last=False)
        return _NETWORKS[place]

    return Teacher(key, network, dataset, recipe.optim.dtype, store, device)


_NETWORKS: OrderedDict[tuple[str, str, str], nn.Module] = OrderedDict()
_KEPT_NETWORKS = 6


@torch.no_grad()
def answered(network: nn.Module, dataset: DataSet, split: str, device: str, dtype: str) -> Tensor:
    """Logits (N, K) float32 of a network that is not kept in tables, for the images of a split as they are."""
    part = dataset.split(split)
    was_training = network.training
    network.eval()
    with autocast(device, dtype):
        batches = Views(dataset, part, "none", 0, device).batches(0, torch.arange(len(part), device=device), FILL_BATCH)
        found = torch.cat([network(images).float() for images in batches])
    network.train(was_training)
    return found


def _digest(*parts: str | int) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]
