"""A study that uses most of what a study file can say."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kdsearch.spec.study import Study, load_study

JOINT = """\
name: joint
recipe:
  data: {name: cifar10, validation: 0.1}
  model: {architecture: resnet20}
  init: {model: {architecture: resnet20}}
  precision: {weights: $weights, activations: $activations}
  distill:
    teachers: [{model: {architecture: resnet20, width: $width}}]
    temperature: $temperature
    coefficient: $coefficient
    schedule: $schedule
space:
  width: {choices: [1, 1.5, 2, 4], ordered: true}
  temperature: {low: 1, high: 20, log: true}
  coefficient: {low: 0.1, high: 1}
  schedule: {choices: [constant, cr_linear, cr_cosine]}
  weights:
    choices:
      shin: {quantizer: shin, bits: 2, step_policy: $policy}
      lsq: {quantizer: lsq, bits: 2}
  policy: {choices: [once, every_step]}
  activations: {choices: {full: null, a4: {quantizer: pact, bits: 4}}}
strata: [activations]
baselines: {no_kd: {distill: null}}
objective: {metric: val_accuracy, direction: maximize}
sampler: {name: tpe}
pruner: {name: percentile}
budget: {trials: 200}
seeds: [0, 1]
resources: {cpu: 1, gpu: 0}
"""

PARAMS: Mapping[str, Any] = {"width": 2, "temperature": 4.0, "coefficient": 0.5, "schedule": "cr_linear", "weights": "lsq"}


def joint(folder: Path, *changes: tuple[str, str], overrides: tuple[str, ...] = ()) -> Study:
    """The study above, with some of its text replaced."""
    text = JOINT
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new)
    return study(folder, text, overrides)


def study(folder: Path, text: str, overrides: tuple[str, ...] = ()) -> Study:
    """The study that ``text`` says."""
    path = folder / "study_under_test.yaml"
    path.write_text(text, "utf-8")
    return load_study(path, overrides)
