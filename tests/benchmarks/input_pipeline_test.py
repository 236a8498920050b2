"""Tests that all input pipelines of the benchmark give the same batches, from the device, from memory or from disk."""

import numpy as np
import pytest

from benchmarks import harness, input_pipeline
from jaxfer.data import records, stream
from tests.fixtures import stored_stills


@pytest.fixture
def columns(monkeypatch, tmp_path):
  stored_stills.install(monkeypatch)
  return stream.open_records(records.prepared("stored", tmp_path, {})).arrays["image"]


def test_every_pipeline_brings_the_planned_batches(columns):
  plan = np.random.default_rng(0).permutation(stored_stills.COUNT)[:40].reshape(8, 5)
  image = columns[:]
  want = {"first": input_pipeline.scaled(image[plan[0]]), "last": input_pipeline.scaled(image[plan[-1]])}
  for made in (
    input_pipeline.ours({"image": image}, plan),
    input_pipeline.ours(stream.Stream({"image": columns}), plan),
    input_pipeline.ours(stream.Stream({"image": image}), plan),
    input_pipeline.from_host(image, plan, convert=False),
    input_pipeline.from_host(image, plan, convert=True),
  ):
    assert harness.relative_error(made.result(), want) < 1e-6
    assert harness.relative_error(made.result(), want) < 1e-6  # An epoch after the first.
  other = {name: np.roll(array, 1, 0) for name, array in want.items()}
  assert harness.relative_error(made.result(), other) > 0.1
