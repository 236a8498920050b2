"""What paper 004 prints, and the counts of 768 tested pictures that follow from it.

21 of the 23 accuracies are whole multiples of 1 / 768 to four digits, and no other number of pictures up to 1,500 comes
close; for 768 pictures, 281 of them right, one set of counts alone gives the printed precision, recall and F1 of every
class. The paper itself prints none of these counts.
"""

import dataclasses

import numpy as np

# The columns of both tables by class, in the printed order.
CLASSES = ("joy", "sadness", "fear", "surprise", "anger", "disgust", "excitement", "relaxed", "neutral")
TESTED = 768

NETS = ("resnet18", "resnet50", "face_resnet18", "face_resnet50")
# Pictures right of 768, by what a net was trained on before; None: its pre-training failed.
CORRECT: dict[str, tuple[int | None, int | None, int | None, int | None]] = {
  "scratch": (185, 110, 218, 215),
  "imagenet": (249, 266, 240, 229),
  "affectnet8": (263, 253, 280, 246),
  "casia_softmax": (230, 245, 253, 274),
  "casia_cosface": (191, None, 259, 254),
  "casia_adaface": (192, 160, 281, 265),
}

# Of the best net, Face-ResNet18 after AdaFace, by class: pictures, how many of them it names rightly, how many it gives
# this name in all.
SUPPORT = (130, 64, 64, 64, 128, 127, 64, 64, 63)
TRUE_POSITIVES = (59, 27, 18, 37, 32, 29, 27, 14, 38)
PREDICTED = (114, 90, 67, 88, 61, 48, 94, 59, 147)


@dataclasses.dataclass(frozen=True)
class Rates:
  """A table by class as printed, 0 to 1; see `NOTES` for `macro`.

  Attributes:
    accuracy: over all pictures.
    macro: of precision, recall and F1, as printed.
    precision: by class, in the order of `CLASSES`; so are the next two.
    recall: see above.
    f1: see above.
  """

  accuracy: float
  macro: tuple[float, float, float]
  precision: tuple[float, ...]
  recall: tuple[float, ...]
  f1: tuple[float, ...]


NET = Rates(
  accuracy=0.366,
  macro=(0.380, 0.384, 0.355),
  precision=(0.518, 0.300, 0.269, 0.420, 0.525, 0.604, 0.287, 0.237, 0.259),
  recall=(0.454, 0.422, 0.281, 0.578, 0.250, 0.228, 0.422, 0.219, 0.603),
  f1=(0.484, 0.351, 0.275, 0.487, 0.339, 0.331, 0.342, 0.228, 0.362),
)
PEOPLE = Rates(
  accuracy=0.341,
  macro=(0.298, 0.304, 0.290),
  precision=(0.520, 0.244, 0.219, 0.346, 0.439, 0.379, 0.278, 0.221, 0.336),
  recall=(0.480, 0.355, 0.109, 0.565, 0.279, 0.288, 0.187, 0.350, 0.451),
  f1=(0.499, 0.282, 0.146, 0.429, 0.341, 0.327, 0.223, 0.271, 0.385),
)

# Of the classes, and of the best net's place.
NOTES: tuple[str, ...] = (
  "The net's macro averages are means over nine classes, macro F1 the mean of the nine F1.",
  "The people's are not: those means would be .331, .340, .323; compare the net's .380, .384, .355 with them.",
  "A tenth of the people's sums is .298, .306, .290, as printed but for recall: a tenth answer, never right, was "
  "probably counted.",
  "The people's F1 of sadness, .282, is not 2 P R / (P + R) = .289.",
  "281 of 768 (AdaFace) against 280 (AffectNet) for Face-ResNet18 is one picture; the standard error is 13 pictures.",
)


def confusion(seed: int = 0) -> np.ndarray:
  """A confusion matrix [true, predicted] with the counts above, one of many: the paper does not print which.

  Args:
    seed: of the drawing; how errors are spread says nothing, only the margins do.

  Returns:
    int [9, 9].
  """
  rng = np.random.default_rng(seed)
  classes = np.arange(len(CLASSES))
  truth = np.repeat(classes, np.subtract(SUPPORT, TRUE_POSITIVES))
  said = rng.permutation(np.repeat(classes, np.subtract(PREDICTED, TRUE_POSITIVES)))
  for k in np.flatnonzero(truth == said):
    if truth[k] == said[k]:  # No error: two exchange what is said of them, so that both are.
      other = rng.choice(np.flatnonzero((truth != truth[k]) & (said != truth[k])))
      said[k], said[other] = said[other], said[k]
  matrix = np.diag(TRUE_POSITIVES)
  np.add.at(matrix, (truth, said), 1)
  return matrix
