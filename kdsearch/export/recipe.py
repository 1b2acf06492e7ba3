"""The best configuration as a file: a complete recipe that trains again from nothing, and where it comes from.

``kdsearch train best.yaml --store EMPTY`` trains it, teachers included. The recipe is written out in full, so that a later change
of a default does not change what the file means; ``provenance:`` is for people and for :mod:`kdsearch.export.bundle`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdsearch.analysis.select import Choice, best
from kdsearch.errors import NothingEligible
from kdsearch.record.files import replace_text
from kdsearch.record.store import Store
from kdsearch.spec.inherit import INHERITED, resolve_recipe
from kdsearch.spec.recipe import Recipe
from kdsearch.spec.words import loss_in_words, precision_in_words
from kdsearch.spec.yaml_reader import dump_yaml

if TYPE_CHECKING:
    from kdsearch.record.run import Run
    from kdsearch.record.trials import TrialRow
    from kdsearch.spec.study import Stratum, Study

RUNNERS_UP = 3
"""Configurations named after the best one in a provenance block."""
