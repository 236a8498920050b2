"""The published counts of paper 002 give the rates that it prints, and the sums of its tables agree."""

import numpy as np
import pytest

from jaxfer.systems.landmark_fusion import published

# The printed recall of each class and average accuracy (Tables 5 to 8), top-1, -2 and -3 accuracy (Tables 6 and 8).
PRINTED = {
  "baseline: RGB net alone": (
    ".8997 .8514 .6687 .9637 .8808 .8025 .9779 .8635",
    ".9205 .9775 .9886",
  ),
  "proposed: p and w": (".9058 .8514 .6875 .9629 .8766 .8210 .9824 .8696", ".9231 .9772 .9870"),
  "no weights": (".9058 .8514 .7188 .9595 .8661 .7963 .9794 .8682", ".9198 .9739 .9876"),
  "confidence p": (".9149 .8649 .6562 .9629 .8640 .7901 .9853 .8626", ".9198 .9729 .9857"),
  "agreement w": (".9027 .8514 .6813 .9646 .8724 .8025 .9824 .8653", ".9214 .9752 .9883"),
}


def test_counts_give_every_printed_rate():
  assert published.ROWS.keys() == PRINTED.keys()
  for name, (recalls, tops) in PRINTED.items():
    counts = published.ROWS[name]
    found = np.asarray([*counts.recall, counts.average_accuracy])
    # The paper prints 0.65625 as .6562, so a rate may be off by half a unit of its last digit.
    np.testing.assert_allclose(found, np.asarray(recalls.split(), float), rtol=0, atol=5.001e-5)
    np.testing.assert_allclose(
      np.divide(counts.top, 3068), np.asarray(tops.split(), float), rtol=0, atol=5.001e-5
    )
    assert counts.top[0] == sum(counts.correct)


def test_sums_of_the_printed_tables():
  assert sum(published.TEST_COUNTS) == sum(published.AGREEMENT) == 3068
  both, rgb, landmark, _ = published.AGREEMENT
  assert both + rgb == published.BASELINE.top[0] == 2824
  assert (both + landmark) / 3068 == pytest.approx(0.678, abs=5e-4)
  assert (both + rgb + landmark) / 3068 == pytest.approx(0.9407, abs=5e-5)
  assert published.PROPOSED.top[0] - published.BASELINE.top[0] == 8


def test_table_11_names_classes_of_the_paper():
  assert {name for case in published.CASES for name in case} <= set(published.CLASSES)
