"""Tests large data sets, which are opened without decoding, read by records, and streamed in the order of a plan."""

import json
import pathlib

import numpy as np
import pytest

from jaxfer.data import records, stream
from jaxfer.errors import UserError
from tests.fixtures import stored_stills
from tests.fixtures.stored_stills import COUNT


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
  return tmp_path_factory.mktemp("data")


@pytest.fixture
def whole(monkeypatch, data_dir):
  stored_stills.install(monkeypatch)
  return records.load("stored", data_dir)


@pytest.fixture
def builder(whole, data_dir):
  return records.prepared("stored", data_dir, {})


def test_a_set_opened_lazily_is_the_one_read_whole(whole, builder):
  lazy = stream.open_records(builder)
  for name in ("keys", "label_names", "subject_names", "texts", "fingerprint"):
    assert getattr(lazy, name) == getattr(whole, name)
  assert lazy.arrays.keys() == whole.arrays.keys()
  assert {name for name, a in lazy.arrays.items() if isinstance(a, stream.Column)} == {"image", "field"}
  for name, array in whole.arrays.items():
    column = lazy.arrays[name]
    assert (column.shape, column.dtype, column.nbytes, len(column)) == (
      array.shape,
      array.dtype,
      array.nbytes,
      len(array),
    )
    for rows in ([5, 0, 5], np.arange(COUNT) % 5 == 0, slice(3, 6), 7, -1, []):
      np.testing.assert_array_equal(column[rows], array[rows])
  image = lazy.arrays["image"][COUNT - 1 - 4]  # Keys are in descending order of the numbers.
  np.testing.assert_array_equal(image, stored_stills.picture(4))


def test_nothing_is_decoded_at_opening_where_a_report_tells_the_fingerprint(monkeypatch, builder, whole):
  report = pathlib.Path(builder.data_path) / "report.json"
  report.write_text(json.dumps({"fingerprint": "f" * 64}))
  try:
    monkeypatch.setattr(stream, "_decode", lambda *args: pytest.fail("a picture was decoded"))
    lazy = stream.open_records(builder)
  finally:
    report.unlink()
  assert lazy.fingerprint == "f" * 64
  np.testing.assert_array_equal(lazy.arrays["label"], whole.arrays["label"])


def test_a_column_never_becomes_an_array_as_a_whole(builder):
  column = stream.open_records(builder).arrays["image"]
  with pytest.raises(TypeError, match="'image' stays on disk"):
    np.asarray(column)
  with pytest.raises(IndexError):
    column[COUNT]


def test_only_what_fits_is_read_whole(whole, builder, data_dir):
  size = stream.decoded_bytes(builder)
  assert sum(array.nbytes for array in whole.arrays.values()) <= size + 8 * COUNT
  for limit, lazily in ((None, False), (size, False), (size - 1, True), (0, True)):
    loaded = stream.load("stored", data_dir, {}, limit)
    assert isinstance(loaded.arrays["image"], stream.Column) == lazily
    assert loaded.fingerprint == whole.fingerprint


def test_windows_hold_the_planned_rows_in_order(whole, builder):
  lazy = stream.open_records(builder)
  rng = np.random.default_rng(0)
  plan = [rng.integers(0, COUNT, length) for length in (70, 1, 33, 32)]
  for arrays in (lazy.arrays, whole.arrays):
    for rows, window in zip(plan, stream.Stream(arrays).windows(plan), strict=True):
      assert window.keys() == whole.arrays.keys()
      for name, array in whole.arrays.items():
        np.testing.assert_array_equal(window[name], array[rows])
        assert window[name].flags.owndata


def test_a_record_is_read_once_for_all_of_its_columns(monkeypatch, builder):
  data = stream.Stream(stream.open_records(builder).arrays)
  asked, read = [], stream.Reader.read

  def counted(self, rows, names):
    asked.append((rows.tolist(), sorted(names)))
    return read(self, rows, names)

  monkeypatch.setattr(stream.Reader, "read", counted)
  data.gather(np.asarray([3, 1]))
  assert asked == [([3, 1], ["field", "image"])]


def test_windows_can_be_left_early(builder):
  data = stream.Stream(stream.open_records(builder).arrays)
  windows = data.windows([np.arange(COUNT)] * 50)
  assert len(next(windows)["image"]) == COUNT
  windows.close()


def test_damage_is_reported_with_the_folder(builder, data_dir):
  lazy = stream.open_records(builder)
  shard = next(pathlib.Path(builder.data_path).glob("*.array_record*"))
  content = shard.read_bytes()
  try:
    shard.write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=f"prepared data in {builder.data_path} are damaged"):
      stream.open_records(records.open_builder("stored", records.make_config("stored", {}), data_dir))
  finally:
    shard.write_bytes(content)
  assert len(lazy.arrays["image"][[0]]) == 1


def test_the_hosts_memory_is_measured_or_unknown(monkeypatch):
  measured = stream.host_memory()
  assert measured is None or 1 << 20 < measured < 1 << 50
  monkeypatch.setattr(pathlib.Path, "read_text", lambda self: (_ for _ in ()).throw(FileNotFoundError()))
  assert stream.host_memory() is None
