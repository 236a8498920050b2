"""Weights come back as they were, and a damaged folder is refused by the name of its file."""

import json

import numpy as np
import pytest

from jaxfer.errors import UserError
from jaxfer.train.weights import digest, load_weights, save_weights

VARIABLES = {
  "params": {"fc": {"kernel": np.arange(6, dtype=np.float32).reshape(2, 3), "bias": np.zeros(3, np.float16)}},
  "affinity": {"ema": np.full((2, 2), np.nan, np.float32)},
  "counts": {"step": np.int32(3)},
}


@pytest.fixture
def folder(tmp_path):
  save_weights(tmp_path / "a/b", VARIABLES, {"model": "M", "label_names": ["joy", "père"]})
  return tmp_path / "a/b"


def test_round_trip(folder):
  variables, meta = load_weights(folder)
  assert meta["model"] == "M"
  assert meta["label_names"] == ["joy", "père"]
  assert set(variables) == set(VARIABLES)
  for name in ("kernel", "bias"):
    want = VARIABLES["params"]["fc"][name]
    assert variables["params"]["fc"][name].dtype == want.dtype
    np.testing.assert_array_equal(variables["params"]["fc"][name], want)
  assert np.isnan(variables["affinity"]["ema"]).all()
  assert variables["counts"]["step"].shape == ()
  assert sorted(p.name for p in folder.iterdir()) == ["weights.json", "weights.npz"]


def test_a_digest_is_that_of_the_arrays(folder):
  """Of their names, shapes, dtypes and bytes; not of their order or of the file."""
  before = digest(VARIABLES)
  assert digest(load_weights(folder)[0]) == before
  assert digest(dict(reversed(VARIABLES.items()))) == before
  kernel = VARIABLES["params"]["fc"]["kernel"]
  others = [
    {"kernel": other}
    for other in (kernel + 1, kernel.reshape(3, 2), kernel.astype(np.float64), kernel.view(np.int32))
  ]
  found = {digest({"params": {"fc": other}}) for other in [*others, {"kernel": kernel}, {"other": kernel}]}
  assert len(found) == 6


@pytest.mark.parametrize("name", ["weights.npz", "weights.json"])
def test_a_missing_file(folder, name):
  (folder / name).unlink()
  with pytest.raises(UserError, match=name):
    load_weights(folder)


def test_a_changed_byte(folder):
  path = folder / "weights.npz"
  data = bytearray(path.read_bytes())
  data[len(data) // 2] ^= 1
  path.write_bytes(data)
  with pytest.raises(UserError, match=r"weights\.npz has changed"):
    load_weights(folder)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", "\udcff"])
def test_a_damaged_description(folder, text):
  (folder / "weights.json").write_bytes(text.encode("utf-8", "surrogateescape"))
  with pytest.raises(UserError, match=r"weights\.json is damaged"):
    load_weights(folder)


def test_another_format(folder):
  path = folder / "weights.json"
  path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 9}))
  with pytest.raises(UserError, match="format 9"):
    load_weights(folder)


def test_no_pickles(tmp_path):
  with pytest.raises(UserError, match="params/x is object"):
    save_weights(tmp_path, {"params": {"x": np.array([None])}}, {})
