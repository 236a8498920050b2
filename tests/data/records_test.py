"""Tests prepared data sets: round trip, order, fingerprint, names of configurations, atomic writing."""

import dataclasses
import subprocess
import sys
import types

import numpy as np
import pytest

from jaxfer.data import datasets, records
from jaxfer.data.datasets import Dataset
from jaxfer.data.encode import png
from jaxfer.errors import UserError

SIZE, FRAMES, COUNT = 8, 3, 10


def _example(i: int) -> dict:
  rng = np.random.default_rng(i)
  return {
    "frames": rng.integers(0, 256, (FRAMES, SIZE, SIZE, 3)).astype(np.uint8),
    "flow": rng.integers(-32767, 32768, (FRAMES, SIZE, SIZE, 2)).astype(np.int16),
    "action_units": rng.random(5, np.float32),
    "label": i % 2,
    "subject": f"S{i % 3}",
    "key": f"k{i}",
  }


def _toy_module() -> types.ModuleType:
  import tensorflow_datasets as tfds

  module = types.ModuleType("toy_dataset_builder")

  @dataclasses.dataclass
  class Config(tfds.core.BuilderConfig):
    num_frames: int = FRAMES
    strength: float = 1.0
    source: str = dataclasses.field(default="", metadata={"in_name": False})

  class Toy(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")
    name = "toy"
    fail_after = COUNT

    def _info(self):
      features = tfds.features.FeaturesDict(
        {
          "frames": tfds.features.Sequence(
            tfds.features.Image(shape=(SIZE, SIZE, 3), encoding_format="png"), length=FRAMES
          ),
          "flow": tfds.features.Tensor(shape=(FRAMES, SIZE, SIZE, 2), dtype=np.int16, encoding="zlib"),
          "action_units": tfds.features.Tensor(shape=(5,), dtype=np.float32),
          "label": tfds.features.ClassLabel(names=["calm", "cross"]),
          "subject": tfds.features.Text(),
          "key": tfds.features.Text(),
        }
      )
      return tfds.core.DatasetInfo(builder=self, features=features, description="toy", homepage="none")

    def _split_generators(self, dl_manager):
      return {"train": self._generate_examples()}

    def _generate_examples(self):
      for i in reversed(range(COUNT)):
        if COUNT - i > Toy.fail_after:
          raise KeyboardInterrupt
        example = _example(i)
        example["frames"] = [png(frame) for frame in example["frames"]]
        yield example["key"], example

  module.Config, module.Builder = Config, Toy
  return module


@pytest.fixture(scope="module")
def toy_module():
  return _toy_module()


@pytest.fixture
def toy(toy_module, monkeypatch):
  monkeypatch.setitem(sys.modules, "toy_dataset_builder", toy_module)
  monkeypatch.setitem(datasets.DATASETS, "toy", Dataset("toy_dataset_builder", "toy", "free", generated=True))
  return toy_module.Builder


def test_round_trip_is_exact_and_sorted(toy, tmp_path, capfd, caplog):
  loaded = records.load("toy", tmp_path)
  assert loaded.keys == tuple(f"k{i}" for i in range(COUNT))
  assert loaded.label_names == ("calm", "cross")
  assert loaded.subject_names == ("S0", "S1", "S2")
  for i in range(COUNT):
    expected = _example(i)
    for name in ("frames", "flow", "action_units", "label"):
      np.testing.assert_array_equal(loaded.arrays[name][i], expected[name])
    assert loaded.subject_names[loaded.arrays["subject"][i]] == expected["subject"]
  assert {name: array.dtype.name for name, array in loaded.arrays.items()} == {
    "action_units": "float32",
    "flow": "int16",
    "frames": "uint8",
    "label": "int32",
    "subject": "int32",
  }
  captured = capfd.readouterr()
  assert captured.out + captured.err == ""  # Neither TFDS's prints nor its bars,
  assert not caplog.records  # nor its warnings.
  assert records.load("toy", tmp_path).fingerprint == loaded.fingerprint


def test_fingerprint_sees_one_byte():
  arrays = {"image": np.zeros((2, 4, 4, 3), np.uint8), "label": np.array([0, 1])}

  def fingerprint(**changes):
    arguments = {"arrays": arrays, "keys": ["b", "a"], "label_names": ["x", "y"], "subjects": ["p", "q"]}
    return records.Records.from_arrays(**(arguments | changes)).fingerprint

  altered = {"image": arrays["image"].copy(), "label": arrays["label"]}
  altered["image"][1, 3, 3, 2] = 1
  original = fingerprint()
  assert original == fingerprint()
  for changes in (
    {"arrays": altered},
    {"keys": ["b", "aa"]},
    {"label_names": ["x", "z"]},
    {"subjects": ["p", "r"]},
    {"texts": {"split": ["", "test"]}},
  ):
    assert fingerprint(**changes) != original
  texts = [{"a": ["x", "y"]}, {"a": ["xy", ""]}, {"b": ["x", "y"]}, {"a": ["", ""]}]
  assert len({fingerprint(texts=each) for each in texts}) == 4


def test_rows_follow_their_keys():
  made = records.Records.from_arrays(
    {"label": np.array([0, 1, 0]), "image": np.array([7, 8, 9])},
    ["c", "a", "b"],
    ["x", "y"],
    ["p", "q", "p"],
    {"split": ["train", "test", ""]},
  )
  assert made.texts == {"split": ("test", "", "train")}
  assert made.keys == ("a", "b", "c")
  assert made.arrays["image"].tolist() == [8, 9, 7]
  assert made.arrays["label"].tolist() == [1, 0, 0]
  assert made.subjects.tolist() == ["q", "p", "p"]
  assert len(made) == 3


@pytest.mark.parametrize(
  ("labels", "keys", "message"),
  [
    ([0, 1], ["a", "a"], "key 'a' occurs twice"),
    ([0, 2], ["a", "b"], "labels 0..2"),
    ([0], ["a", "b"], "equal, non-zero lengths"),
    ([], [], "equal, non-zero lengths"),
  ],
)
def test_bad_arrays_are_refused(labels, keys, message):
  with pytest.raises(UserError, match=message):
    records.Records.from_arrays({"label": np.array(labels, int)}, keys, ["x", "y"], ["p"] * len(keys))


def test_options_choose_the_copy(toy):
  base = records.make_config("toy", {})
  assert base.name == records.make_config("toy", {"num_frames": FRAMES, "strength": 1}).name
  assert base.name == records.make_config("toy", {"source": "elsewhere"}).name
  assert base.name != records.make_config("toy", {"strength": 1.5}).name
  with pytest.raises(UserError, match="did you mean 'num_frames'"):
    records.make_config("toy", {"num_frame": 3})
  with pytest.raises(UserError, match=r"toy\.num_frames='3': not a whole number"):
    records.make_config("toy", {"num_frames": "3"})
  with pytest.raises(UserError, match="did you mean 'toy'"):
    records.load("toi", "nowhere")


def test_options_of_a_common_base_count(toy_module):
  """Options of TFDS do not count."""

  @dataclasses.dataclass
  class Own(toy_module.Config):
    own: str = ""

  assert list(records.option_fields(Own)) == ["num_frames", "strength", "source", "own"]
  assert list(records.option_fields(toy_module.Config)) == ["num_frames", "strength", "source"]


def test_interrupted_generation_leaves_nothing(toy, tmp_path, monkeypatch):
  monkeypatch.setattr(toy, "fail_after", 4)
  with pytest.raises(KeyboardInterrupt):
    records.load("toy", tmp_path)
  assert list(tmp_path.iterdir()) == []
  monkeypatch.undo()


def test_interrupted_replacement_keeps_the_old_copy(toy, tmp_path, monkeypatch):
  before = records.load("toy", tmp_path)
  config = records.make_config("toy", {})
  with monkeypatch.context() as patch:
    patch.setattr(toy, "fail_after", 4)
    with pytest.raises(KeyboardInterrupt):
      records.generate("toy", config, tmp_path, replace=True)
  assert [path.name for path in tmp_path.iterdir()] == ["toy"]
  assert records.load("toy", tmp_path).fingerprint == before.fingerprint
  folder = records.generate("toy", config, tmp_path, replace=True)
  assert folder.is_dir()
  assert [path.name for path in tmp_path.iterdir()] == ["toy"]


def test_unwritable_folder_is_named(toy, tmp_path):
  (tmp_path / "file").write_text("")
  with pytest.raises(UserError, match=r"data folder .*file/data cannot be written \(Not a directory\)"):
    records.load("toy", tmp_path / "file" / "data")


def test_unprepared_set_names_the_command(toy, tmp_path, monkeypatch):
  entry = Dataset("toy_dataset_builder", "toy", "free", generated=False)
  monkeypatch.setitem(datasets.DATASETS, "toy", entry)
  with pytest.raises(UserError, match=f"run `jaxfer prepare toy --source .* {tmp_path} num_frames=4`"):
    records.load("toy", tmp_path, num_frames=4)


def test_damaged_files_are_named(toy, tmp_path):
  folder = records.generate("toy", records.make_config("toy", {}), tmp_path)
  (shard,) = folder.glob("*.array_record*")
  shard.write_bytes(shard.read_bytes()[:-100])
  with pytest.raises(UserError, match=f"{folder} are damaged .*prepare again"):
    records.load("toy", tmp_path)


def test_default_data_dir(monkeypatch):
  monkeypatch.setenv("JAXFER_DATA_DIR", "~/faces")
  assert records.default_data_dir().name == "faces"
  assert records.default_data_dir().is_absolute()
  monkeypatch.delenv("JAXFER_DATA_DIR")
  assert records.default_data_dir().name == "jaxfer_data"


def test_no_tensorflow_and_no_tfds_at_import():
  code = (
    "import sys; import jaxfer.data.records as r; assert 'tensorflow_datasets' not in sys.modules; "
    "r.make_config('ckplus', {}); assert 'tensorflow_datasets' in sys.modules; "
    "assert 'tensorflow' not in sys.modules and 'jax' not in sys.modules"
  )
  subprocess.run([sys.executable, "-c", code], check=True)
