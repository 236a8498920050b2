"""Tests safetensors files: all types, written by the library and by hand; invalid files are refused."""

import chex
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from jaxfer.convert import checkpoint, safetensors_file
from jaxfer.convert.kinds import Refused
from jaxfer.errors import UserError
from tests.convert import written


def entry(begin, end, shape=(2,), dtype="F32"):
  return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


def test_what_the_library_writes():
  kinds = (
    "float64",
    "float32",
    "float16",
    "int64",
    "int32",
    "int16",
    "int8",
    "uint64",
    "uint32",
    "uint16",
    "uint8",
  )
  arrays = {kind: np.arange(6, dtype=kind).reshape(2, 3) for kind in kinds}
  arrays |= {
    "bool": np.array([True, False]),
    "empty": np.zeros((0, 3), np.float32),
    "scalar": np.array(7, np.float32),
  }
  got = safetensors_file.loads(safetensors.numpy.save(arrays, {"format": "pt"}))
  chex.assert_trees_all_equal_shapes_and_dtypes(got, arrays)
  chex.assert_trees_all_equal(got, arrays)


@pytest.mark.parametrize("kind", [kind for kind in written.CODES if hasattr(ml_dtypes, kind)])
def test_types_that_numpy_lacks(kind):
  want = np.array([1, 2, 4], getattr(ml_dtypes, kind))
  got = safetensors_file.loads(written.safetensors({"x": want}))["x"]
  assert got.dtype == want.dtype
  np.testing.assert_array_equal(got.astype(np.float32), [1, 2, 4])


@pytest.mark.parametrize("code", ["F4", "F6_E2M3", "C64", "F128"])
def test_other_types_are_named(code):
  with pytest.raises(
    Refused, match=rf"^a\.b: it is of type {code}, which is not supported: save it as float32"
  ):
    safetensors_file.loads(written.framed({"a.b": entry(0, 8, (1,), code)}) + bytes(8))


@pytest.mark.parametrize(
  ("header", "size", "match"),
  [
    ({"x": entry(0, 8)}, 4, "cut short"),
    ({"x": entry(0, 8)}, 9, "bytes between them or at the end"),
    ({"x": entry(4, 12)}, 12, "bytes between them"),
    ({"x": entry(0, 8), "y": entry(4, 12)}, 12, "overlap"),
    ({"x": entry(0, 8), "y": entry(12, 20)}, 20, "bytes between them"),
    ({"x": entry(0, 8, (3,))}, 8, "does not fit its 8 bytes"),
    ({"x": entry(8, 0)}, 8, "does not fit its -8 bytes"),
    ({"x": entry(0, 8, (1 << 40, 1 << 40))}, 8, "does not fit"),  # Nothing of this size is allocated.
    ({"x": entry(0, 1 << 62, (1 << 60,))}, 8, "cut short"),
    ({"x": entry(0, 8, (-2,))}, 8, "an invalid shape"),
    ({"x": entry(0, 8, (True, 2))}, 8, "an invalid shape"),
    ({"x": entry(0, 8, (2.0,))}, 8, "an invalid shape"),
    ({"x": entry(0, 8, (1 << 70, 0))}, 8, "an invalid shape"),
    ({"x": {"dtype": "F32", "shape": [2]}}, 8, "incomplete"),
    ({"x": {"dtype": "F32", "shape": 2, "data_offsets": [0, 8]}}, 8, "incomplete"),
    ({"x": [0, 8]}, 8, "incomplete"),
    (b'{"x": 1, "x": 2}', 0, "twice"),
    (b'{"x": ', 0, "not JSON"),
    (b"{\xff}", 0, "not JSON"),
    (b"{" + b'"a":{' * 100_000, 0, "not JSON"),
  ],
)
def test_damaged_files(header, size, match):
  with pytest.raises(Refused, match=f"a damaged safetensors file .*{match}.*download or save it again"):
    safetensors_file.loads(written.framed(header) + bytes(size))


def test_a_header_beyond_the_file(tmp_path):
  path = tmp_path / "a.safetensors"
  path.write_bytes((90_000_000).to_bytes(8, "little") + b"{}")
  with pytest.raises(UserError, match="its header ends at byte 90000008 of 10, so the file is cut short"):
    checkpoint.read(path)
  path.write_bytes((1 << 40).to_bytes(8, "little") + b"{}")
  with pytest.raises(UserError, match="not a PyTorch or safetensors file"):
    checkpoint.read(path)


@pytest.mark.parametrize("cut", [1, 7, 8, 9, 20, -1])
def test_cut_short(tmp_path, cut):
  path = tmp_path / "a.safetensors"
  path.write_bytes(written.safetensors({"x": np.ones(3, np.float32)})[:cut])
  with pytest.raises(UserError, match=r"a\.safetensors: (not a |a damaged )"):
    checkpoint.read(path)
