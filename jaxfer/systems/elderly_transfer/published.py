"""Numbers that paper 004 prints, and the counts of 768 test images that follow from them.

The paper prints no counts. We recovered them from its rates: 21 of the 23 accuracies are whole multiples of 1 / 768 to
four digits, and no other number of images up to 1,500 fits nearly as well. With 768 images, of which 281 are correct,
only one set of counts gives the printed precision, recall and F1 of every class.

768 is 12 x 64. A fifth of the 111 people is 22, who have 22 x 36 = 792 images: 12 batches of 64, and 24 images more. So
the paper's evaluation probably dropped an incomplete last batch.
"""

import dataclasses

import numpy as np

# The classes, in the order in which the paper's tables print them.
CLASSES = ("joy", "sadness", "fear", "surprise", "anger", "disgust", "excitement", "relaxed", "neutral")
TEST_IMAGES = 768

NETS = ("resnet18", "resnet50", "face_resnet18", "face_resnet50")
# Number of correct test images by pretraining, for each of `NETS`. None: the paper says that the pretraining failed.
CORRECT: dict[str, tuple[int | None, int | None, int | None, int | None]] = {
  "scratch": (185, 110, 218, 215),
  "imagenet": (249, 266, 240, 229),
  "affectnet8": (263, 253, 280, 246),
  "casia_softmax": (230, 245, 253, 274),
  "casia_cosface": (191, None, 259, 254),
  "casia_adaface": (192, 160, 281, 265),
}

# Counts by class for the paper's best model, Face-ResNet18 pretrained with AdaFace: test images of the class, correct
# ones among them, and images that the model assigns to the class.
SUPPORT = (130, 64, 64, 64, 128, 127, 64, 64, 63)
TRUE_POSITIVES = (59, 27, 18, 37, 32, 29, 27, 14, 38)
PREDICTED = (114, 90, 67, 88, 61, 48, 94, 59, 147)


@dataclasses.dataclass(frozen=True)
class Rates:
  """One of the paper's tables by class, as printed. All values are between 0 and 1.

  Attributes:
    accuracy: accuracy over all images.
    macro: the printed averages of precision, recall and F1; `NOTES` says how they seem to be computed.
    precision: by class, in the order of `CLASSES`.
    recall: by class, in the same order.
    f1: by class, in the same order.
  """

  accuracy: float
  macro: tuple[float, float, float]
  precision: tuple[float, ...]
  recall: tuple[float, ...]
  f1: tuple[float, ...]


MODEL = Rates(
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

# Remarks on the tables by class, and on the lead of the best model.
NOTES: tuple[str, ...] = (
  "The 768 test images are 12 batches of 64. A fifth of the 111 people is 22, who have 22 x 36 = 792 images: an "
  "incomplete last batch of 24 images was probably dropped.",
  "The model's macro averages are means over the nine classes; its macro F1 is the mean of the nine F1 scores.",
  "The raters' printed averages are not such means, which would be .331, .340 and .323. The model's .380, .384 and "
  ".355 should be compared with these.",
  "The raters' sums divided by ten are .298, .306 and .290, as printed except for recall (.304). The paper probably "
  "counted a tenth answer that is never correct.",
  "The raters' F1 score of sadness is printed as .282, but 2 P R / (P + R) is .289.",
  "For Face-ResNet18, 281 of 768 correct images (AdaFace) against 280 (AffectNet) differ by one image; the standard "
  "error is 13 images.",
)


def confusion(seed: int = 0) -> np.ndarray:
  """A random confusion matrix whose diagonal and sums are the counts above.

  The paper does not print its matrix. Only the diagonal and the sums of rows and columns are known, so the other
  entries mean nothing.

  Args:
    seed: seed of the random assignment of errors.

  Returns:
    The matrix [true, predicted], int [9, 9].
  """
  rng = np.random.default_rng(seed)
  classes = np.arange(len(CLASSES))
  truth = np.repeat(classes, np.subtract(SUPPORT, TRUE_POSITIVES))
  predicted = rng.permutation(np.repeat(classes, np.subtract(PREDICTED, TRUE_POSITIVES)))
  for k in np.flatnonzero(truth == predicted):
    if truth[k] == predicted[k]:  # This is no error. Swap with another image so that both are errors.
      other = rng.choice(np.flatnonzero((truth != truth[k]) & (predicted != truth[k])))
      predicted[k], predicted[other] = predicted[other], predicted[k]
  matrix = np.diag(TRUE_POSITIVES)
  np.add.at(matrix, (truth, predicted), 1)
  return matrix
