"""Tests the quickstart's data without TensorFlow Datasets, and the check of goldens; nothing is timed here."""

import numpy as np
import pytest

from benchmarks import goldens, harness, quickstart
from jaxfer.data import records
from tests.benchmarks.toy import record

# tests/data/synthetic_dataset_test.py compiles the same drawing program.
OPTIONS = {"num_subjects": 2, "num_frames": 4, "image_size": 16}


def test_drawn_records_are_those_that_the_data_set_stores(tmp_path):
  stored = records.load("synthetic_sequences", tmp_path, **OPTIONS)
  drawn = quickstart.draw(**OPTIONS)
  assert drawn.keys == stored.keys
  assert drawn.fingerprint == stored.fingerprint


def test_the_training_is_that_of_the_config():
  config = quickstart.config_of(False)
  assert config == quickstart.configuration.load(quickstart.machine.ROOT / "configs/quickstart.py")
  quick = quickstart.config_of(True)
  assert (quick.recipe.options["epochs"], quick.data.options) == (1, quickstart.QUICK)
  assert quick.model == config.model


@pytest.mark.parametrize("name", ["conv_rnn/gru_tg_ts_ss_masked", "nets/layers"])
def test_goldens_agree_and_a_fault_is_found(name):
  golden = goldens.CASES[name]()
  found = goldens.prepare(golden).result()
  assert set(found) == {"outputs", "slopes"}
  assert harness.relative_error(found, golden.want) < 1e-5
  for array in found:
    assert (
      harness.relative_error({array: 1.03 * np.asarray(found[array])}, golden.want) > goldens.tolerances.WRONG
    )


def test_what_is_wrong_and_what_is_only_less_exact():
  def of(status, error):
    return record(status=status, agreement={"error": error})

  assert not goldens.wrong(of("ok", 1e-6))
  assert not goldens.wrong(of("mismatch", 5e-3))  # For example TF32.
  for status, error in (("mismatch", 0.5), ("mismatch", None), ("failed", None), ("missing", None)):
    assert goldens.wrong(of(status, error))
