import json

import pytest

from benchmarks import precision
from jaxfer.systems import SYSTEMS


def results():
  return json.loads(precision.RESULTS.read_text())


def test_the_difference_and_its_standard_error():
  # The differences are -0.2, -0.1 and 0.
  accuracies = {"float32": [0.5, 0.6, 0.7], "bfloat16": [0.3, 0.5, 0.7]}
  found, error = precision.difference(accuracies)
  assert found == pytest.approx(-0.1)
  assert error == pytest.approx(0.1 / 3**0.5)
  assert not precision.agrees(accuracies)
  assert precision.agrees({"float32": [0.5, 0.6, 0.7], "bfloat16": [0.45, 0.55, 0.8]})
  assert precision.agrees({"float32": [0.5, 0.5, 0.5], "bfloat16": [0.6, 0.6, 0.6]})


def test_systems_compute_in_bfloat16_by_default_where_the_committed_accuracies_agree():
  agree = {name: precision.agrees(result["accuracies"]) for name, result in results().items()}
  assert agree == {name: system.bfloat16 for name, system in SYSTEMS.items() if name in agree}
  assert set(agree) == set(precision.CONFIGS)
  assert not SYSTEMS["classifier"].bfloat16  # It trains any net, so no measurement can speak for all of them.


def test_the_page_has_the_table_of_the_committed_accuracies():
  assert precision.markdown(results()) in precision.README.read_text()
