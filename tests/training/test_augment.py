"""Views and orders are pure functions of (seed, epoch, image)."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kdsearch.training.augment import AUGMENTATIONS, Augmentation, apply, choices
from kdsearch.training.streams import hashed, order, stream


def _reference(image: torch.Tensor, augmentation: Augmentation, down: int, right: int, flip: int) -> torch.Tensor:
    """The same view, pixel by pixel."""
    _, height, width = image.shape
    out = torch.zeros_like(image)
    for y in range(height):
        for x in range(width):
            source_x = width - 1 - x if flip else x
            row, column = y + down - augmentation.pad, source_x + right - augmentation.pad
            if 0 <= row < height and 0 <= column < width:
                out[:, y, x] = image[:, row, column]
    return out


@pytest.mark.parametrize("name", ["crop_flip", "crop", "shift"])
def test_every_view_is_the_padded_crop_it_says(name: str) -> None:
    augmentation = AUGMENTATIONS[name]
    assert augmentation is not None
    images = torch.randint(0, 256, (20, 3, 8, 9), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    chosen = choices(augmentation, 3, 5, torch.arange(20))
    views = apply(augmentation, images, chosen)
    for image, view, row in zip(images, views, chosen.tolist(), strict=True):
        assert torch.equal(view, _reference(image, augmentation, *row))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31 - 1), st.integers(1, 500), st.permutations(range(12)), st.integers(1, 12))
def test_a_view_does_not_depend_on_the_batch_it_is_in(seed: int, epoch: int, shuffled: list[int], size: int) -> None:
    augmentation = Augmentation(pad=2, flip=True)
    numbers = torch.tensor(shuffled)
    images = torch.arange(12 * 16, dtype=torch.uint8).view(12, 1, 4, 4)
    together = apply(augmentation, images, choices(augmentation, seed, epoch, torch.arange(12)))
    for part in numbers.split(size):
        assert torch.equal(apply(augmentation, images[part], choices(augmentation, seed, epoch, part)), together[part])


def test_views_are_spread_evenly_and_change_with_seed_and_epoch() -> None:
    augmentation = Augmentation(pad=4, flip=True)
    numbers = torch.arange(162 * 200)
    chosen = choices(augmentation, 1, 1, numbers)
    counts = torch.bincount(chosen[:, 0] * 18 + chosen[:, 1] * 2 + chosen[:, 2], minlength=162).double()
    chi_square = float(((counts - 200) ** 2 / 200).sum())
    assert chi_square < 161 + 5 * (2 * 161) ** 0.5
    for other in (choices(augmentation, 2, 1, numbers), choices(augmentation, 1, 2, numbers)):
        assert (other == chosen).all(1).double().mean() < 3 / 162


def test_the_order_is_a_permutation_that_changes_with_seed_and_epoch() -> None:
    numbers = torch.arange(500)
    first = order(0, 1, numbers)
    assert torch.equal(first.sort().values, numbers)
    assert torch.equal(first, order(0, 1, numbers))
    assert not torch.equal(first, order(0, 2, numbers))
    assert not torch.equal(first, order(1, 1, numbers))
    # Images keep their places relative to each other when others are left out.
    assert torch.equal(numbers[::2][order(0, 1, numbers[::2])], first[first % 2 == 0])


def test_the_mixer_is_splitmix64() -> None:
    """The first outputs of splitmix64 seeded with 1234567, as published with the algorithm."""
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    mask, gamma = 2**64 - 1, 0x9E3779B97F4A7C15
    for index, expected in enumerate(published):
        value = (1234567 + (index + 1) * gamma) & mask
        value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & mask
        value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & mask
        assert value ^ (value >> 31) == expected
    # The tensor form is the same finaliser over counters.
    seed = stream(0, "order", 1)
    from kdsearch.training import streams

    for counter in (0, 1, 12345):
        value = (counter * gamma + streams._mix_int(seed)) & mask
        value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & mask
        value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & mask
        assert int(hashed(seed, torch.tensor([counter]))) & mask == value ^ (value >> 31)


def test_streams_of_different_purposes_and_counters_differ() -> None:
    made = {stream(seed, purpose, counter) for seed in range(20) for purpose in ("init", "order", "augment") for counter in range(20)}
    assert len(made) == 20 * 3 * 20
