"""Mixtures: parts put together by class name, counted, told apart by prefix."""

import numpy as np
import pytest

from jaxfer import cli
from jaxfer.data import mixed, records
from jaxfer.data.datasets import DATASETS
from jaxfer.data.prepare import prepare
from jaxfer.errors import UserError

MIXTURES = [name for name, entry in DATASETS.items() if entry.parts]


def part(names, labels, size=4, first=0):
  """Pictures filled with their number, of two people in turn."""
  n = len(labels)
  image = np.broadcast_to(
    np.arange(first, first + n, dtype=np.uint8)[:, None, None, None], (n, size, size, 1)
  )
  keys, subjects = [f"k{i}" for i in range(n)], [f"S{i % 2}" for i in range(n)]
  return records.Records.from_arrays({"image": image, "label": np.asarray(labels)}, keys, names, subjects)


MIXTURE = mixed.Mixture(
  ("happiness", "anger"),
  (
    mixed.Part("one", "a", {}, expected={"happiness": 2, "anger": 1}),
    mixed.Part("two", "b", {}, {"glad": "happiness", "cross": "anger"}, {"happiness": 3}),
  ),
  "Table 1",
)


def test_parts_are_mapped_by_class_name_and_counted():
  one = part(["anger", "happiness", "contempt"], [0, 1, 2, 1, 2])
  two = part(["cross", "glad", "neutral"], [1, 2, 1, 0], first=100)
  made = mixed.compose(MIXTURE, [one, two])
  assert made.keys == ("a/k0", "a/k1", "a/k3", "b/k0", "b/k2", "b/k3")
  assert made.subjects.tolist() == ["a/S0", "a/S1", "a/S1", "b/S0", "b/S0", "b/S1"]
  assert [made.label_names[label] for label in made.arrays["label"]] == [
    "anger", "happiness", "happiness", "happiness", "happiness", "anger",
  ]  # fmt: skip
  assert made.arrays["image"][:, 0, 0, 0].tolist() == [0, 1, 3, 100, 102, 103]
  assert made.notes == (
    "one: 3 records, as expected: happiness 2, anger 1",
    "one: 2 records dropped: contempt 2",
    "two: 3 records, expected 3: happiness 2 (expected 3), anger 1 (expected 0)",
    "two: 1 records dropped: neutral 1",
    "6 records, expected 6 (Table 1)",
  )


def test_pictures_of_different_shapes_are_refused():
  with pytest.raises(UserError, match=r"cannot be mixed: .'one': \(4, 4, 1\), 'two': \(8, 8, 1\)"):
    mixed.compose(MIXTURE, [part(["anger"], [0]), part(["cross"], [0], size=8)])


@pytest.mark.parametrize("name", MIXTURES)
def test_every_part_takes_the_options_that_its_mixture_gives(name):
  for options in ({}, {"image_size": 32, "channels": 1}, *({"use": "recognition"},) * (name == "paper003")):
    config = records.make_config(name, options)
    module = __import__(DATASETS[name].module, fromlist=["mixture"])
    mixture = module.mixture(config)
    assert {p.name for p in mixture.parts} <= set(DATASETS[name].parts)
    for p in mixture.parts:
      made = records.make_config(p.name, p.options)
      assert (made.image_size, made.channels) == (config.image_size, config.channels)
      assert set((p.labels or {}).values()) <= set(mixture.label_names)


def test_paper_000_has_its_table_1(monkeypatch, tmp_path):
  asked = {}

  def load(name, data_dir, **options):
    asked[name] = options
    rows = {"jaffe": 6, "ckplus_stills": 7, "msfde": 5, "kdef": 7}[name]
    return part(
      ["anger", "disgust", "fear", "happiness", "neutral", "sadness", "surprise"][:rows], range(rows)
    )

  whole = records.load
  monkeypatch.setattr(records, "load", load)
  made = whole("paper000", tmp_path, jaffe_labels="posed")
  assert made.label_names == ("happiness", "sadness", "surprise", "anger", "disgust", "fear", "neutral")
  assert asked["jaffe"] == {"image_size": 64, "channels": 1, "crop": "middle", "label_source": "filename"}
  assert asked["ckplus_stills"]["frames"] == "last:1"
  assert made.notes[-1] == "23 records, expected 1611 (paper 000, Table 1)"
  assert "msfde: 1 records dropped: neutral 1" in made.notes  # The paper has five emotions of it.
  assert any("jaffe: 6 records, expected 213" in note for note in made.notes)


def test_a_part_that_is_not_prepared_names_its_command(tmp_path):
  with pytest.raises(
    UserError, match=r"'jaffe' is not prepared .*`jaxfer prepare jaffe .*label_source=ratings"
  ):
    records.load("paper000", tmp_path)
  with pytest.raises(UserError, match=r"unknown option jaffe_labels.*'rate': did you mean 'rated'"):
    records.load("paper000", tmp_path, jaffe_labels="rate")


def test_a_mixture_is_listed_and_not_prepared(tmp_path, capsys):
  cli.main(["list", "datasets"])
  listed = capsys.readouterr().out
  assert all(name in listed for name in MIXTURES)
  with pytest.raises(UserError, match=r"'paper003' is composed of others: `jaxfer prepare paper003` or"):
    prepare("paper003", tmp_path, tmp_path)
