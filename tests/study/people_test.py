"""Tests the people's test of a study on random images, from the command line to the scores."""

import csv
import pathlib

import numpy as np
import pytest

from jaxfer import cli
from jaxfer.config import Call, Row, RunConfig, Split, StudyConfig
from jaxfer.data.records import Records
from jaxfer.errors import UserError
from jaxfer.study import people, trainings
from jaxfer.study.split import split_of
from jaxfer.systems.stacked_autoencoder import published, table

NAMES = ("happiness", "sadness", "surprise", "anger", "disgust", "fear", "neutral")  # Not the printed order.
BASE = RunConfig(
  recipe=Call("two_stream_conv_rnn"),
  model=Call("two_stream_conv_rnn"),
  data=Call("synthetic_faces"),  # By name alone: `records` below are what is read.
  split=Split(kind="per_class", per_class=2),
)
STUDY = StudyConfig(
  title="t", source="nowhere", base=BASE, rows=(Row("only", {}, 0.5),), presets={"small": {}}
)


def records(frozen="image"):
  rng = np.random.default_rng(0)
  label = np.arange(35) % 7
  image = rng.integers(0, 256, (35, 16, 16, 1)).astype(np.uint8)
  return Records.from_arrays(
    {frozen: image, "label": label}, [f"r{k:02}" for k in range(35)], NAMES, [f"P{k // 7}" for k in range(35)]
  )


@pytest.fixture(autouse=True)
def _data(monkeypatch):
  monkeypatch.setattr(trainings, "load_data", lambda config, data_dir: records())


def test_the_test_holds_what_the_study_tests_in_no_order_and_learns_nothing_of_it(tmp_path):
  assert people.write_test(STUDY, None, (), tmp_path, pathlib.Path("nowhere")) == 14
  data = records()
  split = split_of(BASE, data)
  with (tmp_path / "key.csv").open() as file:
    key = list(csv.DictReader(file))
  rows = [data.keys.index(line["record"]) for line in key]
  assert sorted(rows) == np.flatnonzero(split.test).tolist()
  assert [line["label"] for line in key] == [NAMES[data.arrays["label"][row]] for row in rows]
  assert rows != sorted(rows)
  again = tmp_path / "again"
  people.write_test(STUDY, None, (), again, pathlib.Path("nowhere"))
  assert (again / "sheet.html").read_bytes() == (tmp_path / "sheet.html").read_bytes()


def test_examples_come_from_what_is_trained_on(tmp_path, monkeypatch):
  shown = {}
  monkeypatch.setattr(people.people, "write", lambda folder, examples, *rest: shown.update(examples))
  people.write_test(STUDY, None, (), tmp_path, pathlib.Path("nowhere"))
  data = records()
  split = split_of(BASE, data)
  assert tuple(shown) == NAMES
  for label, picture in enumerate(shown.values()):
    (row,) = np.flatnonzero((data.arrays["image"] == picture).all((1, 2, 3)))
    assert split.train[row]
    assert data.arrays["label"][row] == label


def test_what_has_no_such_pictures_is_refused(tmp_path, monkeypatch):
  with pytest.raises(UserError, match=r"split.kind=people: .* take split.kind=per_class"):
    people.write_test(STUDY, None, ("split.kind=people",), tmp_path, pathlib.Path("nowhere"))
  monkeypatch.setattr(trainings, "load_data", lambda config, data_dir: records("frames"))
  with pytest.raises(UserError, match="has no still images"):
    people.write_test(STUDY, None, (), tmp_path, pathlib.Path("nowhere"))


def answers(folder, name, wrong=0):
  """Writes the key as answers, with another word in the first `wrong` of them."""
  with (folder / "key.csv").open() as file:
    key = [(line["number"], line["label"]) for line in csv.DictReader(file)]
  other = {"fear": "sad"}
  lines = [
    f"{number},{other.get(label, 'fear') if k < wrong else label}" for k, (number, label) in enumerate(key)
  ]
  path = folder / name
  path.write_text("number,answer\n" + "\n".join(lines) + "\n")
  return path


def test_scores_are_shown_beside_the_papers_in_its_order(tmp_path):
  people.write_test(STUDY, None, (), tmp_path, pathlib.Path("nowhere"))
  text = people.scored(tmp_path, [answers(tmp_path, "ann.csv"), answers(tmp_path, "bob.csv", wrong=7)])
  lines = text.splitlines()
  assert lines[0].split() == ["accuracy", "%", *published.CLASSES]
  assert lines[2].split() == ["ann", "100.0", *["2.0"] * 7] or lines[2].split() == [
    "ann",
    "100.0",
    *["2"] * 7,
  ]
  assert lines[3].split()[:2] == ["bob", "50.0"]
  assert lines[4].split()[:5] == ["mean", "of", "2", "people", "75.0"]
  assert lines[5].split()[-8:] == ["65.0", "5.1", "4.2", "2.3", "9.2", "9.3", "5.9", "9.5"]
  assert lines[6].split()[-8:-6] == ["68.3", "6.7"]
  assert "Number of correct answers per class, of 2 images" in text


def test_the_command_writes_and_scores(tmp_path, monkeypatch, capsys):
  monkeypatch.setattr("jaxfer.config.load_study", lambda path: STUDY)
  folder = tmp_path / "people"
  assert cli.main(["study", "any.py", "--people", str(folder)]) == 0
  assert "for its 14 pictures" in capsys.readouterr().out
  path = answers(folder, "ann.csv", wrong=14)
  assert cli.main(["study", "any.py", "--people", str(folder), "--score", str(path)]) == 0
  assert "ann" in capsys.readouterr().out
  assert cli.main(["study", "--score", str(path)]) == 2
  assert "--score needs --people DIR" in capsys.readouterr().err
  assert cli.main(["study", "--people", str(folder)]) == 2
  assert "a people's test needs CONFIG" in capsys.readouterr().err
  assert cli.main(["study", "any.py", "--people", str(folder)]) == 2
  assert "holds a test for people (key.csv)" in capsys.readouterr().err


def test_people_are_drawn_beside_nets_by_name_of_the_class(tmp_path, monkeypatch):
  groups = {}
  monkeypatch.setattr(
    table.rates, "rates_png", lambda rates, names, path, title: groups.update(rates, names=names)
  )
  by_class = {"correct": [[1, 2, 3, 4, 5, 6, 0], [0] * 7], "count": [[10] * 6 + [0]] * 2}
  row = {"name": "first", "comparable": True, "by_class": by_class, "label_names": NAMES}
  assert list(table.figures([row], tmp_path)) == ["people.png"]
  assert groups.pop("names") == published.CLASSES
  assert [len(rates) for rates in groups.values()] == [10, 6, 2]
  ours = dict(zip(published.CLASSES, groups["model, ours, 2 seeds"][0], strict=True))
  assert ours["happiness"] == 0.1
  assert ours["fear"] == 0.6
  assert np.isnan(ours["neutral"])
  assert not table.figures([{**row, "label_names": ["a"] * 7}], tmp_path)
  assert not table.figures([{**row, "comparable": False}], tmp_path)


def test_on_other_data_ours_stand_without_the_papers_table():
  by_class = {"correct": [[1, 2, 3, 4, 5, 6, 7]], "count": [[10] * 7]}
  row = {"name": "first", "by_class": by_class, "label_names": NAMES}
  names = {}
  for comparable in (True, False):
    (title, (_, lines)), _, *printed = table.tables([{**row, "comparable": comparable}], (0,))
    assert bool(printed) == comparable
    names[comparable] = [line[0] for line in lines]
    assert ("published" in title) == comparable
  assert names[False] == ["ours, seed 0", "ours, mean"]
  assert names[True] == [
    *(f"published, seed {n}" for n in published.NET),
    "published, mean",
    *names[False],
  ]
