"""Tests a run's folder: its origin is compared, damage is reported in one line, and every file can be read."""

import csv
import dataclasses
import html.parser
import io
import json
import pathlib
import re
import shutil

import numpy as np
import pytest

from jaxfer import config
from jaxfer.data.records import Records
from jaxfer.errors import UserError
from jaxfer.study import run, trainings
from tests import study_toy as toy
from tests.files_test import HOSTILE

CONFIG = dataclasses.replace(toy.STUDY.base, split=config.Split(folds=0, test=0.3))
NOWHERE = pathlib.Path("nowhere")


def train(workdir, configured=CONFIG, resume=False):
  lines = []
  run.train(configured, workdir, NOWHERE, resume=resume, log=lines.append)
  return "\n".join(lines)


def evaluate(workdir):
  lines = []
  run.evaluate(workdir, NOWHERE, log=lines.append)
  return "\n".join(lines)


def contents(folder):
  return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module", autouse=True)
def installed():
  with pytest.MonkeyPatch.context() as patch:
    toy.install(patch)
    yield


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
  workdir = tmp_path_factory.mktemp("run") / "w"
  train(workdir)
  return workdir


@pytest.fixture
def copy(trained, tmp_path):
  shutil.copytree(trained, tmp_path / "w")
  return tmp_path / "w"


def relabelled():
  data = toy.records()
  return Records.from_arrays(data.arrays, data.keys, ["x", "y", "z"], data.subjects)


def fewer():
  data = toy.records()
  arrays = {name: array[3:] for name, array in data.arrays.items()}
  return Records.from_arrays(arrays, data.keys[3:], data.label_names, data.subjects[3:])


@pytest.mark.parametrize(
  ("other", "now"),
  [
    (lambda: toy.records(seed=1), "now 21 records of 3 classes"),
    (relabelled, "classes x, y, z"),
    (fewer, "now 18 records of 3 classes"),
  ],
)
@pytest.mark.parametrize("again", [evaluate, lambda workdir: train(workdir, resume=True)])
def test_other_data_are_refused_before_anything_is_written(copy, monkeypatch, again, other, now):
  before = contents(copy)
  with monkeypatch.context() as patch:
    patch.setattr(trainings, "load_data", lambda config, data_dir: other())
    with pytest.raises(UserError) as error:
      again(copy)
  message = str(error.value)
  for said in (now, "then 21 records of 3 classes", toy.records().fingerprint[:12], other().fingerprint[:12]):
    assert said in message
  # jaxfer draws these data, so only another version of jaxfer gives different ones.
  assert "this jaxfer generates another version of these data; train again in another --workdir" in message
  assert contents(copy) == before
  again(copy)
  meta = json.loads((copy / "weights/weights.json").read_text())
  assert (meta["data"], meta["label_names"]) == (toy.records().fingerprint, ["a", "b", "c"])


def test_of_imported_data_the_advice_is_to_prepare_them_again(copy, monkeypatch):
  for name in ("config.json", "data.json"):
    path = copy / name
    path.write_text(path.read_text().replace("synthetic_sequences", "ckplus"))
  monkeypatch.setattr(trainings, "load_data", lambda config, data_dir: relabelled())
  with pytest.raises(UserError, match="give the --data-dir that holds the earlier data, prepare them again"):
    evaluate(copy)


def test_a_record_of_data_whose_classes_are_no_list_is_refused(copy):
  path = copy / "data.json"
  tree = json.loads(path.read_text())
  tree["sets"][0] |= {"fingerprint": "", "label_names": 3}
  path.write_text(json.dumps(tree))
  with pytest.raises(UserError, match=r"data\.json .*: put it back from a copy, or train again in another"):
    evaluate(copy)


@pytest.mark.parametrize("damage", [None, "", '{"sets": [{}]}', '{"sets": []}', "[]", '{"sets": 3}'])
def test_a_run_without_a_record_of_its_data_is_refused(copy, damage):
  (copy / "data.json").unlink()
  if damage is not None:
    (copy / "data.json").write_text(damage)
  for again in (evaluate, lambda workdir: train(workdir, resume=True)):
    with pytest.raises(UserError, match=r"data\.json .*: put it back from a copy, or train again in another"):
      again(copy)


def cut(text):
  return text[: len(text) // 2]


def without(key):
  def change(text):
    tree = json.loads(text)
    del tree[key]
    return json.dumps(tree)

  return change


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (cut, "is damaged"),
    (lambda text: "", "is damaged .empty"),
    (lambda text: "[]", "is damaged"),
    (lambda text: '{"editor": "vi"}', "lacks 'recipe'"),
    (without("seed"), "lacks 'seed'"),
    (lambda text: text.replace('"keep"', '"kept"'), "execution lacks 'keep'"),
    (lambda text: text.replace('"split": {', '"split": 3, "old": {'), "unknown 'old'"),
    (lambda text: text.replace('"options": {}', '"options": {"rate of old": 1}', 1), "unknown option"),
  ],
)
def test_a_configuration_that_is_not_ours_is_one_line(copy, change, message):
  path = copy / "config.json"
  text = path.read_text()
  path.write_text(change(text))
  assert path.read_text() != text
  before = contents(copy)
  for again in (evaluate, lambda workdir: train(workdir, resume=True)):
    with pytest.raises(UserError, match=message) as error:
      again(copy)
    assert str(error.value).startswith(f"{path} ")
    assert "train again in another --workdir" in str(error.value)
    assert "\n" not in str(error.value)
  assert contents(copy) == before


def test_a_config_json_of_another_program_is_left_alone(tmp_path):
  (tmp_path / "config.json").write_text('{"editor": "vi"}')
  with pytest.raises(UserError, match="was written by another program"):
    train(tmp_path)
  assert (tmp_path / "config.json").read_text() == '{"editor": "vi"}'


DAMAGE = {
  "missing": (None, r"is missing: it holds 0 of 2 epochs"),
  "empty": (lambda data: b"", r"has lost rows: it holds 0 of 2 epochs"),
  "cut": (lambda data: data[:-20], r"has a damaged line \(the first is line 2\): it holds 1 of 2 epochs"),
  "NUL bytes": (lambda data: bytes(len(data)), r"has a damaged line .*: it holds 0 of 2 epochs"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_lost_metrics_are_reported_and_never_filled(copy, damage):
  change, message = DAMAGE[damage]
  path = copy / "metrics.jsonl"
  data = path.read_bytes()
  path.unlink()
  if change is not None:
    path.write_bytes(change(data))
  accuracy = json.loads((copy / "evaluation.json").read_text())["accuracy"]
  assert re.search(message, evaluate(copy))
  assert json.loads((copy / "evaluation.json").read_text())["accuracy"] == accuracy
  train(copy, resume=True)
  if damage != "NUL bytes":
    assert b"\0" not in path.read_bytes()


def test_a_resumed_training_says_that_metrics_are_lost(copy, capsys):
  (copy / "metrics.jsonl").unlink()
  train(copy, resume=True)
  assert "metrics.jsonl has lost" in " ".join(capsys.readouterr().out.split())


def test_a_training_whose_checkpoints_are_gone_says_that_it_begins_again(copy, capsys):
  shutil.rmtree(copy / "checkpoints")
  before = (copy / "metrics.jsonl").read_bytes()
  train(copy, resume=True)
  assert "holds no checkpoint: the training starts from the beginning" in " ".join(
    capsys.readouterr().out.split()
  )
  assert (copy / "metrics.jsonl").read_bytes() == before


def test_files_of_the_operating_system_do_no_harm(copy):
  for folder in [copy, *(path for path in copy.rglob("*") if path.is_dir())]:
    for name in (".DS_Store", "._config.json", "Thumbs.db", "config.json~"):
      (folder / name).write_bytes(b"\0\1")
    (folder / "lost+found").mkdir()
  before = json.loads((copy / "evaluation.json").read_text())
  evaluate(copy)
  train(copy, resume=True)
  assert json.loads((copy / "evaluation.json").read_text()) == before


def test_a_fold_is_no_run_of_its_own(tmp_path):
  folds = dataclasses.replace(CONFIG, split=config.Split(folds=2))
  train(tmp_path / "w", folds)
  with pytest.raises(UserError, match=f"group0 is a part of a run, {tmp_path}/w: give the folder of a run"):
    evaluate(tmp_path / "w/group0")
  with pytest.raises(UserError, match="group0 is a part of a run"):
    train(tmp_path / "w/group0")


def test_a_run_and_a_study_do_not_share_a_folder(tmp_path, trained):
  toy.run_study(tmp_path, "seeds=1", "recipe.epochs=1", log=lambda line: None)
  before = contents(tmp_path)
  for folder, message in ((tmp_path, "holds a study"), (tmp_path / "rows/narrow", "is a part of a study")):
    for again in (train, evaluate):
      with pytest.raises(UserError, match=message):
        again(folder)
  assert contents(tmp_path) == before
  for folder, message in ((trained, "holds a run"), (trained / "weights", "is a part of a run")):
    with pytest.raises(UserError, match=message):
      toy.run_study(folder)


def hostile(first=0):
  """Like `study_toy.records`, with any names that a folder can have; the names of the classes start at `first`."""
  data = toy.records()
  keys = [f"{key}/{HOSTILE[k % len(HOSTILE)]}" for k, key in enumerate(data.keys)]
  subjects = [f"{HOSTILE[int(subject[1:])]}" for subject in data.subjects]
  return Records.from_arrays(data.arrays, keys, (HOSTILE * 2)[first : first + 3], subjects)


class Text(html.parser.HTMLParser):
  """The text that a browser shows."""

  def __init__(self):
    super().__init__()
    self.shown, self.tags = "", set()

  def handle_data(self, data):
    self.shown += data

  def handle_starttag(self, tag, attrs):
    self.tags.add(tag)


def assert_all_read(folder):
  """Reads every file of a folder with strict parsers."""
  kinds = set()
  for path in sorted(folder.rglob("*")):
    if path.is_dir() or "checkpoints" in path.parts:
      continue
    kinds.add(path.suffix)
    if path.suffix == ".json":
      json.loads(path.read_text(encoding="utf-8"), parse_constant=pytest.fail)
    elif path.suffix == ".jsonl":
      text = path.read_text(encoding="utf-8")
      assert text.endswith("\n")
      assert all(isinstance(json.loads(row, parse_constant=pytest.fail), dict) for row in text.splitlines())
    elif path.suffix == ".csv":
      rows = list(csv.reader(io.StringIO(path.read_bytes().decode(), newline=""), strict=True))
      assert {len(row) for row in rows} == {len(rows[0])}
    elif path.suffix == ".html":
      page = Text()
      page.feed(path.read_text(encoding="utf-8"))
      page.close()
      assert not page.tags & {"b", "script"}
    elif path.suffix == ".png":
      assert path.read_bytes()[:4] == b"\x89PNG"
    elif path.suffix == ".npz":
      with np.load(path, allow_pickle=False) as arrays:
        assert len(arrays.files)
    else:
      assert path.suffix in (".txt", ".md"), path
  return kinds


def test_after_a_refusal_another_configuration_takes_its_place(tmp_path, monkeypatch):
  def refuse(config, data):
    raise UserError("model.num_classes=9: data set 'toy' has 3 classes")

  other = dataclasses.replace(CONFIG, seed=5)
  with monkeypatch.context() as patched:
    patched.setattr(trainings, "prepare", refuse)
    with pytest.raises(UserError, match="num_classes=9"):
      train(tmp_path / "w", other)
  train(tmp_path / "w", CONFIG)
  with pytest.raises(UserError, match=r"was begun with another configuration .seed differ"):
    train(tmp_path / "w", other, resume=True)


@pytest.mark.parametrize("first", range(0, len(HOSTILE), 3))
def test_names_that_need_quoting_leave_files_that_other_programs_read(tmp_path, monkeypatch, first):
  data = hostile(first)
  monkeypatch.setattr(trainings, "load_data", lambda config, data_dir: data)
  train(tmp_path / "w", dataclasses.replace(CONFIG, recipe=config.Call("toy", epochs=1)))
  assert assert_all_read(tmp_path / "w") == {
    ".json",
    ".jsonl",
    ".csv",
    ".html",
    ".png",
    ".npz",
    ".txt",
    ".md",
  }
  rows = csv.reader(
    io.StringIO((tmp_path / "w/predictions.csv").read_bytes().decode(), newline=""), strict=True
  )
  header, *rows = rows
  probabilities = [f"probability of {name}" for name in data.label_names]
  assert header == ["key", "subject", "label", "predicted", "fold", *probabilities]
  labels = dict(zip(data.keys, (data.label_names[label] for label in data.arrays["label"]), strict=True))
  assert rows
  assert all(labels[key] == label and predicted in data.label_names for key, _, label, predicted, *_ in rows)
  # A row of a table is one line, whatever its class is called.
  lines = (tmp_path / "w/confusion.txt").read_text(encoding="utf-8").splitlines()
  assert len(lines) == 2 + len(data.label_names)
  page = Text()
  page.feed((tmp_path / "w/report.html").read_text(encoding="utf-8"))
  assert all(" ".join(name.split()) in " ".join(page.shown.split()) for name in data.label_names)


def test_a_studys_files_can_be_read_by_other_programs(tmp_path, monkeypatch):
  data = hostile()
  monkeypatch.setattr(trainings, "load_data", lambda config, data_dir: data)
  rows = tuple(config.Row(f"{k} {name}") for k, name in enumerate(["a|b", "a\\|b", '<b>, "x"']))
  described = dataclasses.replace(toy.STUDY, rows=rows, compared=(), seeds=1)
  toy.run_study(tmp_path, "recipe.epochs=1", config=described, log=lambda line: None)
  assert {".json", ".jsonl", ".html", ".png", ".md"} <= assert_all_read(tmp_path)
  table = [
    line for line in (tmp_path / "table.md").read_text(encoding="utf-8").splitlines() if line.startswith("|")
  ]
  # A bar ends a cell unless an odd number of backslashes stands before it.
  cells = {len(re.findall(r"(?<!\\)(?:\\\\)*\|", line)) for line in table}
  assert cells == {9}


def test_two_rows_do_not_share_a_folder(tmp_path):
  for rows in (("CK+", "CK-"), ("怒り", "narrow")):
    described = dataclasses.replace(toy.STUDY, rows=tuple(map(config.Row, rows)), compared=())
    with pytest.raises(UserError, match=r"would share the folder .* with another"):
      toy.run_study(tmp_path, config=described, resume=True)
    shutil.rmtree(tmp_path, ignore_errors=True)
