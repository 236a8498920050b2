"""Pickles of plain data are read as by `pickle`. Anything else is rejected with its name, and nothing is run."""

import datetime
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxfer import pickles
from jaxfer.data import unpickle

FUZZ = settings(max_examples=100, deadline=None)
ATOMS = st.one_of(
  st.none(),
  st.booleans(),
  st.integers(),
  st.floats(allow_nan=False),
  st.text(max_size=8),
  st.binary(max_size=8),
)


def _refusal(data: bytes) -> str:
  """Returns why `data` are rejected; "" if they are read."""
  try:
    unpickle.loads(data)
  except ValueError as error:
    return str(error)
  return ""


class _Runs:
  ran = False

  def __reduce__(self):
    return _run, ()


def _run():
  _Runs.ran = True


@given(
  st.one_of(
    ATOMS,
    st.lists(ATOMS, max_size=5),
    st.tuples(st.lists(st.binary()), st.lists(st.booleans())),
    st.dictionaries(ATOMS, ATOMS),
  ),
  st.integers(0, 5),
)
@FUZZ
def test_plain_data_read_as_pickle_reads_them(value, protocol):
  data = pickle.dumps(value, protocol)
  # Before protocol 3, bytes are written as calls, and empty bytes as a call of bytes().
  assert "__builtin__" in _refusal(data) or unpickle.loads(data) == value


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
@pytest.mark.parametrize(
  "array",
  [
    np.arange(6, dtype=np.uint8).reshape(2, 3),
    np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    np.array([1, 2], ">i4"),
    np.array([True, False]),
    np.array(["3", "12"]),
    np.array(["3", "12"], object),
    np.array("3"),
    np.array("3", object),
  ],
)
def test_arrays_of_plain_types(array, protocol):
  read = unpickle.loads(pickle.dumps([array], protocol))[0]
  np.testing.assert_array_equal(read, array)
  assert read.shape == array.shape
  assert read.dtype.kind == ("U" if array.dtype == object else array.dtype.kind)


def test_the_strings_of_python_2_are_bytes():
  # pickle.dumps((["\xff\xd8jpeg"], [True]), protocol=2) of Python 2.7.
  data = b"\x80\x02]q\x00U\x06\xff\xd8jpegq\x01a]q\x02\x88a\x86q\x03."
  assert unpickle.loads(data) == ([b"\xff\xd8jpeg"], [True])
  assert pickle.loads(data, encoding="bytes") == ([b"\xff\xd8jpeg"], [True])


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_pickle_that_calls_is_refused_by_name_and_runs_nothing(protocol):
  with pytest.raises(ValueError, match=r"names \S*_run: only plain data are read"):
    unpickle.loads(pickle.dumps(_Runs(), protocol))
  assert not _Runs.ran
  with pytest.raises(ValueError, match=r"names datetime\.date: only plain data"):
    unpickle.loads(pickle.dumps(datetime.date(2020, 1, 1), protocol))
  for system in (b"cos\nsystem\n(S'true'\ntR.", b"(ios\nsystem\n."):
    with pytest.raises(ValueError, match=r"os\.system|INST"):
      unpickle.loads(system)


@pytest.mark.parametrize(
  ("data", "message"),
  [
    (b"", "pickle exhausted|not a valid pickle|no end|STOP"),
    (b"\x80\x02]", "pickle exhausted|STOP"),
    (b"l.", "damaged at LIST"),
    (b"h\x05.", "damaged at BINGET"),
    (b"cnumpy\nndarray\n)R.", r"numpy\.ndarray"),
    (b"cnumpy\nndarray\n.", "neither numbers"),
    (b"P1\n.", "uses PERSID"),
    (b"cnumpy\ndtype\n)\x81.", "NEWOBJ class argument"),
    (b"}cnumpy\nndarray\nNs.", "neither numbers"),  # A name as a key.
    (b"]r\xff\xff\xff\xff.", "memo number"),  # 32 GiB of memo.
    (b"]p4294967295\n.", "memo number"),
    (b"]q\x00h\x00a.", "neither numbers"),  # A list in itself.
  ],
)
def test_broken_pickles(data, message):
  with pytest.raises(ValueError, match=message):
    unpickle.loads(data)


def test_objects_in_arrays_are_refused():
  with pytest.raises(ValueError, match="objects other than texts and numbers"):
    unpickle.loads(pickle.dumps(np.array([["a"], None], object)))
  with pytest.raises(ValueError, match="type V"):
    unpickle.loads(pickle.dumps(np.zeros(2, [("a", "i4")])))


def test_a_huge_shape_costs_nothing():
  data = pickle.dumps(np.arange(4, dtype=np.uint8), 2)
  assert data.count(b"K\x04\x85") == 1
  with pytest.raises(ValueError, match="an array of 4 bytes for the shape"):
    unpickle.loads(data.replace(b"K\x04\x85", b"J\xff\xff\xff\x7f\x85"))


def test_texts_of_an_array_do_not_all_grow_to_a_long_one():
  short, long = np.array(["a"] * 1000, object), np.array(["a"] * 1000 + ["b" * 5000], object)
  assert unpickle.loads(pickle.dumps(short)).shape == (1000,)
  with pytest.raises(ValueError, match="an array of 1001 texts of up to 5000 characters"):
    unpickle.loads(pickle.dumps(long))


def test_tuples_in_tuples_do_not_overflow_the_stack():
  """Python hashes the key of a dict recursively in C. Without the limit, the process would crash."""
  with pytest.raises(ValueError, match=r"more than \d+ opcodes or 65536 tuples"):
    unpickle.loads(b"\x80\x02})" + b"\x85" * 400_000 + b"Ns.")
  with pytest.raises(ValueError, match="neither numbers"):
    unpickle.loads(b"\x80\x02})" + b"\x85" * 1000 + b"Ns.")


def test_a_pickle_of_too_many_opcodes_is_refused(monkeypatch):
  monkeypatch.setattr(pickles, "MAX_OPCODES", 100)
  assert unpickle.loads(pickle.dumps([None] * 90)) == [None] * 90
  with pytest.raises(ValueError, match="more than 100 opcodes"):
    unpickle.loads(pickle.dumps([None] * 100))


def test_lists_that_hold_lists_many_times_over_are_no_trap():
  inner: list = []
  for _ in range(4):
    inner = [inner] * 400
  data = pickle.dumps(inner)
  assert len(data) < 10_000
  with pytest.raises(ValueError, match="short lists"):
    unpickle.loads(data)
  assert unpickle.loads(pickle.dumps([[[[1]]]])) == [[[[1]]]]
  with pytest.raises(ValueError, match="short lists"):
    unpickle.loads(b"]" * 3000 + b"a" * 2999 + b".")


SOUND = pickle.dumps(([b"jpeg", np.arange(3), np.array("x")], [True, 2.5, "text", {"a": (1, 2)}]), 4)


@given(
  st.lists(st.tuples(st.integers(0, len(SOUND) - 1), st.integers(0, 255)), max_size=4),
  st.integers(0, len(SOUND)),
)
@FUZZ
def test_flipped_bytes_raise_a_value_error_or_are_read(flips, length):
  data = bytearray(SOUND)
  for position, byte in flips:
    data[position] = byte
  for attempt in (bytes(data), bytes(data[:length])):
    assert "\n" not in _refusal(attempt)


@given(st.binary(max_size=60))
@FUZZ
def test_any_bytes_raise_a_value_error_or_are_read(data):
  assert "\n" not in _refusal(data)
