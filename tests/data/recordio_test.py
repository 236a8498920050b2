"""Tests RecordIO with our own writer, which follows the format's description, and with damaged files."""

import contextlib
import struct

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jaxfer.data import recordio
from tests.fixtures import casia_webface_tree as tree

FUZZ = settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))


def _write(tmp_path, data: bytes):
  path = tmp_path / "train.rec"
  path.write_bytes(data)
  return path


def _read_all(path):
  with recordio.Reader(path) as reader:
    return [reader.payload(offset)[0] for offset in reader.offsets()]


@given(st.lists(st.lists(st.sampled_from([tree.MAGIC, b"face", b"x", b""])).map(b"".join), max_size=6))
@FUZZ
def test_written_records_are_read(tmp_path_factory, payloads):
  path = _write(tmp_path_factory.mktemp("rec"), b"".join(map(tree.frame, payloads)))
  assert _read_all(path) == payloads


def test_a_payload_that_holds_the_magic_comes_in_parts(tmp_path):
  payload = b"12345678" + tree.MAGIC + b"abc"
  record = tree.frame(payload)
  assert record.count(tree.MAGIC) == 2  # One per part; that of the payload is removed.
  path = _write(tmp_path, record + tree.frame(b"next"))
  assert _read_all(path) == [payload, b"next"]


def test_headers(tmp_path):
  payloads = [
    tree.payload((5.0, 9.0), 0),
    tree.payload(3.0, 1, b"jpeg"),
    tree.payload((4.0, 7.0, 2.0), 2, b"image"),
  ]
  path = _write(tmp_path, b"".join(map(tree.frame, payloads)))
  with recordio.Reader(path) as reader:
    headers = [reader.header(offset)[0] for offset in reader.offsets()]
    offsets = list(reader.offsets())
  assert [header.labels for header in headers] == [(5.0, 9.0), (3.0,), (4.0, 7.0, 2.0)]
  assert [(header.id, header.size) for header in headers] == [(0, 0), (1, 4), (2, 5)]
  assert recordio.parse(payloads[2])[1] == b"image"
  assert recordio.Image(path, offsets[1], "record 1").read() == b"jpeg"


def test_a_header_with_the_magic_in_it_is_read(tmp_path):
  number = struct.unpack("<f", tree.MAGIC)[0]
  path = _write(tmp_path, tree.frame(tree.payload(number, 7, b"jpeg")))
  with recordio.Reader(path) as reader:
    header, _ = reader.header(0)
  assert (header.id, header.size) == (7, 4)
  assert np.float32(header.labels[0]) == np.float32(number)


@pytest.mark.parametrize(
  ("data", "message"),
  [
    (b"\x89PNG\r\n\x1a\n____", "begins with 0x474e5089, not 0xced7230a"),
    (tree.frame(b"face")[:-2], "the file ends 2 bytes early"),
    (tree.frame(b"face") + b"abc", "no record at byte 12 of 15"),
    (tree.MAGIC + struct.pack("<I", 3 << 29 | 0), "is part 3 of another"),
    (tree.MAGIC + struct.pack("<I", 1 << 29 | 0) + tree.frame(b""), "is part 0 of another"),
    (tree.MAGIC + struct.pack("<I", 1 << 29 | 0), "no record at byte 8 of 8"),
    (tree.MAGIC + struct.pack("<I", 5 << 29), "is part 5 of another"),
  ],
)
def test_damage_is_named(tmp_path, data, message):
  with pytest.raises(ValueError, match=message):
    _read_all(_write(tmp_path, data))


@pytest.mark.parametrize(
  ("payload", "message"),
  [
    (b"short", "a record of 5 bytes: its header alone takes 24"),
    (struct.pack("<IfQQ", 3, 0, 0, 0), "says it has 3 labels"),
    (struct.pack("<IfQQ", 0xFFFFFFFF, 0, 0, 0), "says it has 4294967295 labels"),
    (struct.pack("<IfQQ", 0, np.nan, 0, 0), "whose label is nan"),
  ],
)
def test_bad_headers_are_named(payload, message):
  with pytest.raises(ValueError, match=message):
    recordio.parse(payload)


@given(st.binary(max_size=200), st.integers(0, 300), st.integers(0, 255))
@FUZZ
def test_any_bytes_raise_a_value_error_or_are_read(tmp_path_factory, extra, position, byte):
  sound = bytearray(
    b"".join(tree.frame(tree.payload((1.0, float(i)), i, b"image" * i)) for i in range(6)) + extra
  )
  sound[position % len(sound)] = byte
  path = _write(tmp_path_factory.mktemp("rec"), bytes(sound))
  with recordio.Reader(path) as reader, contextlib.suppress(ValueError):
    for offset in reader.offsets():
      reader.header(offset)
      recordio.parse(reader.payload(offset)[0])


@given(st.one_of(st.binary(max_size=100), st.text("0123456789\t\n ", max_size=60).map(str.encode)))
@FUZZ
def test_any_index_raises_a_value_error_or_is_read(tmp_path_factory, data):
  path = _write(tmp_path_factory.mktemp("idx"), data)
  with contextlib.suppress(ValueError):
    index = recordio.read_index(path)
    assert all(type(key) is int and type(offset) is int for key, offset in index.items())


def test_index(tmp_path):
  assert recordio.read_index(_write(tmp_path, b"0\t0\n1\t36\n")) == {0: 0, 1: 36}
  with pytest.raises(ValueError, match="line 2 repeats key 0"):
    recordio.read_index(_write(tmp_path, b"0\t0\n0\t36\n"))
  with pytest.raises(ValueError, match="line 1 is b'a"):
    recordio.read_index(_write(tmp_path, b"a" * 10**6))
