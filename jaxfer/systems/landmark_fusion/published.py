"""Results that paper 002 prints for the 3,068 test images of RAF-DB, as the counts from which its rates follow."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

# The classes in the order of the columns of Tables 5 and 7, and the number of test images of each (Table 3).
CLASSES = ("surprise", "fear", "disgust", "happiness", "sadness", "anger", "neutral")
TEST_COUNTS = (329, 74, 160, 1185, 478, 162, 680)
# Table 2: numbers of images that both nets, only the RGB net, only the landmark net, or neither classify correctly.
AGREEMENT = (2018, 806, 62, 182)
# The accuracy of the landmark net according to Table 2. Section 4.2 gives it as about 0.68 beside that of the RGB net,
# so the net was probably trained alone.
LANDMARK_ACCURACY = (AGREEMENT[0] + AGREEMENT[2]) / sum(AGREEMENT)
# The w with the highest accuracy in Fig. 4. The accuracies of other values cannot be read from the figure.
BEST_W = 0.6


@dataclasses.dataclass(frozen=True)
class Counts:
  """The results of one method, out of `TEST_COUNTS` images.

  Attributes:
    correct: number of correctly classified images of each class, in the order of `CLASSES` (Tables 5 and 7, as rates).
    top: numbers of images whose true class is among the one, two and three most likely classes (Tables 6 and 8).
  """

  correct: tuple[int, ...]
  top: tuple[int, int, int]

  @property
  def recall(self) -> np.ndarray:
    """The recall of each class, in [0, 1]."""
    return np.divide(self.correct, TEST_COUNTS)

  @property
  def accuracy(self) -> float:
    """The share of all images that are classified correctly, in [0, 1]."""
    return sum(self.correct) / sum(TEST_COUNTS)

  @property
  def average_accuracy(self) -> float:
    """The mean of the recalls of all classes, in [0, 1]."""
    return float(self.recall.mean())


BASELINE = Counts((296, 63, 107, 1142, 421, 130, 665), (2824, 2999, 3033))
PROPOSED = Counts((298, 63, 110, 1141, 419, 133, 668), (2832, 2998, 3028))
NO_WEIGHTS = Counts((298, 63, 115, 1137, 414, 129, 666), (2822, 2988, 3030))
CONFIDENCE = Counts((301, 64, 105, 1141, 413, 128, 670), (2822, 2985, 3024))
AGREEMENT_ONLY = Counts((297, 63, 109, 1143, 417, 130, 668), (2827, 2992, 3032))

# The printed results by the names that our studies give the same variants.
BASELINE_NAME, PROPOSED_NAME = "baseline: RGB net alone", "proposed: p and w"
ROWS = {
  BASELINE_NAME: BASELINE,
  "no weights": NO_WEIGHTS,
  "confidence p": CONFIDENCE,
  "agreement w": AGREEMENT_ONLY,
  PROPOSED_NAME: PROPOSED,
}
_BATCH = {"affinity": "batch", "train_affinity": "batch"}
# The printed accuracies, with the options that a training must have to be compared with them (`System.published`).
CONDITIONS: tuple[tuple[str, Mapping[str, Any], float], ...] = (
  ("baseline (RGB net)", {"answer": "rgb", **_BATCH, "recipe.rgb": "first"}, BASELINE.accuracy),
  *(
    (
      "proposed",
      {
        "answer": "fused",
        **_BATCH,
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
# Table 11: the true class, and the classes that the landmark net, the RGB net and the fusion predict.
CASES = (
  ("neutral", "neutral", "sadness", "neutral"),
  ("happiness", "happiness", "happiness", "happiness"),
  ("anger", "neutral", "happiness", "anger"),
  ("sadness", "sadness", "happiness", "happiness"),
)
