"""What paper 002 prints of RAF-DB's 3,068 tested pictures, as counts that its rates follow from."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

# The columns of Tables 5 and 7, and how many pictures of each are tested (Table 3).
CLASSES = ("surprise", "fear", "disgust", "happiness", "sadness", "anger", "neutral")
TESTED = (329, 74, 160, 1185, 478, 162, 680)
# Table 2: right by the RGB net and the landmark net, by the RGB net alone, by the landmark net alone, by neither.
AGREEMENT = (2018, 806, 62, 182)
# Fig. 4's best w; its other values cannot be read off.
BEST_W = 0.6


@dataclasses.dataclass(frozen=True)
class Counts:
  """A row of the tables.

  Attributes:
    correct: by class, in the order of `CLASSES`; recall and accuracy are printed as rates (Tables 5 and 7).
    top: right among the one, two and three most likely classes (Tables 6 and 8).
  """

  correct: tuple[int, ...]
  top: tuple[int, int, int]

  @property
  def recall(self) -> np.ndarray:
    """By class, 0 to 1."""
    return np.divide(self.correct, TESTED)

  @property
  def accuracy(self) -> float:
    """Over all pictures."""
    return sum(self.correct) / sum(TESTED)

  @property
  def average_accuracy(self) -> float:
    """The mean recall."""
    return float(self.recall.mean())


BASELINE = Counts((296, 63, 107, 1142, 421, 130, 665), (2824, 2999, 3033))
PROPOSED = Counts((298, 63, 110, 1141, 419, 133, 668), (2832, 2998, 3028))
NO_WEIGHTS = Counts((298, 63, 115, 1137, 414, 129, 666), (2822, 2988, 3030))
CONFIDENCE = Counts((301, 64, 105, 1141, 413, 128, 670), (2822, 2985, 3024))
AGREEMENT_ONLY = Counts((297, 63, 109, 1143, 417, 130, 668), (2827, 2992, 3032))

# By the names that our studies give these rows.
ROWS = {
  "baseline: RGB net alone": BASELINE,
  "no weights": NO_WEIGHTS,
  "confidence p": CONFIDENCE,
  "agreement w": AGREEMENT_ONLY,
  "proposed: p and w": PROPOSED,
}
# What a training must have asked for to stand beside a printed accuracy (`System.published`).
CONDITIONS: tuple[tuple[str, Mapping[str, Any], float], ...] = (
  ("baseline (RGB net)", {"answer": "rgb", "affinity": "batch"}, BASELINE.accuracy),
  *(
    (
      "proposed",
      {
        "answer": "fused",
        "affinity": "batch",
        "confidence": True,
        "agreement": True,
        "recipe.w": BEST_W,
        "recipe.rgb": rgb,
      },
      PROPOSED.accuracy,
    )
    for rgb in ("first", "given")
  ),
)
# Table 11: truth, and what the landmark net, the RGB net and both together say.
CASES = (
  ("neutral", "neutral", "sadness", "neutral"),
  ("happiness", "happiness", "happiness", "happiness"),
  ("anger", "neutral", "happiness", "anger"),
  ("sadness", "sadness", "happiness", "happiness"),
)
