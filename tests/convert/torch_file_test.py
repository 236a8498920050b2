"""PyTorch's files are read correctly. Anything but tensors is rejected with its name, and nothing is run."""

import argparse
import collections
import io
import os
import pathlib
import pickle
import struct
import zipfile

import chex
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxfer.convert import checkpoint, torch_file
from jaxfer.convert.kinds import Refused
from jaxfer.errors import UserError
from tests.convert import written

FIXTURES = pathlib.Path(__file__).parent / "fixtures"
FUZZ = settings(max_examples=150, deadline=None)
VIEWS = ("views.pth", "views_legacy.pth")
KINDS = ("kinds.pth", "kinds_legacy.pth")
UNSUPPORTED = {
  "complex32": "of type complex32, which is not supported: save it as float32",
  "complex64": "of type complex64, which is not supported: save it as float32",
  "complex128": "of type complex128, which is not supported: save it as float32",
  "float4_e2m1fn_x2": "of type float4_e2m1fn_x2, which is not supported",
  "quantised": r"quantised, which is not supported: save its \.dequantize",
  "sparse": r"sparse, which is not supported: save its \.to_dense",
  "sparse_rows": r"sparse, which is not supported: save its \.to_dense",
  "nested": "a nested tensor, which is not supported",
  "meta": "on the device 'meta' and has no numbers",
  "negative": r"a view with the flag 'neg', which is not supported: save its \.resolve_neg",
}


def archive(pickled, storages=(), compression=zipfile.ZIP_STORED, **extra):
  """Returns a PyTorch file with this pickle; `storages` are the bytes of keys 0, 1, ..."""
  stream = io.BytesIO()
  with zipfile.ZipFile(stream, "w", compression) as file:
    file.writestr("weights/data.pkl", pickled)
    for key, data in enumerate(storages):
      file.writestr(f"weights/data/{key}", data)
    for name, data in extra.items():
      file.writestr(f"weights/{name}", data)
  return stream.getvalue()


def tensor(offset, shape, strides, count=6):
  """A pickle of one tensor over storage 0, opcode by opcode."""

  def integers(values):
    return b"(" + b"".join(b"J" + struct.pack("<i", v) for v in values) + b"t"

  def text(value):
    return b"X" + struct.pack("<I", len(value)) + value.encode()

  storage = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu")
  storage += b"J" + struct.pack("<i", count) + b"tQ"
  arguments = b"(" + storage + b"J" + struct.pack("<i", offset) + integers(shape) + integers(strides) + b"t"
  return b"\x80\x02}" + text("x") + b"ctorch._utils\n_rebuild_tensor\n" + arguments + b"Rs."


def read(data):
  value, array = torch_file.loads(data)
  return {name: array(item) for name, item in value.items()}


@pytest.mark.parametrize("name", VIEWS)
def test_types_and_views(name):
  base = np.arange(24, dtype=np.float32).reshape(4, 6)
  want = {
    "base": base,
    "transposed": base.T,
    "row": base[2],
    "every_other": base[1::2, ::3],
    "empty": np.zeros((0, 3), np.float32),
    "scalar": np.int64(7),
    "parameter": base[:2],
    "bool": np.array([True, False]),
    "bfloat16": np.arange(3).astype(ml_dtypes.bfloat16),
  }
  plain = ("float64", "float16", "int64", "int32", "int16", "int8", "uint8")
  want |= {kind: np.arange(3, dtype=kind) for kind in plain}
  got = checkpoint.read(FIXTURES / name).tensors
  chex.assert_trees_all_equal_shapes_and_dtypes(got, want)
  chex.assert_trees_all_equal(got, want)


@pytest.mark.parametrize("name", KINDS)
def test_rarer_kinds_of_tensors(name):
  """Each is read or rejected separately, so that one next to the weights does not make the file unreadable."""
  value, array = torch_file.loads((FIXTURES / name).read_bytes())
  for key, match in UNSUPPORTED.items():
    assert torch_file.is_tensor(value[key])
    with pytest.raises(Refused, match=match):
      array(value.pop(key))
  for key, item in value.items():
    kind = (
      getattr(ml_dtypes, key) if hasattr(ml_dtypes, key) else key if key.startswith("uint") else "float32"
    )
    got = array(item)
    assert got.dtype == kind, key
    want = [[1], [2], [4]] if key == "shared_transposed" else [1, 2, 4]
    np.testing.assert_array_equal(got.astype(np.float32), want, err_msg=key)
  assert len(value) == 13


def test_a_kind_that_is_not_read_is_named(tmp_path):
  """This holds among the weights. Next to them, an unsupported tensor is ignored."""
  sparse = written.Opcodes(b"ctorch._utils\n_rebuild_sparse_tensor\n)R")
  weights = {"fc.bias": np.ones(2, np.float32)}
  path = tmp_path / "a.ckpt"
  path.write_bytes(written.zipped({"state_dict": {**weights, "fc.weight": sparse}}))
  with pytest.raises(UserError, match=r"a\.ckpt: fc\.weight: it is sparse"):
    checkpoint.read(path)
  path.write_bytes(written.zipped({"state_dict": weights, "graph": {"edges": sparse}}))
  assert set(checkpoint.read(path).tensors) == {"fc.bias"}


def test_a_tensor_by_hand():
  data = np.arange(6, dtype="<f4").tobytes()
  np.testing.assert_array_equal(read(archive(tensor(1, (2, 2), (1, 2)), [data]))["x"], [[1, 3], [2, 4]])


@pytest.mark.parametrize(
  ("offset", "shape", "strides", "count"),
  [
    (0, (7,), (1,), 6),
    (5, (2,), (1,), 6),
    (0, (2, 2), (5, 1), 6),
    (-1, (2,), (1,), 6),
    (0, (2,), (-1,), 6),
    (0, (1 << 30, 1 << 30), (0, 0), 6),
    (0, (2,), (1, 1), 6),
    (0, (6,), (1,), -6),
    (0, (60,), (1,), 60),  # More than the archive's entry holds.
  ],
)
def test_tensors_beyond_their_storage(offset, shape, strides, count):
  with pytest.raises(ValueError, match=r"damaged|reaches beyond|argument|smaller"):
    read(archive(tensor(offset, shape, strides, count), [bytes(24)]))


class _Runs:
  def __init__(self, call, *arguments):
    self.call = call, arguments

  def __reduce__(self):
    return self.call


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize(
  ("call", "arguments"), [(os.mkdir, ("ran",)), (eval, ("1",)), (getattr, ("", "upper")), (bytearray, (9,))]
)
def test_nothing_is_called(tmp_path, monkeypatch, protocol, call, arguments):
  monkeypatch.chdir(tmp_path)
  path = tmp_path / "a.pth"
  path.write_bytes(archive(pickle.dumps({"x": _Runs(call, *arguments)}, protocol)))
  before = sorted(tmp_path.iterdir())
  with pytest.raises(UserError, match=rf"names \w+\.{call.__name__}: only tensors"):
    checkpoint.read(path)
  assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("protocol", [2, 4])
def test_objects_beside_the_weights_are_passed_over(tmp_path, monkeypatch, protocol):
  """Lightning's checkpoints have such objects. They are not created, called or kept."""
  monkeypatch.chdir(tmp_path)
  beside = {
    _Runs: [pathlib.PurePosixPath("a"), argparse.Namespace(b=1), collections.Counter("cc"), range(3)],
    "runs": _Runs(os.mkdir, "ran"),
    "score": np.float64(2),
  }
  weights = pickle.dumps({"state_dict": {}, "hyper_parameters": beside}, protocol)
  value, array = torch_file.loads(archive(weights))
  assert value["state_dict"] == {}
  (cls, items), (_, runs), (_, score) = value["hyper_parameters"].items()
  assert torch_file.foreign(cls).endswith("_Runs")
  assert [torch_file.foreign(item).rpartition(".")[2] for item in items] == [
    "PurePosixPath", "Namespace", "Counter", "range" if protocol == 4 else "xrange",
  ]  # fmt: skip
  assert torch_file.foreign(runs).endswith(".mkdir")
  assert torch_file.foreign(score).endswith(".scalar")
  assert array(score) is None
  assert torch_file.foreign({}) is torch_file.foreign(dict) is None
  assert list(tmp_path.iterdir()) == []
  assert vars(items[1]) == {}


def test_no_end_of_classes():
  names = b"".join(b"cm\nx%d\n" % k for k in range(1000))
  with pytest.raises(ValueError, match="names more than 200 classes"):
    torch_file.loads(archive(b"\x80\x02(" + names + b"t."))


def test_objects_are_refused_by_name(tmp_path):
  path = tmp_path / "a.pt"
  path.write_bytes(archive(pickle.dumps({"x": pathlib.PurePosixPath("a")}, 2)))
  with pytest.raises(UserError, match=r"pathlib.*PurePosixPath.*state_dict\(\) alone"):
    checkpoint.read(path)


@pytest.mark.parametrize(
  ("pickled", "match"),
  [
    (b"\x80\x02}r\xff\xff\xff\xff.", "memo number"),  # 64 GB of memo.
    (b"\x80\x02ctorch._utils\n_rebuild_tensor\n}X\x08\x00\x00\x00functionNsb)R.", "damaged"),
    (b"\x80\x02ctorch\nFloatStorage\n)R.", "calls torch.FloatStorage"),
    (b"\x80\x02(i os\nsystem\n.", "INST"),
    (b"\x80\x05\x96\xff\xff\xff\xff\xff\xff\xff\x7f.", "remain"),
    (b"\x80\x02ctor\\Kch\nx\n.", "file names"),  # An escape that Python warns of.
    (
      b"\x80\x02})" + b"\x85" * 400_000 + b"Ns.",
      r"65536 tuples.*state_dict\(\) alone",
    ),  # Their hash overflows the stack.
    # Python 3.13 prints it, and older versions cannot.
    (
      b"\x80\x02})" + b"\x85" * 5000 + b"Ns.",
      r"(nested too deeply|is not a tensor): save (the model's|a) state_dict\(\)",
    ),
    (b"\x80\x02]}\x86.", "not a dict"),
    (b"\x80\x02}X\x01\x00\x00\x00aK\x01s.", "'a' is not a tensor"),
  ],
)
def test_hostile_pickles(tmp_path, pickled, match):
  path = tmp_path / "a.ckpt"
  path.write_bytes(archive(pickled))
  with pytest.raises(UserError, match=match):
    checkpoint.read(path)


def test_compressed_archives_and_other_byte_orders():
  pickled = tensor(0, (6,), (1,))
  with pytest.raises(ValueError, match="compressed"):
    read(archive(pickled, [bytes(24)], zipfile.ZIP_DEFLATED))
  with pytest.raises(ValueError, match="byte order of a big-endian machine: save it again on"):
    read(archive(pickled, [bytes(24)], byteorder=b"big"))
  read(archive(pickled, [bytes(24)], byteorder=b"little"))
  value = {"x": np.ones(3, np.float32)}
  with pytest.raises(ValueError, match="byte order of a big-endian machine: save it again on"):
    read(written.legacy(value, little_endian=False))
  with pytest.raises(ValueError, match="protocol 1000: save it again with a newer PyTorch"):
    read(written.legacy(value, protocol=1000))
  np.testing.assert_array_equal(read(written.legacy(value))["x"], value["x"])


def test_storages_cut_short():
  """The same holds for a storage whose declared size is too large."""
  match = r"a damaged PyTorch file \(storage 0 is cut short\): download or save it again"
  with pytest.raises(Refused, match=match):
    read(archive(tensor(0, (6,), (1,), 7), [bytes(24)]))
  whole = written.legacy({"x": np.arange(6, dtype=np.float32)})
  for damaged in (whole[:-1], whole.replace(b"K\x06tQ", b"K\x07tQ")):
    with pytest.raises(Refused, match=match):
      read(damaged)


def test_shapes_without_numbers():
  """Nothing is allocated, however large the other dimensions are."""
  assert read(archive(tensor(0, (0, 1 << 30), (1, 1)), [bytes(24)]))["x"].shape == (0, 1 << 30)
  assert read(archive(tensor(0, (0,), (1,), 0), [b""]))["x"].shape == (0,)
  assert read(archive(tensor(5, (), ()), [bytes(24)]))["x"].shape == ()
  with pytest.raises(Refused, match="reaches beyond its 6 numbers"):
    read(archive(tensor(6, (), ()), [bytes(24)]))


def test_a_missing_file(tmp_path):
  with pytest.raises(UserError, match="No such file or directory: give a"):
    checkpoint.read(tmp_path / "missing.pth")


def _refusal(path):
  """Returns why a file is rejected; "" if it is read, and its tensors are not larger than such files can be."""
  try:
    tensors = checkpoint.read(path).tensors
  except UserError as error:
    return str(error)
  assert sum(tensor.nbytes for tensor in tensors.values()) < 20 * path.stat().st_size
  return ""


@pytest.fixture(scope="module")
def garbled(tmp_path_factory):
  return tmp_path_factory.mktemp("garbled")


@given(
  name=st.sampled_from(VIEWS + KINDS),
  cut=st.floats(0, 1),
  changes=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255))),
)
@FUZZ
def test_damaged_files_are_errors_of_the_user(garbled, name, cut, changes):
  data = bytearray((FIXTURES / name).read_bytes())
  if not changes:
    data = data[: int(cut * len(data))]
  for place, byte in changes:
    data[int(place * (len(data) - 1))] = byte
  path = garbled / "a.pth"
  path.write_bytes(bytes(data))
  refusal = _refusal(path)
  assert "\n" not in refusal
  assert refusal == "" or str(path) in refusal


@given(data=st.binary(max_size=64))
@FUZZ
def test_any_bytes_as_safetensors(garbled, data):
  path = garbled / "a.safetensors"
  path.write_bytes(data)
  refusal = _refusal(path)
  assert refusal == "" or str(path) in refusal
