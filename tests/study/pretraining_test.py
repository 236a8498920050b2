"""Tests pre-trainings of a study: trained once, shared by all seeds, evaluated, replaced by weights, or failed."""

import dataclasses

import numpy as np
import pytest

from jaxfer import config as configuration
from jaxfer.config import Call, Row
from jaxfer.errors import UserError
from jaxfer.study import pretraining
from jaxfer.study.pretrained import load_pretrained
from jaxfer.study.task import options_of, task_of
from jaxfer.systems import SYSTEMS
from jaxfer.train import weights
from jaxfer.train.trainer import Trainer
from tests import study_toy as toy

PICTURES = {"colour_order": "BGR", "input_size": 2}


class Toy(toy.Toy):
  label_free = ("fc1",)

  def load_pretrained(self, model, given):
    return {name: {key: tree[key] for key in ("fc1",) if key in tree} for name, tree in given.items()}

  def input_spec(self, model):
    return PICTURES

  def relabel(self, records, options):
    """Gives the classes other names in long trainings."""
    return (
      dataclasses.replace(records, label_names=("x", "y", "z")) if options.get("epochs") == 40 else records
    )

  def tables(self, variants, seeds, not_trained=()):
    return [("Missing", (["row"], [[row["name"]] for row in not_trained]))] if not_trained else []


SOURCES = (
  Row("people", {"recipe.epochs": 40, "split.folds": 0}),
  Row("wild", {"recipe.rate": 1e38, "split.folds": 0}),
  Row("slow", {"recipe.rate": 0.0, "split.folds": 0, "split.test": 0.5}),
)


@pytest.fixture(scope="module", autouse=True)
def _toy():
  with pytest.MonkeyPatch.context() as patch:
    toy.install(patch)
    patch.setitem(SYSTEMS, "toy", Toy())
    yield


def made(*table, compared=(), given=SOURCES):
  return dataclasses.replace(toy.STUDY, rows=table, compared=compared, sources=given)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
  """The rate is 0, so that the final weights of each training are those from which it started."""
  workdir, lines = tmp_path_factory.mktemp("sources"), []
  described = made(
    Row("scratch"),
    Row("from people", {"recipe.rate": 0.0}, 0.7, "people"),
    Row("from wild", {}, 0.3, "wild"),
    compared=(("from people", "scratch"), ("from wild", "scratch")),
  )
  table = toy.run_study(workdir, config=described, log=lines.append)
  return workdir, described, table, "\n".join(lines)


def test_a_source_is_trained_once_and_every_seed_starts_from_it(done):
  workdir, _, _, printed = done
  (folder,) = (workdir / "sources/people/weights").iterdir()
  assert folder.name == "seed 0, fold 0"
  pretrained, meta = weights.load_weights(folder)
  assert meta["label_names"] == ["x", "y", "z"]
  assert meta["colour_order"] == "BGR"
  assert "taken over from source 'people': fc1 (20 parameters); fresh: fc2 (15 parameters)" in printed
  assert printed.count("pre-training people:") == 1
  assert not (workdir / "sources/slow").exists()  # No row uses it.
  history = [line for line in toy.history(workdir / "rows/from-people") if line["epoch"] == 1]
  assert {line["member"] for line in history} == {f"seed {s}, fold {k}" for s in (0, 1) for k in (0, 1)}
  assert len({line["loss"] for line in history}) > 1  # Their heads differ.
  np.testing.assert_array_equal(pretrained["params"]["fc1"]["kernel"].shape, (4, 4))


def test_trainings_hold_what_they_start_from_as_one_object(done, monkeypatch, tmp_path):
  workdir, described, _, _ = done
  given, original = [], Trainer.fit

  def fit(self, **kwargs):
    given.extend(member.initial for member in self.training.members)
    return original(self, **kwargs)

  monkeypatch.setattr(Trainer, "fit", fit)
  (folder,) = (path for path in (workdir / "sources/people/weights").iterdir() if path.is_dir())
  table = toy.run_study(
    tmp_path, f"sources.peo*={folder}", "rows=('from people',)", config=described, log=lambda line: None
  )
  assert len(given) == 4
  assert all(start is given[0] for start in given)
  np.testing.assert_array_equal(
    given[0]["params"]["fc1"]["kernel"], weights.load_weights(folder)[0]["params"]["fc1"]["kernel"]
  )
  assert table["tables"][0]["rows"][0][:2] == ["people", f"given: {folder}"]
  assert not (tmp_path / "sources").exists()
  (row,) = [row for row in done[2]["rows"] if row["name"] == "from people"]
  assert table["rows"][0]["per_seed"] == row["per_seed"]


def test_rows_of_a_failed_source_are_not_trained(done):
  workdir, _, table, printed = done
  assert [row["name"] for row in table["rows"]] == ["scratch", "from people"]
  (missing,) = table["not_trained"]
  assert (missing["name"], missing["published"], missing["place"]) == ("from wild", 0.3, 2)
  assert "not finite in stage 'train', epoch 1" in missing["why"]
  assert not (workdir / "rows/from-wild/checkpoints").exists()
  assert table["tables"][-1] == {"title": "Missing", "header": ["row"], "rows": [["from wild"]]}
  assert [pair["sentence"].partition(":")[0] for pair in table["comparisons"]] == [
    "from people minus scratch"
  ]
  for text in (printed, (workdir / "table.md").read_text()):
    assert "- (pre-training failed)" in text
    assert "from wild, its pre-training failed: seed 0, fold 0: not finite" in text
  assert "from wild: not trained" in (workdir / "report.html").read_text()


def test_a_source_is_evaluated_on_its_own_test_records(done):
  _, _, table, printed = done
  found = table["tables"][0]
  assert "Pre-trainings" in found["title"]
  people, wild = (dict(zip(found["header"], row, strict=True)) for row in found["rows"])
  assert (people[""], people["records"], people["classes"], people["epochs"]) == ("people", 21, 3, 40)
  assert people["held out"] == 3  # One of seven people.
  assert 0 <= float(people["right %"]) <= 100
  assert "failed: seed 0, fold 0: not finite" in wild["data"]
  assert found["title"] in printed
  both = sum(float(row[-1]) for row in found["rows"])
  assert table["timing"]["pretrainings"] == 2
  assert table["timing"]["pretraining_seconds"] == pytest.approx(both, abs=1.1)
  assert ", besides 2 pre-trainings in " in printed


def test_what_was_done_is_not_done_again(done, monkeypatch):
  workdir, described, table, _ = done
  monkeypatch.setattr(Trainer, "fit", None)
  again = toy.run_study(workdir, config=described, resume=True, log=lambda line: None)
  assert again["tables"] == table["tables"]
  assert again["not_trained"] == table["not_trained"]
  with pytest.raises(UserError, match=r"another study.*sources\.people\.recipe\.epochs"):
    toy.run_study(workdir, "sources.people.recipe.epochs=4", config=described, resume=True)


def test_a_source_that_learns_less_than_twice_chance_has_failed():
  assert pretraining.failure([], [0.9, 0.51], 4) is None
  assert pretraining.failure([], [0.9, 0.49], 4) == (
    "failed: 49.0% of its training records correct at the end, less than twice 25.0%"
  )
  failed = {"member": "seed 0, fold 0", "seed": 0, "fold": 0, "where": "epoch 1"}
  assert pretraining.failure([failed], [1.0], 4) == "failed: seed 0, fold 0: not finite in epoch 1"
  assert pretraining.failure([], [], 4) is None


def resolved(*assignments, config):
  return configuration.resolve(config, None, assignments, options_of)[0]


def test_a_source_has_overrides_of_its_own():
  described = made(Row("a", {}, None, "people"), Row("b", {}, None, "slow"))
  study = resolved(
    "batch_size=2", "sources.*.recipe.rate=0.5", "sources.slow.model.width=3", config=described
  )
  configs = configuration.sources_of(study, options_of)
  assert list(configs) == ["people", "slow"]
  assert {name: config.recipe.options["rate"] for name, config in configs.items()} == {
    "people": 0.5,
    "slow": 0.5,
  }
  assert configs["slow"].model.options["width"] == 3
  assert "width" not in configs["people"].model.options
  assert {config.batch_size for config in configs.values()} == {2}
  other = Row("other", {"data": "synthetic_faces", "data.image_size": 16, "split.folds": 0})
  study = resolved(config=made(Row("a", {}, None, "other"), given=(other,)))
  assert configuration.sources_of(study, options_of)["other"].data == Call("synthetic_faces", image_size=16)


@pytest.mark.parametrize(
  ("described", "assignments", "message"),
  [
    (made(Row("a", {}, None, "peopel")), (), "did you mean 'people'"),
    (made(Row("people", {}, None, "people")), (), "source 'people': another source or row has this name"),
    (made(Row("a", {}, None, "people")), ("sources.x.batch_size=1",), "unknown source 'x'"),
    (made(Row("a", {}, None, "people")), ("sources.people.recipe.rat=1",), "did you mean 'recipe.rate'"),
    (made(Row("a", {}, None, "people")), ("init_from=there",), "'sources.people=there'"),
    (made(Row("a", {}, None, "people")), ("sources.people.split.folds=2",), "one training per fold"),
    (made(Row("a", {}, None, "people")), ("sources.people.data=nowhere",), "unknown data set 'nowhere'"),
  ],
)
def test_a_mistake_in_sources_is_named(described, assignments, message):
  with pytest.raises(UserError) as error:
    resolved(*assignments, config=described)
  assert message in str(error.value)


def test_a_classifier_of_other_classes_and_other_pictures_are_refused(done, monkeypatch):
  workdir, described, _, _ = done
  _, configs = configuration.resolve(described, None, (), options_of)
  (folder,) = (workdir / "sources/people/weights").iterdir()
  stored, meta = weights.load_weights(folder)
  task = task_of(configs["scratch"], toy.records())
  assert load_pretrained(task, stored, meta, "there")[0].keys() == {"params"}
  with pytest.raises(UserError, match="there was trained with colour_order RGB, this training reads BGR"):
    load_pretrained(task, stored, {**meta, "colour_order": "RGB"}, "there")
  with pytest.raises(UserError, match="there does not record its input_size"):
    load_pretrained(task, stored, {"label_names": meta["label_names"], "colour_order": "BGR"}, "there")
  monkeypatch.setattr(SYSTEMS["toy"], "label_free", ())
  with pytest.raises(UserError, match="there names its classes x, y, z, the data a, b, c"):
    load_pretrained(task_of(configs["scratch"], toy.records()), stored, meta, "there")


def test_a_row_may_go_on_from_one_that_a_source_began(tmp_path, done):
  """Its trainings start from those of the row with the same seed and fold, not from the source."""
  workdir, _, _, _ = done
  (folder,) = (workdir / "sources/people/weights").iterdir()
  chain = made(Row("first", {}, None, "people"), Row("second", {"recipe.epochs": 1}, None, "first"))
  lines = []
  toy.run_study(tmp_path, f"sources.people={folder}", "seeds=1", config=chain, log=lines.append)
  assert "taken over from row 'first': fc1 (20 parameters); fresh: fc2 (15 parameters); each" in "\n".join(
    lines
  )
  assert {path.name for path in (tmp_path / "rows/first/weights").iterdir()} == {
    "seed 0, fold 0",
    "seed 0, fold 1",
  }


def test_files_of_a_file_manager_are_no_weights(tmp_path):
  (tmp_path / "weights/seed 0, fold 0").mkdir(parents=True)
  (tmp_path / "weights/.DS_Store").touch()
  assert pretraining.Source(Row("people"), toy.STUDY.base, tmp_path).weights.name == "seed 0, fold 0"
