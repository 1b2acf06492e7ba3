"""The key of a recipe on the data as it lies here."""

from __future__ import annotations

from kdsearch.spec.key import recipe_key
from kdsearch.spec.recipe import Recipe
from kdsearch.training.data import fingerprint


def key_of(recipe: Recipe) -> str:
    """64 hexadecimal digits under which the store files what training ``recipe`` gives. Reads the data set's content."""
    return recipe_key(recipe, fingerprint)
