"""Tests a toy study end to end, and the numbers of its table by hand."""

import dataclasses
import functools
import gc
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest

from jaxfer import cli, config
from jaxfer.data.folds import person_independent_folds
from jaxfer.errors import UserError
from jaxfer.report import study as report
from jaxfer.study import run, study, task, trainings
from jaxfer.systems import SYSTEMS
from jaxfer.train import weights
from jaxfer.train.trainer import Trainer
from tests import study_toy as toy

ROOT = pathlib.Path(__file__).parents[2]
# Chunks of a row: 2 seeds x 2 folds x 2 epochs x 2 chunks.
ROW = 16


@pytest.fixture(scope="module", autouse=True)
def installed():
  with pytest.MonkeyPatch.context() as patch:
    toy.install(patch)
    yield


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
  workdir = tmp_path_factory.mktemp("study")
  lines = []
  return workdir, toy.run_study(workdir, log=lines.append), "\n".join(lines)


def numbers(table):
  """Returns the table without times and version."""
  rows = [{k: v for k, v in row.items() if "seconds" not in k} for row in table["rows"]]
  return {**table, "rows": rows, "timing": None, "environment": None}


def test_a_row_from_scratch_takes_nothing_that_is_given(tmp_path, monkeypatch):
  """This does not depend on the other chosen rows."""
  rows = (config.Row("given"), config.Row("next", {}, None, "given"), config.Row("fresh", scratch=True))
  described = dataclasses.replace(toy.STUDY, rows=rows, compared=())

  there = str(tmp_path / "there")
  weights.save_weights(tmp_path / "there", {"params": {}}, {})

  class Asked(Exception):
    pass

  def train(own, task, seeds, start, *more):
    raise Asked(start.folder and str(start.folder))

  monkeypatch.setattr(study.variants, "train", train)
  for k, (chosen, source) in enumerate(
    {"('given', 'next')": there, "('given',)": there, "('fresh',)": None}.items()
  ):
    with pytest.raises(Asked) as found:
      toy.run_study(tmp_path / str(k), f"rows={chosen}", f"init_from={there}", config=described)
    assert found.value.args == (source,)


def test_a_study_leaves_its_table_and_figures(undisturbed):
  workdir, table, printed = undisturbed
  assert json.loads((workdir / "table.json").read_text()) == table
  assert [row["name"] for row in table["rows"]] == ["narrow", "wide"]
  for row in table["rows"]:
    assert (row["members"], row["count"], row["failed"]) == (4, 42, [])
    assert row["correct"] == round(21 * sum(row["per_seed"])) == np.trace(row["confusion"])
    assert row["mean"] == pytest.approx(np.mean(row["per_seed"]))
    assert row["std"] == pytest.approx(np.std(row["per_seed"], ddof=1))
    low, high = row["interval"]
    assert 0 <= low < row["mean"] < high <= 1
    for name in ("confusion.png", "curves.png"):
      assert (workdir / "rows" / row["name"] / name).read_bytes()[:4] == b"\x89PNG"
  assert (workdir / "accuracy.png").read_bytes()[:4] == b"\x89PNG"
  page = (workdir / "report.html").read_text()
  assert page.count("<img") == 5
  assert "wide minus narrow: " in page
  for text in (printed, (workdir / "table.md").read_text()):
    assert toy.records().fingerprint[:16] in text
    assert "wide minus narrow: " in text
    assert "8 trainings in " in text
    assert f"jax {jax.__version__}" in text


def test_a_seed_pools_the_folds_of_its_training(undisturbed, tmp_path):
  """The result equals that of `jaxfer train` for the same configuration."""
  _, table, _ = undisturbed
  base = dataclasses.replace(toy.STUDY.base, seed=1)
  alone = run.train(base, tmp_path, pathlib.Path("nowhere"), log=lambda line: None)
  assert alone["count"] == 21
  assert alone["accuracy"] == pytest.approx(table["rows"][0]["per_seed"][1])


@pytest.mark.optimized
def test_a_study_on_other_devices_goes_on_and_says_so(killed, tmp_path, undisturbed, capsys):
  """Its numbers differ only by rounding."""
  workdir = tmp_path / "study"
  shutil.copytree(killed(ROW // 2 + 1), workdir)
  table = toy.run_study(workdir, "execution.devices=2", resume=True)
  assert "not bit-identical from here on (devices 1 -> 2, shards 1 -> 2)" in capsys.readouterr().out
  for row, want in zip(table["rows"], undisturbed[1]["rows"], strict=True):
    assert row["per_seed"] == want["per_seed"]
    for line, other in zip(
      *(toy.history(at / row["folder"]) for at in (workdir, undisturbed[0])), strict=True
    ):
      numbers = [{key: v for key, v in each.items() if isinstance(v, float)} for each in (line, other)]
      assert numbers[0] == pytest.approx(numbers[1], rel=1e-5)


def test_programs_of_finished_rows_are_dropped(tmp_path, monkeypatch):
  """The memory of a study with many rows does not grow."""
  programs, store = [], study.variants.store

  def counted(*args):
    gc.collect()
    programs.append(len(jax.devices()[0].client.live_executables()))
    store(*args)

  monkeypatch.setattr(study.variants, "store", counted)
  rows = tuple(config.Row(f"width {width}", {"model.width": width}) for width in (5, 6, 7))
  described = dataclasses.replace(toy.STUDY, rows=rows, compared=())
  toy.run_study(tmp_path, "seeds=1", "recipe.epochs=1", config=described, log=lambda line: None)
  assert programs[2] == programs[1]


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
  """Returns a function that returns the folder of a study that was killed after a number of chunks."""

  @functools.cache
  def folder(chunks):
    workdir = tmp_path_factory.mktemp("killed")
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_NUM_CPU_DEVICES": "4"}
    command = [sys.executable, "-m", "tests.study_toy", str(workdir), str(chunks)]
    process = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True)
    assert process.returncode == -signal.SIGKILL, process.stderr
    return workdir

  return folder


@pytest.mark.optimized
@pytest.mark.parametrize("chunks", [ROW // 2 + 1, ROW, ROW + 7])
def test_a_killed_study_resumes_to_the_same_table(killed, tmp_path, undisturbed, monkeypatch, chunks):
  """It is killed within the first row, between the rows, and within the second row."""
  tmp_path = tmp_path / "study"
  shutil.copytree(killed(chunks), tmp_path)
  assert (tmp_path / "rows/narrow/result.json").exists() == (chunks >= ROW)
  assert not (tmp_path / "table.json").exists()

  trained, original = [], Trainer.fit

  def fit(self, **kwargs):
    trained.append(self.workdir.name)
    return original(self, **kwargs)

  monkeypatch.setattr(Trainer, "fit", fit)
  with pytest.raises(UserError, match="already holds this study: go on with --resume"):
    toy.run_study(tmp_path)
  table = toy.run_study(tmp_path, resume=True, log=lambda line: None)
  assert trained == (["wide"] if chunks >= ROW else ["narrow", "wide"])
  assert numbers(table) == numbers(undisturbed[1])
  again = toy.run_study(tmp_path, resume=True, log=lambda line: None)
  assert numbers(again) == numbers(table)
  assert again["timing"] == table["timing"]
  assert trained[-1:] == ["wide"]
  assert len(trained) == (1 if chunks >= ROW else 2)


def test_what_another_study_left_is_refused_and_kept(undisturbed, tmp_path):
  workdir, _, _ = undisturbed
  before = (workdir / "study.json").read_text()
  for changes, named in [
    ({"preset": "short"}, "rows.narrow.recipe.epochs, rows.wide.recipe.epochs differ"),
    ({"config": dataclasses.replace(toy.STUDY, seeds=3)}, "seeds differ"),
    ({"config": dataclasses.replace(toy.STUDY, rows=toy.STUDY.rows[:1], compared=())}, "more differ"),
  ]:
    with pytest.raises(UserError) as error:
      toy.run_study(workdir, resume=True, **changes)
    assert "was begun with another study, preset or override" in str(error.value)
    assert named in str(error.value)
  assert (workdir / "study.json").read_text() == before
  # The execution may change.
  toy.run_study(workdir, "execution.keep=1", resume=True, log=lambda line: None)
  (tmp_path / "config.json").write_text("{}")
  with pytest.raises(UserError, match=r"holds a run \(config\.json\)"):
    toy.run_study(tmp_path)


def test_rows_and_pre_trainings_get_the_dtype_of_the_device_or_of_the_study_that_is_resumed(monkeypatch):
  monkeypatch.setattr(task, "_fast_in_bfloat16", lambda device: True)
  described = config.load_study(ROOT / "configs/elderly_transfer/table_synthetic.py")
  resolved, rows = config.resolve(described, "smoke", (), task.options_of)
  assert resolved.sources

  def dtypes(begun):
    made, own = study._with_dtypes(resolved, rows, begun)
    sources = config.sources_of(made, task.options_of)
    return {one.dtype for one in (made.base, *own.values(), *sources.values())}

  assert dtypes({}) == {"bfloat16"}
  assert dtypes(dict.fromkeys([*rows, *(source.name for source in resolved.sources)], "float32")) == {
    "float32"
  }


def test_a_study_resumes_in_its_own_dtype_on_a_device_with_another_default(undisturbed, monkeypatch):
  workdir, table, _ = undisturbed
  before = (workdir / "study.json").read_text()
  monkeypatch.setattr(toy.Toy, "bfloat16", True)
  monkeypatch.setattr(task, "_fast_in_bfloat16", lambda device: True)
  assert numbers(toy.run_study(workdir, resume=True, log=lambda line: None)) == numbers(table)
  assert (workdir / "study.json").read_text() == before


def test_rows_on_data_that_changed_are_not_set_beside_each_other(tmp_path, undisturbed, monkeypatch):
  workdir = tmp_path / "copy"
  (workdir / "rows/narrow").mkdir(parents=True)
  for name in ("study.json", "rows/narrow/result.json"):
    (workdir / name).write_bytes((undisturbed[0] / name).read_bytes())
  monkeypatch.setattr(trainings, "load_data", lambda config, data_dir: toy.records(seed=1))
  with pytest.raises(UserError, match=r"the data changed between row 'narrow' .* and row 'wide'"):
    toy.run_study(workdir, resume=True)


def test_a_training_that_is_not_finite_counts_as_wrong_and_is_named(tmp_path):
  rows = (config.Row("wild", {"recipe.rate": float("inf")}), config.Row("tame"))
  failing = dataclasses.replace(toy.STUDY, rows=rows, compared=(("wild", "tame"),), seeds=1)
  table = toy.run_study(tmp_path, config=failing, log=lambda line: None)
  wild, tame = table["rows"]
  assert (wild["correct"], wild["count"], wild["mean"]) == (0, 21, 0.0)
  assert wild["failed"] == [
    {"member": f"seed 0, fold {k}", "seed": 0, "fold": k, "where": "stage 'train', epoch 1, step 2"}
    for k in range(2)
  ]
  assert np.sum(wild["confusion"]) == 0
  assert tame["failed"] == []
  assert tame["correct"] > 0
  line = (
    "failed: wild, seed 0, fold 1: not finite in stage 'train', epoch 1, step 2; its records count as wrong"
  )
  assert line in (tmp_path / "table.md").read_text()


def test_of_a_failed_training_only_its_own_records_count_as_wrong(tmp_path, undisturbed, monkeypatch):
  """This holds even if the net before the failure would have had some right."""
  original = Trainer.fit

  def fit(*args, **kwargs):
    first, second, *others = original(*args, **kwargs)
    return [first, dataclasses.replace(second, failed="stage 'train', epoch 2, step 1"), *others]

  monkeypatch.setattr(Trainer, "fit", fit)
  one = dataclasses.replace(toy.STUDY, rows=toy.STUDY.rows[:1], compared=())
  (row,) = toy.run_study(tmp_path, config=one, log=lambda line: None)["rows"]
  whole = json.loads((undisturbed[0] / "rows/narrow/result.json").read_text())
  held_out = np.asarray(person_independent_folds(whole["subject"][0], 2)) == 1
  right = np.asarray(whole["predicted"]) == np.asarray(whole["label"])
  assert right[0][held_out].any()
  assert row["per_seed"] == [(right[0] & ~held_out).mean(), right[1].mean()]
  assert [(failed["seed"], failed["fold"]) for failed in row["failed"]] == [(0, 1)]
  assert np.sum(row["confusion"]) == 42 - held_out.sum()


def test_only_requested_rows_use_a_validation_split(tmp_path, undisturbed):
  history = toy.history(undisturbed[0] / "rows/narrow")
  assert {row["split"] for row in history} == {"train"}
  one = dataclasses.replace(toy.STUDY, rows=toy.STUDY.rows[:1], compared=(), seeds=1)
  toy.run_study(tmp_path, "split.validation=0.3", config=one, log=lambda line: None)
  history = toy.history(tmp_path / "rows/narrow")
  assert [row["split"] for row in history] == ["train", "validation"] * 4


def result(predicted, subjects="AABBCCDD"):
  seeds = len(predicted)
  same = {"key": list("12345678"), "label": [0] * 8, "subject": list(subjects)}
  return {name: [values] * seeds for name, values in same.items()} | {
    "correct": [[float(guess == 0) for guess in own] for own in predicted]
  }


def test_chance_is_among_the_classes_that_are_tested():
  own = {
    "label": [[0, 2, 2]],
    "predicted": [[0, 1, 2]],
    "correct": [[1, 0, 1]],
    "rank": None,
    "key": [["a", "b", "c"]],
  }
  none = {"data": {}, "parameters": 0, "folds": 1, "tested": "", "members": 1, "failed": [], "figures": {}}
  none |= {"metrics": {}, "warnings": [], "seconds": 0, "compile_seconds": 0}
  none |= {"summaries": {}, "table_summaries": {}, "predictions": {}}
  assert report.summarize({**own, **none, "label_names": ["x", "only trained", "y"]})["chance"] == 0.5


def test_of_several_trials_all_is_the_mean():
  own = {
    "label": [[0, 1], [0, 1]],
    "predicted": [[0, 0], [0, 1]],
    "by_trial": [[[0, 0, 1, 0], [0, 0, 1, 0]], [[0, 0, 0, 0], [1, 1, 1, 1]]],
    "correct": [[0.75, 0.25], [1, 1]],
    "rank": None,
    "key": [["a", "b"], ["a", "b"]],
  }
  none = {"data": {}, "parameters": 0, "folds": 1, "tested": "", "members": 2, "failed": [], "figures": {}}
  none |= {"metrics": {}, "warnings": [], "seconds": 0, "compile_seconds": 0}
  none |= {"summaries": {}, "table_summaries": {}, "predictions": {}}
  row = report.summarize({**own, **none, "label_names": ["x", "y"]})
  assert (row["trials"], row["per_seed"], row["correct"], row["count"]) == (4, [0.5, 1.0], 3, 4)
  assert row["confusion"] == [[1.75, 0.25], [0.75, 1.25]]
  assert np.trace(row["confusion"]) == row["correct"]


def test_a_difference_has_the_interval_of_a_mean_over_people():
  """With one seed, A gains both records and the others one each: 2, 1, 1, 1 of 8, with mean 1.25."""
  ours, theirs = result([[0, 0, 0, 1, 0, 1, 0, 1]]), result([[1] * 8])
  compared = report.compare("one", ours, "other", theirs)
  half = 1.96 * np.sqrt(4 / 3 * (0.75**2 + 3 * 0.25**2)) / 8
  assert compared["difference"] == pytest.approx(5 / 8)
  assert compared["interval"] == pytest.approx([5 / 8 - half, 5 / 8 + half])
  assert compared["told_apart"]
  assert compared["sentence"].endswith("by seed +62.5): ahead")
  assert "interval over 4 people" in compared["sentence"]
  keys = {"subject": ours["key"]}  # The people are unknown.
  unnamed = report.compare("one", {**ours, **keys}, "other", {**theirs, **keys})
  assert "interval over 8 records" in unnamed["sentence"]
  back = report.compare("other", theirs, "one", ours)
  assert back["interval"] == pytest.approx([-high for high in reversed(compared["interval"])])
  assert back["sentence"].endswith(": behind")


def test_a_row_is_ahead_only_where_every_seed_agrees():
  theirs = result([[1] * 7 + [0]] * 2)
  agreed = report.compare("one", result([[0] * 8, [0] * 8]), "other", theirs)
  assert agreed["told_apart"]
  torn = report.compare("one", result([[0] * 8, [1] * 8]), "other", theirs)
  assert torn["per_seed"] == [7 / 8, -1 / 8]
  assert torn["interval"][0] > 0
  assert not torn["told_apart"]
  assert "neither ahead nor behind" in torn["sentence"]
  with pytest.raises(UserError, match="tested on different records"):
    report.compare("one", theirs, "other", {**theirs, "key": [list("12345678"), list("12345679")]})


def test_rows_of_table_1_have_the_papers_accuracies():
  published = {name: accuracy for name, _, accuracy in SYSTEMS["two_stream_conv_rnn"].published}
  for name in ("table1", "table1_synthetic"):
    described = config.load_study(ROOT / f"configs/two_stream_conv_rnn/{name}.py")
    assert {row.name: row.published for row in described.rows} == published
    rows = config.resolve(described, "paper", (), study.options_of)[1]
    for row, attributes, _ in SYSTEMS["two_stream_conv_rnn"].published:
      chosen = {"temporal_gate": False, "temporal_skip": False, "spatial_skip": False} | dict(
        rows[row].model.options
      )
      assert attributes.items() <= chosen.items()


def test_for_a_users_data_the_table_has_no_published_numbers(tmp_path):
  base = dataclasses.replace(toy.STUDY.base, data=config.Call("image_folder"))
  own = dataclasses.replace(toy.STUDY, base=base, seeds=1, source="a paper")
  said = []
  table = toy.run_study(tmp_path, config=own, preset="short", log=said.append)
  assert [row["published"] for row in table["rows"]] == [None, None]
  assert table["source"] == ""
  for text in ("\n".join(said), (tmp_path / "table.md").read_text(), (tmp_path / "report.html").read_text()):
    assert "its published numbers are left out" in text
    assert "a paper" not in text
  (narrow,) = (
    line for line in (tmp_path / "table.md").read_text().splitlines() if line.startswith("| narrow")
  )
  assert narrow.split("|")[2].strip() == "-"


@pytest.mark.parametrize("command", [("study", "--list"), ("list", "studies")])
def test_listing_says_what_each_study_needs(command, monkeypatch, capsys, tmp_path):
  monkeypatch.chdir(ROOT)
  assert cli.main(list(command)) == 0
  printed = capsys.readouterr().out
  for name in ("table1", "table1_synthetic", "ablation_synthetic", "time_course_synthetic"):
    assert f"configs/two_stream_conv_rnn/{name}.py\n" in printed
  assert "data: ckplus: signed agreement, no redistribution; ask at " in printed
  assert "published: paper 001, Table 1: CK+" in printed
  monkeypatch.chdir(tmp_path)  # In a folder without configs, those included in jaxfer are listed.
  assert cli.main(list(command)) == 0
  assert capsys.readouterr().out == printed
  (tmp_path / "configs").mkdir()
  assert cli.main(list(command)) == 2
  assert "no study below configs" in capsys.readouterr().err


TABLE1 = str(ROOT / "configs/two_stream_conv_rnn/table1_synthetic.py")


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ([TABLE1, "--workdir", "w", "--preset", "smal"], "unknown preset 'smal': did you mean 'small'"),
    ([TABLE1, "--workdir", "w", "recipe.epoch=3"], "did you mean 'recipe.epochs'"),
    ([TABLE1, "model.cell=conv_gru", "--workdir", "w"], "model.cell differs from row to row"),
    ([TABLE1], "a study needs CONFIG and --workdir"),
    (["absent.py", "--workdir", "w"], "no config at absent.py"),
    ([str(ROOT / "configs/quickstart.py"), "--workdir", "w"], "describes a single run"),
  ],
)
def test_a_users_mistake_is_one_line_and_exit_code_2(arguments, message, monkeypatch, tmp_path, capsys):
  monkeypatch.chdir(tmp_path)
  assert cli.main(["study", *arguments]) == 2
  captured = capsys.readouterr()
  assert message in captured.err
  assert captured.err.startswith("jaxfer: ")
  assert captured.err.count("\n") == 1
  assert not (tmp_path / "w").exists()
