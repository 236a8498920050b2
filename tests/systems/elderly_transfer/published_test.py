"""Paper 004's printed numbers against the recovered counts, and against each other."""

import numpy as np
import pytest

from jaxfer import metrics
from jaxfer.systems.elderly_transfer import published

# The 4 x 6 table as printed.
PRINTED = {
  "scratch": ".2409 .1432 .2839 .2800",
  "imagenet": ".3242 .3464 .3125 .2982",
  "affectnet8": ".3425 .3294 .3646 .3203",
  "casia_softmax": ".2995 .3190 .3294 .3568",
  "casia_cosface": ".2487 - .3372 .3307",
  "casia_adaface": ".2500 .2083 .3659 .3451",
}


def test_counts_give_the_printed_accuracies_but_for_two_last_digits():
  assert published.CORRECT.keys() == PRINTED.keys()
  off = []
  for name, row in PRINTED.items():
    for net, printed, correct in zip(published.NETS, row.split(), published.CORRECT[name], strict=True):
      assert (printed == "-") == (correct is None)
      if correct is not None and f"{correct / published.TEST_IMAGES:.4f}"[1:] != printed:
        assert float(printed) == pytest.approx(correct / published.TEST_IMAGES, abs=1.0e-4)
        off.append((name, net))
  assert off == [("scratch", "face_resnet50"), ("affectnet8", "resnet18")]
  assert published.CORRECT["casia_cosface"][published.NETS.index("resnet50")] is None
  best = published.CORRECT["casia_adaface"][published.NETS.index("face_resnet18")]
  assert best == sum(published.TRUE_POSITIVES) == 281


@pytest.mark.parametrize("seed", range(5))
def test_any_matrix_with_these_counts_gives_the_printed_numbers(seed):
  matrix = published.confusion(seed)
  assert (matrix >= 0).all()
  np.testing.assert_array_equal(matrix.diagonal(), published.TRUE_POSITIVES)
  np.testing.assert_array_equal(matrix.sum(1), published.SUPPORT)
  np.testing.assert_array_equal(matrix.sum(0), published.PREDICTED)
  assert matrix.sum() == published.TEST_IMAGES
  assert seed == 0 or (matrix != published.confusion(0)).any()
  summary, printed = metrics.summarize(matrix), published.MODEL
  for key in ("precision", "recall", "f1"):
    assert [f"{x:.3f}" for x in summary[key]] == [f"{x:.3f}" for x in getattr(printed, key)]
  macro = (summary[f"macro_{key}"] for key in ("precision", "recall", "f1"))
  assert [f"{x:.3f}" for x in macro] == [f"{x:.3f}" for x in printed.macro]
  assert f"{summary['accuracy']:.3f}" == f"{printed.accuracy:.3f}"
  np.testing.assert_allclose(
    [summary[f"macro_{key}"] for key in ("precision", "recall", "f1")], [0.37983, 0.38414, 0.35525], atol=5e-6
  )


def test_the_macro_averages_of_the_model_and_of_the_raters():
  model, people = (
    np.array([rates.precision, rates.recall, rates.f1]).sum(1)
    for rates in (published.MODEL, published.PEOPLE)
  )
  np.testing.assert_allclose(model / 9, published.MODEL.macro, atol=6e-4)
  nine, ten = people / 9, people / 10
  assert [f"{x:.3f}" for x in nine] == ["0.331", "0.340", "0.323"]
  assert [f"{x:.3f}" for x in ten] == ["0.298", "0.306", "0.290"]
  precision, recall, f1 = published.PEOPLE.macro
  assert (precision, f1) == (round(ten[0], 3), round(ten[2], 3))
  assert recall == round(ten[1], 3) - 0.002


def test_every_printed_f1_but_one_follows_from_precision_and_recall():
  for rates, odd in ((published.MODEL, set()), (published.PEOPLE, {"sadness"})):
    f1 = 2 / (1 / np.array(rates.precision) + 1 / np.array(rates.recall))
    far = np.abs(f1 - rates.f1) > 1.1e-3
    assert {name for name, value in zip(published.CLASSES, far, strict=True) if value} == odd
