"""Alternatives to our choices where paper 002 leaves a detail open, one at a time, on embedded synthetic faces.

  jaxfer study configs/landmark_fusion/choices_synthetic.py --workdir runs/choices_synthetic

  row                          our choice                              the alternative
  p constant to the gradient   gradients flow through p                no gradients flow through p
  gaussian dots                landmarks are drawn as discs            landmarks are drawn as Gaussians
  affinity by running mean     mean of the batch, as in the code       moving average, as in the paper's figure
  affinity alone               mean of the batch, as in the code       each image by itself
  moving average in training   mean of the batch, as in the code       moving average in training and evaluation
  too

Every row starts from the baseline's RGB net. This works for all of them: the baseline is trained with the mean of the
batch, and the moving average is updated whether it is used or not (`layers.amend`).
"""

import dataclasses
from typing import Any

from jaxfer.config import Row, StudyConfig

from . import ablation_synthetic
from .ablation import BASELINE, PROPOSED

CHOICES: dict[str, dict[str, Any]] = {
  "p constant to the gradient": {"model.stop_gradient_p": True},
  "gaussian dots": {"model.dot": "gaussian"},
  "affinity by running mean": {"model.affinity": "ema"},
  "affinity alone": {"model.affinity": "alone"},
  "moving average in training too": {"model.affinity": "ema", "model.train_affinity": "ema"},
}
_SMOKE = (BASELINE, "gaussian dots", "affinity by running mean")


def get_config() -> StudyConfig:
  ablation = ablation_synthetic.get_config()
  return dataclasses.replace(
    ablation,
    title="Paper 002 on embedded faces: what the paper leaves open",
    rows=(
      *(row for row in ablation.rows if row.name in (BASELINE, PROPOSED)),
      *(Row(name, {"recipe.rgb": "given", **choice}, None, BASELINE) for name, choice in CHOICES.items()),
    ),
    compared=((PROPOSED, BASELINE), *((name, PROPOSED) for name in CHOICES)),
    presets={**ablation.presets, "smoke": {**ablation.presets["smoke"], "rows": _SMOKE}},
    note="synthetic faces, not the paper's data; the paper does not say which of these it does, the proposed row is "
    "what we take; accuracy is of batches of 64 in order, other batches are in the tables below",
  )
