"""Compares metrics with the published tables and with counts by hand."""

import jax
import numpy as np
import pytest

from jaxfer import metrics

# Paper 002, test set of RAF-DB: surprise, fear, disgust, happiness, sadness, anger, neutral.
RAF_SUPPORT = [329, 74, 160, 1185, 478, 162, 680]
# Table 5 and Table 7 with Tables 6 and 8: correct per class, printed per-class accuracies, printed OA and AA.
RAF = {
  "baseline": (
    [296, 63, 107, 1142, 421, 130, 665],
    [0.8997, 0.8514, 0.6687, 0.9637, 0.8808, 0.8025, 0.9779],
    0.9205,
    0.8635,
  ),
  "proposed": (
    [298, 63, 110, 1141, 419, 133, 668],
    [0.9058, 0.8514, 0.6875, 0.9629, 0.8766, 0.8210, 0.9824],
    0.9231,
    0.8696,
  ),
  "none": (
    [298, 63, 115, 1137, 414, 129, 666],
    [0.9058, 0.8514, 0.7188, 0.9595, 0.8661, 0.7963, 0.9794],
    0.9198,
    0.8682,
  ),
  "uncertainty": (
    [301, 64, 105, 1141, 413, 128, 670],
    [0.9149, 0.8649, 0.6562, 0.9629, 0.8640, 0.7901, 0.9853],
    0.9198,
    0.8626,
  ),
  "comparison": (
    [297, 63, 109, 1143, 417, 130, 668],
    [0.9027, 0.8514, 0.6813, 0.9646, 0.8724, 0.8025, 0.9824],
    0.9214,
    0.8653,
  ),
}
# Paper 004, best model: support, true positives, predictions of nine classes, then the printed P, R, F.
ELDERLY = np.array(
  [
    [130, 59, 114, 0.518, 0.454, 0.484],
    [64, 27, 90, 0.300, 0.422, 0.351],
    [64, 18, 67, 0.269, 0.281, 0.275],
    [64, 37, 88, 0.420, 0.578, 0.487],
    [128, 32, 61, 0.525, 0.250, 0.339],
    [127, 29, 48, 0.604, 0.228, 0.331],
    [64, 27, 94, 0.287, 0.422, 0.342],
    [64, 14, 59, 0.237, 0.219, 0.228],
    [63, 38, 147, 0.259, 0.603, 0.362],
  ]
)


def matrix_with(support, hits, predicted):
  """Returns a confusion matrix with these margins and this diagonal; the rest is distributed greedily."""
  matrix = np.diag(np.asarray(hits, np.float64))
  missing, spare = np.asarray(support) - hits, np.asarray(predicted) - hits
  missing, spare = missing.astype(float), spare.astype(float)
  while missing.sum():
    row = max((k for k in range(len(spare)) if missing[k]), key=lambda k: missing[k] + spare[k])
    column = max((k for k in range(len(spare)) if k != row), key=lambda k: spare[k] + (missing[k] > 0) * 0.5)
    matrix[row, column] += 1
    missing[row] -= 1
    spare[column] -= 1
  assert (matrix.sum(1) == support).all()
  assert (matrix.sum(0) == predicted).all()
  return matrix


@pytest.mark.parametrize(("correct", "printed"), [(283, 86.54), (281, 85.93), (291, 88.99), (296, 90.52)])
def test_pooled_accuracy_of_paper_001(correct, printed):
  labels = np.repeat(np.arange(7), [45, 18, 59, 25, 69, 28, 83])  # CK+
  predictions = (labels + (np.arange(327) >= correct)) % 7
  folds = np.arange(327) % 10
  pooled = metrics.summarize(
    sum(metrics.mean_confusion(labels[folds == k], predictions[folds == k, None], 7) for k in range(10))
  )
  assert (pooled["correct"], pooled["count"]) == (correct, 327)
  assert round(100 * pooled["accuracy"], 2) == printed


@pytest.mark.parametrize("row", RAF)
def test_tables_of_paper_002(row):
  hits, recall, accuracy, average = RAF[row]
  support = np.array(RAF_SUPPORT)
  matrix = np.diag(np.array(hits, np.float64))
  # Recall does not depend on the predicted classes of errors.
  matrix[np.arange(7), (np.arange(7) + 1) % 7] += support - hits
  summary = metrics.summarize(matrix)
  np.testing.assert_array_equal(summary["support"], support)
  np.testing.assert_allclose(summary["recall"], recall, rtol=0, atol=5.1e-5)
  assert summary["count"] == 3068
  assert round(summary["accuracy"], 4) == accuracy
  assert round(summary["average_accuracy"], 4) == average


def test_tables_of_paper_004():
  support, hits, predicted = ELDERLY[:, :3].T
  summary = metrics.summarize(matrix_with(support, hits, predicted))
  for name, column in (("precision", 3), ("recall", 4), ("f1", 5)):
    np.testing.assert_allclose(summary[name], ELDERLY[:, column], rtol=0, atol=5.1e-4)
  assert (summary["correct"], summary["count"]) == (281, 768)
  assert round(summary["accuracy"], 3) == 0.366
  macro = [summary[f"macro_{name}"] for name in ("precision", "recall", "f1")]
  np.testing.assert_allclose(macro, [0.37983, 0.38414, 0.35525], rtol=0, atol=5e-6)
  assert [round(value, 3) for value in macro] == [0.380, 0.384, 0.355]


def test_summary_by_hand():
  summary = metrics.summarize([[3, 1], [2, 4]])
  assert summary["accuracy"] == 0.7
  np.testing.assert_array_equal(summary["support"], [4, 6])
  np.testing.assert_array_equal(summary["predicted"], [5, 5])
  np.testing.assert_allclose(summary["recall"], [3 / 4, 4 / 6])
  np.testing.assert_allclose(summary["precision"], [3 / 5, 4 / 5])
  np.testing.assert_allclose(summary["f1"], [2 / 3, 8 / 11])
  np.testing.assert_allclose(summary["average_accuracy"], (3 / 4 + 4 / 6) / 2)


def test_class_without_examples():
  with pytest.warns(UserWarning, match="no examples of class 1"):
    summary = metrics.summarize([[3, 1, 0], [0, 0, 0], [0, 0, 4]])
  np.testing.assert_array_equal(summary["recall"], [0.75, np.nan, 1])
  np.testing.assert_array_equal(summary["precision"], [1, 0, 1])
  np.testing.assert_allclose(summary["f1"], [6 / 7, 0, 1])
  assert summary["average_accuracy"] == 0.875
  assert summary["macro_recall"] == 1.75 / 3


def test_class_never_predicted_has_precision_zero():
  summary = metrics.summarize([[2, 0], [3, 0]])
  np.testing.assert_array_equal(summary["precision"], [0.4, 0])
  np.testing.assert_array_equal(summary["recall"], [1, 0])
  np.testing.assert_allclose(summary["f1"], [0.8 / 1.4, 0])


@pytest.mark.parametrize(
  ("matrix", "message"),
  [
    (np.zeros((2, 3)), r"\[K, K\]"),
    (np.zeros((2, 2)), "no example"),
    (np.full((2, 2), np.nan), "NaN logits"),
    ([[1, -1], [0, 0]], "-1"),
  ],
)
def test_summary_refuses(matrix, message):
  with pytest.raises(ValueError, match=message):
    metrics.summarize(matrix)


def test_a_score_adds_up_by_class_in_any_order():
  labels, correct = np.array([0, 2, 0, 2, 2, 0]), np.array([0.1, 0.25, 0.2, 1.0, 0.5, 0.3])
  score = metrics.score(labels, correct, 4)
  np.testing.assert_array_equal(
    score.right, [0.6, 0, 1.75, 0]
  )  # 0.1 + 0.2 + 0.3 from left to right is not 0.6.
  np.testing.assert_array_equal(score.support, [3, 0, 3, 0])
  assert (score.correct, score.count, score.accuracy) == (2.35, 6, 2.35 / 6)
  np.testing.assert_array_equal(score.recall, [0.6 / 3, np.nan, 1.75 / 3, np.nan])
  assert score.average_accuracy == (0.6 / 3 + 1.75 / 3) / 2
  for order in ([5, 4, 3, 2, 1, 0], [2, 0, 5, 1, 4, 3]):
    again = metrics.score(labels[order], correct[order], 4)
    np.testing.assert_array_equal(again.right, score.right)
    assert again.accuracy == score.accuracy
  whole = metrics.score([1, 1, 0], [True, False, True], 2)
  assert (whole.correct, type(whole.correct)) == (2, int)
  assert np.isnan(metrics.score([], [], 2).accuracy)


def test_the_mean_confusion_of_trials():
  by_trial = np.array([[0, 1, 1, 1], [1, 1, 1, 1], [-1, -1, -1, -1]])
  matrix = metrics.mean_confusion([0, 1, 1], by_trial, 3)
  np.testing.assert_array_equal(matrix, [[0.25, 0.75, 0], [0, 1, 0], [0, 0, 0]])
  correct = (by_trial == np.array([[0], [1], [1]])).mean(1)
  assert np.trace(matrix) == metrics.score([0, 1, 1], correct, 3).correct


def test_predict_takes_the_first_of_equals_and_no_nan():
  logits = np.array([[1, 3, 3], [2, 2, 2], [0, -np.inf, np.inf], [np.nan, 1, 2], [5, 1, np.nan]], np.float32)
  for call in (metrics.predict, jax.jit(metrics.predict)):
    np.testing.assert_array_equal(call(logits), [1, 0, 2, -1, -1])


def test_top_k():
  logits = np.array([[4, 3, 2, 1], [1, 1, 1, 1], [np.nan, 9, 9, 9]], np.float32)
  rank = jax.jit(metrics.rank)

  def hits(label, k):
    return (rank(logits, np.full(3, label)) < k).tolist()

  assert hits(0, 1) == [True, True, False]
  assert hits(1, 1) == [False, False, False]
  assert hits(1, 2) == [True, True, False]
  assert hits(2, 2) == [False, False, False]
  assert hits(3, 4) == [True, True, False]


def test_top_1_is_predict():
  rng = np.random.default_rng(0)
  logits = rng.integers(0, 4, (200, 5)).astype(np.float32)  # Many ties.
  labels = rng.integers(0, 5, 200)
  np.testing.assert_array_equal(metrics.rank(logits, labels) < 1, metrics.predict(logits) == labels)
  order = np.argsort(-logits, axis=-1, kind="stable")
  for k in (2, 3, 5):
    want = (order[:, :k] == labels[:, None]).any(-1)
    np.testing.assert_array_equal(metrics.rank(logits, labels) < k, want)


def test_wilson_interval():
  # The bounds are where |share - p| = z sqrt(p (1 - p) / n): that equation is the definition.
  for correct, n in ((281, 768), (1, 10), (7, 7)):
    for p in metrics.wilson_interval(correct, n):
      np.testing.assert_allclose((correct / n - p) ** 2, 1.96**2 * p * (1 - p) / n, rtol=1e-9, atol=1e-15)
  np.testing.assert_allclose(metrics.wilson_interval(281, 768), (0.3326, 0.4005), atol=5e-5)
  assert metrics.wilson_interval(0, 20)[0] == 0
  assert metrics.wilson_interval(20, 20)[1] == 1
  assert metrics.wilson_interval(0, 0) == (0, 1)
  with pytest.raises(ValueError, match="11"):
    metrics.wilson_interval(11, 10)


def test_calibration_error_of_a_few_records():
  """There are two bins: 0.9 and 0.8 with one of two correct, and 0.4 with one correct."""
  probabilities = [[0.9, 0.1, 0], [0.1, 0.8, 0.1], [0.3, 0.4, 0.3]]
  got = metrics.calibration_error(probabilities, [0, 2, 1], bins=2)
  assert got == pytest.approx((abs(1 - 1.7) + abs(1 - 0.4)) / 3)
  assert metrics.calibration_error([[1.0, 0.0]], [0]) == 0
  assert metrics.calibration_error([[0.0, 1.0]], [0]) == 1
  with pytest.raises(ValueError, match=r"n > 0"):
    metrics.calibration_error(np.zeros((0, 3)), [])
  with pytest.raises(ValueError, match=r"in \[0, 1\]"):
    metrics.calibration_error([[2.0, -1.0]], [0])


def test_calibrated_records_have_a_small_error():
  """Labels are drawn from the probabilities; doubling the logits makes the error large."""
  rng = np.random.default_rng(0)
  logits = rng.normal(0, 2, (20_000, 4))
  softmax = np.asarray(jax.nn.softmax(logits))
  labels = (softmax.cumsum(1) < rng.random((len(logits), 1))).sum(1)
  assert metrics.calibration_error(softmax, labels) < 0.02
  assert metrics.calibration_error(np.asarray(jax.nn.softmax(2 * logits)), labels) > 0.05
  assert metrics.temperature(logits, labels) == pytest.approx(1, rel=0.03)
  assert metrics.temperature(3 * logits, labels) == pytest.approx(3 * metrics.temperature(logits, labels))


def test_the_temperature_minimizes_the_loss():
  logits = np.array([[2.0, 0, 0], [0, 1, 3], [1, 4, 0], [2, 1, 0]])
  labels = np.array([0, 1, 1, 2])

  def loss(t):
    scores = logits / t
    return (np.log(np.exp(scores).sum(1)) - scores[np.arange(4), labels]).mean()

  best = metrics.temperature(logits, labels)
  assert loss(best) < min(loss(best * 1.01), loss(best / 1.01))
  assert metrics.temperature(logits[:1], [0]) == pytest.approx(1e-3)
  assert metrics.temperature(logits[:1], [2]) == pytest.approx(1e3)
  with pytest.raises(ValueError, match="finite"):
    metrics.temperature([[np.nan, 0]], [0])
