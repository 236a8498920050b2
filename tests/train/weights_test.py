"""Tests that weights are restored unchanged, and that a damaged folder is refused with the name of the file."""

import errno
import hashlib
import io
import json
import pickle

import chex
import ml_dtypes
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
  chex.assert_trees_all_equal_shapes_and_dtypes(variables, VARIABLES)
  chex.assert_trees_all_equal(variables, VARIABLES)  # Here NaN equals NaN.
  assert sorted(p.name for p in folder.iterdir()) == ["weights.json", "weights.npz"]


def test_a_digest_is_that_of_the_arrays(folder):
  """It depends on names, shapes, dtypes and bytes, but not on the order or the file."""
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
  with pytest.raises(UserError, match=r"weights\.json (is damaged|lacks 'format')"):
    load_weights(folder)


@pytest.mark.parametrize("text", ['{"a": 1}', "3", "null", '"weights"', '{"format": 1}', "[" * 100_000])
def test_a_description_of_another_program(folder, text):
  (folder / "weights.json").write_text(text)
  with pytest.raises(UserError, match=r"weights\.json (is damaged|lacks).*: write .* again"):
    load_weights(folder)


def test_a_description_cut_short(folder):
  whole = (folder / "weights.json").read_bytes()
  for cut in range(len(whole) - 1):  # The last byte is a line break.
    (folder / "weights.json").write_bytes(whole[:cut])
    with pytest.raises(UserError, match=r"weights\.json is damaged"):
      load_weights(folder)


def described(folder, data):
  """Replaces the arrays by other bytes, with their digest."""
  (folder / "weights.npz").write_bytes(data)
  meta = json.loads((folder / "weights.json").read_text())
  (folder / "weights.json").write_text(json.dumps(meta | {"sha256": hashlib.sha256(data).hexdigest()}))


def saved(save, *arguments, **arrays):
  stream = io.BytesIO()
  save(stream, *arguments, **arrays)
  return stream.getvalue()


OTHERS = {
  "nothing": b"",
  "text": b"text",
  "pickle": pickle.dumps({"a": 1}),
  "npy": saved(np.save, np.zeros(3)),
  "cut_short": saved(np.savez, a=np.zeros(3))[:-30],
  "objects": saved(np.savez, a=np.array([None])),
  "texts": saved(np.savez, a=np.array(["text"])),
  "bfloat16": saved(np.savez, a=np.zeros(2, ml_dtypes.bfloat16)),
  "names": saved(np.savez, **{"a": np.zeros(3), "a/b": np.zeros(3)}),
}


@pytest.mark.parametrize("data", OTHERS.values(), ids=OTHERS)
def test_arrays_of_another_program(folder, data):
  described(folder, data)
  with pytest.raises(UserError, match=r"weights\.npz is damaged, or from another program: write .* again"):
    load_weights(folder)


def test_values_that_no_trained_net_has(tmp_path):
  """Every such array is named. NaN in an affinity without a flag means that it was never written."""
  variables = {
    "params": {"fc": {"kernel": np.float32([1, np.nan, np.inf]), "bias": np.float64([1e39, 0])}},
    "batch_stats": {"bn": {"mean": np.float32([-1, np.nan]), "var": np.float32([-1, 0])}},
    "affinity": {
      "arm": {"ema": np.float32([1, np.nan]), "frozen": np.full(2, np.nan, np.float32)},
      "rgb": {"ema": np.float32([1, np.nan]), "ema_written": np.bool_(True)},
    },
    "counts": {"var": np.int32([-1])},
  }
  save_weights(tmp_path, variables, {})
  with pytest.raises(UserError) as caught:
    load_weights(tmp_path)
  assert str(caught.value) == (
    f"{tmp_path / 'weights.npz'} holds values that no trained net has: params/fc/kernel (1 NaN, 1 infinite of 3), "
    "params/fc/bias (1 beyond float32 of 2), batch_stats/bn/mean (1 NaN of 2), batch_stats/bn/var (1 negative of 2), "
    "affinity/rgb/ema (1 NaN of 2); the training failed: give other weights"
  )
  got, _ = load_weights(tmp_path, sound=False)
  np.testing.assert_array_equal(got["params"]["fc"]["kernel"], variables["params"]["fc"]["kernel"])


def test_folders_that_cannot_be_written(folder, monkeypatch, tmp_path):
  """The earlier content stays intact."""
  (tmp_path / "file").write_text("")
  with pytest.raises(
    UserError, match=r"file/in cannot be written \(Not a directory\): .*choose another folder"
  ):
    save_weights(tmp_path / "file/in", VARIABLES, {})

  def full(file, **arrays):
    file.write(b"half")
    raise OSError(errno.ENOSPC, "No space left on device")

  monkeypatch.setattr(np, "savez", full)
  with pytest.raises(UserError, match=r"weights.npz cannot be written \(No space left on device\)"):
    save_weights(folder, VARIABLES, {"model": "Other"})
  assert load_weights(folder)[1]["model"] == "M"
  assert sorted(p.name for p in folder.iterdir()) == ["weights.json", "weights.npz"]


def test_another_format(folder):
  path = folder / "weights.json"
  path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 9}))
  with pytest.raises(UserError, match="format 9"):
    load_weights(folder)


def test_no_pickles(tmp_path):
  with pytest.raises(UserError, match="params/x is object"):
    save_weights(tmp_path, {"params": {"x": np.array([None])}}, {})
