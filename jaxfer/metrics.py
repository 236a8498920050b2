"""Metrics of classifiers: predictions, confusion matrices and their summaries, intervals and calibration.

`predict` and `rank` are JAX functions for use inside jit, vmap and pmap. All other functions run on the host. The
confusion matrices of folds can be added.

Invalid outputs are never counted as a class: `predict` returns -1 if a logit is NaN.
"""

import dataclasses
import math
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike


def predict(logits: ArrayLike) -> jax.Array:
  """Returns the class with the largest logit. Ties go to the class with the lower index.

  Args:
    logits: [..., num_classes].

  Returns:
    int32 [...]; -1, which is no class, if a logit is NaN. Check for -1 before you use predictions as indices of names.
  """
  logits = jnp.asarray(logits)
  return jnp.where(jnp.isnan(logits).any(-1), -1, jnp.argmax(logits, axis=-1).astype(jnp.int32))


def rank(logits: ArrayLike, labels: ArrayLike) -> jax.Array:
  """Returns the number of classes that rank before the label by their logits. Ties go to the lower class index.

  Args:
    logits: [..., num_classes].
    labels: int [...], 0 .. num_classes - 1.

  Returns:
    int32 [...]: 0 if the label is predicted; num_classes if a logit is NaN.
  """
  logits, labels = jnp.asarray(logits), jnp.asarray(labels)
  num_classes = logits.shape[-1]
  own = jnp.take_along_axis(logits, labels[..., None], axis=-1)
  index = jnp.arange(num_classes, dtype=labels.dtype)
  index = index.reshape((1,) * labels.ndim + index.shape)
  ahead = (logits > own) | ((logits == own) & (index < labels[..., None]))
  return jnp.where(jnp.isnan(logits).any(-1), num_classes, ahead.sum(-1, dtype=jnp.int32))


@dataclasses.dataclass(frozen=True)
class Score:
  """Counts of correct records. The accuracies of runs, studies and validation are computed from it.

  Attributes:
    right: [K] float64, number of correct records of each class. It is not an integer if only some of several trials
      are correct.
    support: [K] int, number of records of each class.
  """

  right: np.ndarray
  support: np.ndarray

  @property
  def correct(self) -> int | float:
    """Number of correct records over all classes, an int if it is whole."""
    return whole(math.fsum(self.right))

  @property
  def count(self) -> int:
    """Number of records."""
    return int(self.support.sum())

  @property
  def accuracy(self) -> float:
    """Fraction of the records that are correct; NaN without records."""
    return self.correct / self.count if self.count else math.nan

  @property
  def recall(self) -> np.ndarray:
    """[K] fraction of each class that is correct; NaN for a class without records."""
    with np.errstate(invalid="ignore"):
      return self.right / self.support

  @property
  def average_accuracy(self) -> float:
    """Mean recall of the classes that have records."""
    return float(self.recall[self.support > 0].mean())


def score(labels: ArrayLike, correct: ArrayLike, num_classes: int) -> Score:
  """Counts the correct records of each class.

  Each sum is rounded only once, so the result does not depend on the order of the records, even for fractions.

  Args:
    labels: int [n], 0 .. num_classes - 1.
    correct: [n] in [0, 1]: 0 or 1, or the fraction of several trials that are correct.
    num_classes: K.
  """
  labels, correct = np.asarray(labels, int), np.asarray(correct, np.float64)
  support = np.bincount(labels, minlength=num_classes)
  by_class = np.split(correct[np.argsort(labels, kind="stable")], np.cumsum(support)[:-1])
  return Score(np.asarray([math.fsum(own) for own in by_class]), support)


def mean_confusion(labels: ArrayLike, by_trial: ArrayLike, num_classes: int) -> np.ndarray:
  """Returns the confusion matrix C[true, predicted] as a mean over trials. Its diagonal sums to `Score.correct`.

  Args:
    labels: int [n], 0 .. num_classes - 1.
    by_trial: int [n, trials], the predictions of each trial. Predictions of -1, which is no class, are left out.
    num_classes: K.

  Returns:
    float64 [K, K].
  """
  labels, by_trial = np.asarray(labels, int), np.asarray(by_trial, int)
  true, trial = np.nonzero(by_trial >= 0)
  counts = np.zeros((num_classes, num_classes), int)
  np.add.at(counts, (labels[true], by_trial[true, trial]), 1)
  return counts / by_trial.shape[1]


def summarize(confusion: ArrayLike) -> dict[str, Any]:
  """Summarizes a confusion matrix C[true, predicted]: precision, recall and F1 of each class and their means.

  Recall_k = C_kk / sum C_k., precision_k = C_kk / sum C_.k, F1_k = 2 P R / (P + R). A zero denominator gives 0, with
  one exception: the recall of a class without examples is NaN. Such a class is left out of the average accuracy, with a
  warning. Macro averages are over all K classes, and such a class counts as 0 in them. Macro F1 is the mean of the
  F1_k, not the F1 of the means.

  Args:
    confusion: [K, K], counts or weights, finite and not negative.

  Returns:
    The floats `count` (sum C), `correct` (trace), `accuracy`, `average_accuracy` (mean recall; "UAR"),
    `macro_precision`, `macro_recall` and `macro_f1`; and the float64 arrays [K] `support` (sum C_k.), `predicted`
    (sum C_.k), `true_positives` (C_kk), `precision`, `recall` and `f1`.

  Raises:
    ValueError: the matrix is not square, contains a NaN or a negative number, or sums to 0.
  """
  matrix = np.asarray(confusion, np.float64)
  if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
    raise ValueError(f"a confusion matrix is [K, K], got shape {matrix.shape}")
  if not np.isfinite(matrix).all():
    raise ValueError(
      "the confusion matrix is not finite: a prediction came from NaN logits, or a label is not a class"
    )
  if (matrix < 0).any():
    raise ValueError(f"a confusion matrix holds counts, got {matrix.min()}")
  count = matrix.sum()
  if count == 0:
    raise ValueError("the confusion matrix counts no examples")

  hits, support, predicted = matrix.diagonal().copy(), matrix.sum(1), matrix.sum(0)
  empty = support == 0
  recall_or_zero, precision = _ratio(hits, support), _ratio(hits, predicted)
  f1 = _ratio(2 * precision * recall_or_zero, precision + recall_or_zero)
  if empty.any():
    classes = ", ".join(str(k) for k in np.flatnonzero(empty))
    warnings.warn(f"no examples of class {classes}: left out of the average accuracy", stacklevel=2)
  return {
    "count": float(count),
    "correct": float(hits.sum()),
    "accuracy": float(hits.sum() / count),
    "average_accuracy": float(recall_or_zero[~empty].mean()),
    "macro_precision": float(precision.mean()),
    "macro_recall": float(recall_or_zero.mean()),
    "macro_f1": float(f1.mean()),
    "support": support,
    "predicted": predicted,
    "true_positives": hits,
    "precision": precision,
    "recall": np.where(empty, np.nan, recall_or_zero),
    "f1": f1,
  }


def wilson_interval(correct: float, n: float, z: float = 1.96) -> tuple[float, float]:
  """Returns Wilson's score interval for the proportion `correct / n`, by default at 95 %.

  Args:
    correct: 0 .. n.
    n: number of records. The interval for 0 records is (0, 1).
    z: half-width in standard deviations of the normal distribution.

  Raises:
    ValueError: not 0 <= correct <= n.
  """
  if not 0 <= correct <= n:
    raise ValueError(f"correct must be 0..{n}, got {correct}")
  if n == 0:
    return 0.0, 1.0
  share = correct / n
  middle = (share + z * z / (2 * n)) / (1 + z * z / n)
  half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
  return max(0.0, middle - half), min(1.0, middle + half)


def calibration_error(probabilities: ArrayLike, labels: ArrayLike, bins: int = 15) -> float:
  """Returns the expected calibration error (Guo et al. 2017, eq. 3), in [0, 1].

  Records are grouped by the probability of the predicted class into bins of equal width, (0, 1/bins], (1/bins, 2/bins],
  and so on. The error is the mean over records of |accuracy - mean probability| of their bin.

  Args:
    probabilities: [n, num_classes], n at least 1; each row sums to 1.
    labels: int [n].
    bins: number of bins.

  Raises:
    ValueError: no records, or probabilities that are not in [0, 1].
  """
  probabilities, labels = np.asarray(probabilities, np.float64), np.asarray(labels, int)
  if not len(labels) or probabilities.shape[:1] != labels.shape:
    raise ValueError(
      f"probabilities {probabilities.shape} and labels {labels.shape}: give [n, K] and [n], n > 0"
    )
  if not ((probabilities >= 0) & (probabilities <= 1 + 1e-6)).all():
    raise ValueError("probabilities must lie in [0, 1]")
  confidence, correct = probabilities.max(1), probabilities.argmax(1) == labels
  index = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
  gaps = np.bincount(index, correct, bins) - np.bincount(index, confidence, bins)
  return float(np.abs(gaps).sum() / len(labels))


def temperature(logits: ArrayLike, labels: ArrayLike) -> float:
  """Returns the temperature T that minimizes the mean cross-entropy of softmax(logits / T) (Guo et al. 2017, 4.2).

  The loss is convex in 1 / T, so its minimum is found by bisection of its derivative. Fit it to validation records,
  and divide the logits of new records by it: predictions do not change, only their probabilities do.

  Args:
    logits: [n, num_classes], finite, n at least 1.
    labels: int [n].

  Returns:
    T in [1/1000, 1000]. The lower end means that all records are classified correctly, so the loss has no minimum.

  Raises:
    ValueError: no records, or logits that are not finite.
  """
  logits, labels = np.asarray(logits, np.float64), np.asarray(labels, int)
  if not len(labels) or logits.shape[:1] != labels.shape or not np.isfinite(logits).all():
    raise ValueError(f"logits {logits.shape} and labels {labels.shape}: give finite [n, K] and [n], n > 0")
  own = np.take_along_axis(logits, labels[:, None], 1)[:, 0]

  def slope(inverse: float) -> float:
    """The derivative of the loss with respect to 1 / T: mean expected logit minus mean logit of the label."""
    weights = np.exp(inverse * (logits - logits.max(1, keepdims=True)))
    return float(((weights * logits).sum(1) / weights.sum(1) - own).mean())

  low, high = math.log(1e-3), math.log(1e3)
  for _ in range(60):
    middle = (low + high) / 2
    low, high = (middle, high) if slope(math.exp(middle)) <= 0 else (low, middle)
  return math.exp(-(low + high) / 2)


def whole(number: float) -> int | float:
  """Returns a number as an int if it is whole, otherwise as a float."""
  return int(number) if float(number).is_integer() else float(number)


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
  """Divides elementwise; the result is 0 where the denominator is 0."""
  return np.divide(numerator, denominator, out=np.zeros_like(numerator), where=denominator != 0)
