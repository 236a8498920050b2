"""Tests mixtures: parts are combined by class names, counted, and distinguished by prefixes."""

import collections
import dataclasses

import numpy as np
import pytest

from jaxfer import cli
from jaxfer.data import mixed, records
from jaxfer.data.datasets import DATASETS
from jaxfer.data.prepare import prepare
from jaxfer.errors import UserError

MIXTURES = [name for name, entry in DATASETS.items() if entry.parts]


def part(names, labels, size=4, first=0):
  """Records of two people in turn, with pictures filled with their numbers."""
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


def test_a_draw_reduces_each_class_to_its_expected_number():
  one = part(["anger", "happiness"], [0] * 5 + [1] * 2 + [0] * 4)
  two = part(["cross", "glad"], [1, 1, 0, 1, 1, 1], first=100)
  drawn = {seed: mixed.compose(dataclasses.replace(MIXTURE, draw_seed=seed), [one, two]) for seed in range(4)}
  every = mixed.compose(MIXTURE, [one, two])
  for seed, made in drawn.items():
    names = [
      f"{key[0]} {made.label_names[label]}"
      for key, label in zip(made.keys, made.arrays["label"], strict=True)
    ]
    assert names == sorted(names, key=lambda name: name[0])
    assert collections.Counter(names) == {"a anger": 1, "a happiness": 2, "b happiness": 3}
    # Every record keeps its own picture, label and subject.
    at = [every.keys.index(key) for key in made.keys]
    assert at == sorted(at)
    np.testing.assert_array_equal(made.arrays["image"], every.arrays["image"][at])
    np.testing.assert_array_equal(made.arrays["label"], every.arrays["label"][at])
    assert made.subjects.tolist() == every.subjects[at].tolist()
    assert made.notes == (
      "one: 3 records, as expected: happiness 2, anger 1",
      f"one: 8 records left out by a draw (seed {seed})",
      "two: 3 records, as expected: happiness 3, anger 0",
      f"two: 3 records left out by a draw (seed {seed})",
      "6 records, expected 6 (Table 1)",
    )
  assert len({made.keys for made in drawn.values()}) > 1
  assert mixed.compose(dataclasses.replace(MIXTURE, draw_seed=2), [one, two]).keys == drawn[2].keys
  few = mixed.compose(dataclasses.replace(MIXTURE, draw_seed=0), [one, part(["glad"], [0])])
  assert few.notes[2] == "two: 1 records, expected 3: happiness 1 (expected 3), anger 0"


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
  assert "msfde: 1 records dropped: neutral 1" in made.notes  # The paper uses five emotions of this data set.
  assert any("jaffe: 6 records, expected 213" in note for note in made.notes)


def test_paper_000_is_drawn_to_its_table_1_and_asks_for_its_threshold_of_neutral_pictures(
  monkeypatch, tmp_path
):
  """The copies are complete, with as many pictures as the distributors count."""
  names = ["anger", "disgust", "fear", "happiness", "neutral", "sadness", "surprise"]
  copies = {"jaffe": [26, 39, 8, 40, 25, 34, 41], "ckplus_stills": [45, 59, 25, 69, 0, 28, 83]}
  copies |= {"msfde": [32, 32, 32, 32, 32, 32, 0], "kdef": [140] * 7}
  asked = {}

  def load(name, data_dir, **options):
    asked[name] = options
    return part(names, np.repeat(np.arange(7), copies[name]), size=1)

  whole = records.load
  monkeypatch.setattr(records, "load", load)
  every = whole("paper000", tmp_path, neutral_below=2.5)
  assert {name: options.get("neutral_below") for name, options in asked.items()} == {
    "jaffe": 2.5, "ckplus_stills": None, "msfde": None, "kdef": None,
  }  # fmt: skip
  assert len(every) == 213 + 309 + 160 + 980
  drawn = whole("paper000", tmp_path, counts="table1", counts_seed=3)
  assert drawn.notes[-1] == "1611 records, expected 1611 (paper 000, Table 1)"
  assert np.bincount(drawn.arrays["label"]).tolist() == [278, 224, 258, 236, 261, 200, 154]
  assert "kdef: 46 records left out by a draw (seed 3)" in drawn.notes
  with pytest.raises(UserError, match=r"option counts of data set 'paper000' 'table': did you mean 'table1'"):
    whole("paper000", tmp_path, counts="table")


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
