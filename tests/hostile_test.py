"""Tests that hostile files are read or refused. `python -m tests.hostile` tries thousands of each kind."""

import io
import json
import pickle
import struct
import subprocess
import sys
import tarfile
import zipfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jaxfer import pickles
from jaxfer.convert import checkpoint
from jaxfer.data import recordio, tars, unpickle
from jaxfer.errors import UserError
from jaxfer.train import weights
from tests import hostile, hostile_inputs
from tests.fixtures import casia_webface_tree as records
from tests.hostile_kinds import KINDS, Kind

FUZZ = settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: kind.slug)
def test_a_hostile_file_is_read_or_refused(kind, tmp_path_factory):
  folder = tmp_path_factory.mktemp("hostile")

  @given(st.integers(0, 2**32))
  @FUZZ
  def fed(seed):
    outcome, why = hostile.feed(kind, seed, folder)
    assert outcome != "failed", why

  fed()


def _kind(read, name="a.bin") -> Kind:
  return Kind("a", lambda draw: b"data", read, name)


@pytest.mark.parametrize(
  ("read", "why"),
  [
    (lambda path: 1 / 0, "ZeroDivisionError"),
    (lambda path: path.with_name("b").write_bytes(b""), "the reader did open"),
    (lambda path: subprocess.run([sys.executable, "-c", ""]), "the reader did"),
    (lambda path: pickle.loads(pickle.dumps(np.float32)), "the reader did pickle.find_class"),
  ],
)
def test_what_a_reader_must_not_do_is_a_failure(read, why, tmp_path):
  outcome, told = hostile.feed(_kind(read), 0, tmp_path)
  assert outcome == "failed"
  assert why in told


@pytest.mark.parametrize(("named", "expected"), [(True, "refused"), (False, "failed")])
def test_an_error_that_does_not_name_the_file_is_a_failure(named, expected, tmp_path):
  def read(path):
    raise UserError(f"{path} is damaged" if named else "a file is damaged")

  assert hostile.feed(_kind(read), 0, tmp_path)[0] == expected


def _shared(levels: int) -> bytes:
  """Returns a pickle of a dict. Its key is a tuple of two references to another such tuple, and so on."""
  body = b"K\x01\x85q\x00"
  for level in range(levels):
    body += b"h" + bytes([level]) + b"\x86q" + bytes([level + 1])
  return b"\x80\x02}" + body + b"K\x01s."


def test_a_pickle_that_repeats_its_parts_is_refused_before_it_is_run():
  assert pickle.loads(_shared(4))
  with pytest.raises(ValueError, match="repeats its parts more than 4194304 times"):
    unpickle.loads(_shared(60))  # Hashing the key would take years.


def test_a_pickle_of_huge_integers_is_refused():
  def many(count):
    # All keys have the same hash.
    return pickle.dumps({(k + 1 << 80) * (2**61 - 1): None for k in range(count)}, 2)

  assert len(pickle.loads(many(16))) == 16
  pickles.check(many(16), pickles.OPCODES, "plain data")
  with pytest.raises(pickles.Forbidden, match="more than 16 integers beyond 64 bits"):
    pickles.check(many(17), pickles.OPCODES, "plain data")


def _safetensors(tmp_path, header, data: bytes = b""):
  text = json.dumps(header).encode()
  path = tmp_path / "a.safetensors"
  path.write_bytes(struct.pack("<Q", len(text)) + text + data)
  return path


@pytest.mark.parametrize(
  ("entry", "message"),
  [
    ({"dtype": "F32", "shape": [2**62] * 100_000, "data_offsets": [0, 0]}, "invalid shape"),
    ({"dtype": [], "shape": [], "data_offsets": [0, 0]}, "is not supported"),
  ],
  ids=["a product of a hundred thousand sizes", "a list as dtype"],
)
def test_an_entry_of_safetensors_is_checked(entry, message, tmp_path):
  with pytest.raises(UserError, match=message):
    checkpoint.read(_safetensors(tmp_path, {"a": entry}))


def _tar(tmp_path, size: int, kind: bytes, count: int = 1):
  header = bytearray(tarfile.TarInfo("a.png").tobuf(tarfile.USTAR_FORMAT))
  hostile_inputs.patch(header, 0, size, kind)
  path = tmp_path / "a.tar"
  path.write_bytes(bytes(header) * count + bytes(1024))
  return path


@pytest.mark.parametrize(
  ("size", "kind", "count", "message"),
  [
    (-512, b"0", 1, r"a\.png has a negative size"),  # The next header would be this one again.
    (-512, b"S", 1, r"a\.png has a negative size|is a sparse file"),
    (0, b"S", 1, r"a\.png is a sparse file: pack the archive again"),
    (2**60, b"x", 1, "not a whole, uncompressed tar archive"),  # An extended header of this many bytes.
    (0, b"L", 3000, "not a whole, uncompressed tar archive"),  # Each header describes the next.
  ],
)
def test_headers_of_a_tar_are_checked(size, kind, count, message, tmp_path):
  with pytest.raises(ValueError, match=message):
    list(tars.members(_tar(tmp_path, size, kind, count)))


def test_a_record_of_many_empty_parts_is_refused(tmp_path):
  path = tmp_path / "train.rec"
  first, middle = (records.MAGIC + struct.pack("<I", part << 29) for part in (1, 2))
  path.write_bytes(first + middle * 70_000)
  with recordio.Reader(path) as reader, pytest.raises(ValueError, match="or 65536 parts at byte"):
    reader.payload(0)


def test_weights_that_are_compressed_are_refused(tmp_path):
  with zipfile.ZipFile(tmp_path / "weights.npz", "w", zipfile.ZIP_DEFLATED) as file:
    file.writestr("params/a.npy", bytes(1 << 20))
  files = hostile_inputs.described((tmp_path / "weights.npz").read_bytes())
  (tmp_path / "weights.json").write_bytes(files["weights.json"])
  with pytest.raises(UserError, match=r"weights\.npz is damaged, or from another program"):
    weights.load_weights(tmp_path)


@pytest.mark.parametrize("shape", ["(100000000000000000000,)", "((((((((((", "(-1,)"])
def test_a_header_of_an_array_that_makes_no_sense_is_refused(shape, tmp_path):
  array = io.BytesIO()
  np.save(array, np.zeros((2, 3), np.float32))
  with zipfile.ZipFile(tmp_path / "weights.npz", "w") as file:
    file.writestr("params/a.npy", array.getvalue().replace(b"(2, 3)", shape.encode()))
  files = hostile_inputs.described((tmp_path / "weights.npz").read_bytes())
  (tmp_path / "weights.json").write_bytes(files["weights.json"])
  with pytest.raises(UserError, match=r"weights\.npz is damaged, or from another program"):
    weights.load_weights(tmp_path)
