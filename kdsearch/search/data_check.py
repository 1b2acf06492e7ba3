"""A look at a study's data before anything starts, so that a folder without ``train/`` is one message and not a run of failures."""

from __future__ import annotations

import random
from collections.abc import Iterator

from kdsearch.spec.recipe import Data, Recipe
from kdsearch.spec.study import Study


def check_data(study: Study, *, test: bool = False) -> None:
    """Open every data set that the study's recipes name; those that are already in memory cost nothing. ``test``: their test parts too.

    Raises:
        DataError: a data set is missing, incomplete, or holds a picture that cannot be decoded; names the folder or file.
    """
    wanted = data_of(study)
    if not wanted:
        return
    from kdsearch.training.data import load  # loads torch, which a study on the embedded digits does not need here

    for data in sorted(wanted, key=repr):
        found = load(data)
        if test:
            found.test()


def data_of(study: Study) -> set[Data]:
    """The data sets that the study's recipes name, as far as a few samples show; the embedded digits are not among them."""
    return {data for recipe in _samples(study) for data in _data(recipe) if data.name != "digits"}


def _samples(study: Study, count: int = 8) -> Iterator[Recipe]:
    draw = random.Random(0)
    for stratum in study.strata_list():
        structure = study.structure(stratum)
        for _ in range(count):
            yield study.recipe_for(structure.sample(draw), stratum, study.seeds[0])


def _data(recipe: Recipe) -> Iterator[Data]:
    yield recipe.data
    for child in recipe.children().values():
        yield from _data(child)
