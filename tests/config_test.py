import dataclasses
import pathlib

import pytest

from jaxfer import config, values
from jaxfer.config import Call, Execution, Row, RunConfig, Split, StudyConfig
from jaxfer.errors import UserError
from jaxfer.study.run import options_of

BASE = RunConfig(
  recipe=Call("two_stream_conv_rnn", epochs=2),
  model=Call("two_stream_conv_rnn", features=[8, 16]),
  data=Call("synthetic_sequences", num_frames=4),
)


def override(*assignments):
  return config.override(BASE, assignments, options_of)


def test_overrides_are_read_by_the_type_of_their_field():
  changed = override(
    "batch_size=8",
    "split.fold=3",
    "split.validation=0.1",
    "execution.devices=none",
    "model.temporal_gate=true",
    "model.features=(4, 8)",
    "model.cell=conv_gru",
    "recipe.learning_rate=1e-3",
    "data.image_size=32",
    "dtype=bfloat16",
  )
  assert (changed.batch_size, changed.split, changed.execution.devices) == (
    8,
    Split(fold=3, validation=0.1),
    None,
  )
  assert changed.model.options == {"features": (4, 8), "temporal_gate": True, "cell": "conv_gru"}
  assert changed.recipe.options == {"epochs": 2, "learning_rate": 1e-3}
  assert changed.data.options == {"num_frames": 4, "image_size": 32}
  assert BASE.model.options == {"features": (8, 16)}


def test_overrides_of_a_file_are_the_values_themselves():
  overrides = {
    "batch_size": 8,
    "split.fold": None,
    "model.temporal_gate": True,
    "model.features": [4, 8],
    "data": "ckplus",
  }
  changed = config.override(BASE, overrides, options_of)
  assert changed == override(*(f"{key}={values.text(value)}" for key, value in overrides.items()))
  assert (changed.data, changed.model.options["features"]) == (Call("ckplus"), (4, 8))


@pytest.mark.parametrize(
  ("assignment", "message"),
  [
    ("batchsize=8", "unknown config key 'batchsize': did you mean 'batch_size'"),
    ("split.folde=3", "unknown config key 'split.folde': did you mean 'split.fold'"),
    (
      "model.temporalgate=true",
      "unknown config key 'model.temporalgate': did you mean 'model.temporal_gate'",
    ),
    ("epochs=3", "unknown config key 'epochs': did you mean 'recipe.epochs'"),
    ("features=3", "unknown config key 'features': did you mean 'model.features'"),
    ("recipe.lr=1", "unknown config key 'recipe.lr'"),
    ("data.size=1", "unknown config key 'data.size'"),
    ("data.name=ck", "unknown data set 'ck': did you mean 'ckplus'"),
    ("batch_size=many", "batch_size=many: not a whole number"),
    ("recipe.learning_rate=fast", "recipe.learning_rate=fast: not a number"),
    ("model.temporal_gate=1", "model.temporal_gate=1: write true or false"),
    ("model.features=8", "model.features=8: write a tuple"),
    ("dtype=float16", "unknown value of dtype 'float16': did you mean 'bfloat16'"),
    ("batch_size", "override 'batch_size' has no '='"),
    ("batch_size.x=1", "unknown config key 'batch_size.x'"),
    ("split=1", "unknown config key 'split': did you mean 'split."),
  ],
)
def test_impossible_values_are_refused(assignment, message):
  with pytest.raises(UserError) as error:
    config.check(override(assignment), options_of)
  assert str(error.value).startswith(message)


def test_an_unknown_option_in_a_file_is_refused():
  wrong = dataclasses.replace(BASE, model=Call("two_stream_conv_rnn", temporal_gates=True))
  with pytest.raises(
    UserError, match=r"unknown option of model .*'temporal_gates': did you mean 'temporal_gate'"
  ):
    config.check(wrong, options_of)


def test_a_config_survives_a_trip_through_json():
  changed = override("split.fold=3", "execution.devices=2")
  assert config.from_json(config.to_json(changed)) == changed


def test_differences_name_keys_and_leave_the_execution_out():
  assert config.differences(BASE, override("execution.backend=jit")) == []
  assert config.differences(BASE, override("model.cell=conv_gru", "seed=2")) == ["model.cell", "seed"]


def test_a_missing_file_or_one_without_get_config_is_named(tmp_path):
  with pytest.raises(UserError, match=r"no config at .*absent.py"):
    config.load(tmp_path / "absent.py")
  (tmp_path / "empty.py").write_text("")
  with pytest.raises(UserError, match=r"empty.py is not a config"):
    config.load(tmp_path / "empty.py")


CONFIG_DIR = pathlib.Path(__file__).parents[1] / "configs"
CONFIGS = sorted(CONFIG_DIR.rglob("*.py"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_loads_and_says_how_to_run_it(path):
  loaded = config.read(path)
  command = "train" if isinstance(loaded, RunConfig) else "study"
  assert f"jaxfer {command} configs/{path.relative_to(CONFIG_DIR)}" in path.read_text()
  if isinstance(loaded, RunConfig):
    runs = [config.check(loaded, options_of)]
  else:
    assert {"smoke", "small", "paper"} == set(loaded.presets)
    runs = [
      run for preset in loaded.presets for run in config.resolve(loaded, preset, (), options_of)[1].values()
    ]
  for run in runs:
    assert config.from_json(config.to_json(run)) == run


STUDY = StudyConfig(
  title="two cells",
  source="nowhere",
  base=BASE,
  rows=(Row("LSTM"), Row("GRU", {"model.cell": "conv_gru"}, 0.5)),
  compared=(("GRU", "LSTM"),),
  presets={"small": {"seeds": 3, "recipe.epochs": 4}, "paper": {"split.folds": 10}},
)


def resolve(preset, *assignments, study=STUDY):
  return config.resolve(study, preset, assignments, options_of)


def test_a_preset_goes_before_overrides_and_rows_after_both():
  study, rows = resolve(None, "recipe.epochs=5", "batch_size=8")
  assert (study.preset, study.named_seeds, study.base.batch_size) == ("small", (0, 1, 2), 8)
  assert [run.recipe.options["epochs"] for run in rows.values()] == [5, 5]
  assert rows["GRU"].model.options == {"features": (8, 16), "cell": "conv_gru"}
  assert rows["LSTM"].model.options == {"features": (8, 16)}
  study, rows = resolve("paper", "seeds=2")
  assert (study.named_seeds, rows["GRU"].split.folds, rows["GRU"].recipe.options) == (
    (0, 1),
    10,
    {"epochs": 2},
  )


@pytest.mark.parametrize(
  ("preset", "assignment", "message"),
  [
    ("smal", "seeds=1", "unknown preset 'smal': did you mean 'small'"),
    ("small", "recipe.epoch=1", "unknown config key 'recipe.epoch': did you mean 'recipe.epochs'"),
    ("small", "seeds=0", "seeds=0: give a whole number, from 1 to 10000"),
    ("small", "seeds=few", "seeds=few: not a whole number"),
    ("small", "seeds=(0, 10, 0)", "seeds=(0, 10, 0): a study needs at least one, each once"),
    ("small", "seeds=(0, -1)", "seeds[1]=-1: give a whole number, from 0 to 4294967295"),
    ("small", "seeds", "override 'seeds' has no '='"),
    ("small", "model.cell=conv_lstm", "model.cell differs from row to row of this study (row 'GRU' sets it)"),
  ],
)
def test_what_a_study_cannot_mean_is_refused(preset, assignment, message):
  with pytest.raises(UserError) as error:
    resolve(preset, assignment)
  assert str(error.value).startswith(message)
  assert "\n" not in str(error.value)


def test_rows_have_names_of_their_own_and_pairs_name_rows():
  for change, message in [
    ({"rows": (Row("GRU"), Row("GRU"))}, "rows: 2, names: 1"),
    ({"compared": (("GRU", "LST"),)}, "unknown row 'LST': did you mean 'LSTM'"),
  ]:
    with pytest.raises(UserError, match=message):
      resolve("small", study=dataclasses.replace(STUDY, **change))


def test_a_run_is_no_study_and_a_study_no_run():
  with pytest.raises(UserError, match="describes a study: run it by `jaxfer study"):
    config.load(CONFIG_DIR / "two_stream_conv_rnn/table1_synthetic.py")
  with pytest.raises(UserError, match="describes a single run: train it by `jaxfer train"):
    config.load_study(CONFIG_DIR / "quickstart.py")


@pytest.mark.parametrize(
  ("split", "message"),
  [
    (Split(fold=3), "split.fold=3 without folds: give split.folds"),
    (Split(kind="per_class", fold=0), "split.fold=0 without folds"),
    (Split(kind="per_class", folds=5), "split.folds=5 means nothing to split.kind=per_class"),
    (Split(kind="perclass"), "unknown value of split.kind 'perclass': did you mean 'per_class'"),
  ],
)
def test_a_split_whose_numbers_mean_nothing_is_refused(split, message):
  with pytest.raises(UserError, match=message):
    config.check(dataclasses.replace(BASE, split=split), options_of)


@pytest.mark.parametrize(
  "split",
  [
    Split(folds=5, fold=2, validation=0.1),
    Split(test=0.3),
    Split(kind="leave_one_out", fold=7),
    Split(kind="per_class_people", per_class=5, validation=0.1),
    Split(kind="distributed"),
    Split(kind="people_per_set", test_people=6),
  ],
)
def test_a_split_that_means_something_passes(split):
  assert config.check(dataclasses.replace(BASE, split=split), options_of).split == split


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"batch_size": 0}, "batch_size=0: give a whole number, from 1 to 65536"),
    ({"batch_size": True}, "batch_size=True: not a whole number"),
    ({"batch_size": "8"}, "batch_size='8': not a whole number"),
    ({"seed": 2**32}, "seed=4294967296: give a whole number, from 0 to 4294967295"),
    ({"dtype": "float16"}, "unknown value of dtype 'float16': did you mean 'bfloat16'"),
    ({"init_from": 3}, "init_from=3: not text"),
    ({"recipe": "two_stream_conv_rnn"}, "recipe='two_stream_conv_rnn': give a Call(...)"),
    ({"split": None}, "split=None: give a Split(...)"),
    ({"split": Split(test=1.0)}, "split.test=1.0: give a number, above 0 and below 1"),
    ({"split": Split(validation=1.0)}, "split.validation=1.0: give a number, from 0 to below 1"),
    ({"split": Split(per_class=0)}, "split.per_class=0: give a whole number, from 1 to"),
    ({"split": Split(folds=1)}, "split.folds=1: give 2 or more, or 0"),
    ({"split": Split(folds=5, fold=5)}, "split.fold=5 of split.folds=5: give 0 to 4"),
    ({"split": Split(folds=5, fold=-1)}, "split.fold=-1: give a whole number, from 0 to"),
    (
      {"execution": Execution(checkpoint_seconds=float("inf"))},
      "execution.checkpoint_seconds=inf: give a number",
    ),
    (
      {"execution": Execution(steps_per_call=0)},
      "execution.steps_per_call=0: give a whole number, from 1 to",
    ),
    (
      {"execution": Execution(backend="pmpa")},
      "unknown value of execution.backend 'pmpa': did you mean 'pmap'",
    ),
    (
      {"recipe": Call("two_stream_conv_rnn", learning_rate=float("nan"))},
      "recipe.learning_rate=nan: give a number, from 0 to 1000",
    ),
    ({"recipe": Call("two_stream_conv_rnn", clip_norm=0)}, "recipe.clip_norm=0: give a number, above 0"),
    (
      {"model": Call("two_stream_conv_rnn", kernel_size=(3, 2))},
      "model.kernel_size[1]=2: give a whole number, from 1 to 99, odd",
    ),
    (
      {"model": Call("two_stream_conv_rnn", features=())},
      "model.features=(): give a tuple of 1 to 64 values",
    ),
    ({"model": Call("two_stream_conv_rnn", cell="gru")}, "unknown value of model.cell 'gru'"),
    (
      {"data": Call("synthetic_sequences", image_size=5000)},
      "data.image_size=5000: give a whole number, from 16",
    ),
  ],
)
def test_values_of_a_file_are_checked_as_overrides_are(change, message):
  with pytest.raises(UserError) as error:
    config.check(dataclasses.replace(BASE, **change), options_of)
  assert str(error.value).startswith(message)


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"seeds": (0, 2**32)}, "seeds[1]=4294967296: give a whole number, from 0 to 4294967295"),
    ({"seeds": 10**20}, "seeds=100000000000000000000: give a whole number, from 1 to 10000"),
    ({"seeds": True}, "seeds=True: not a whole number"),
    (
      {"seeds": 2, "base": dataclasses.replace(BASE, seed=2**32 - 1)},
      "seeds=4294967296: give a whole number",
    ),
    ({"presets": {"small": ("seeds=3",)}}, "presets['small']=('seeds=3',): give a dict"),
    ({"presets": {1: {}}}, "a key of presets=1: not text"),
    ({"presets": {"paper": {"seeds": 0}}}, "seeds=0: give a whole number, from 1 to 10000"),
    ({"presets": {"paper": {"rows": "GRU"}}}, "rows='GRU': write a tuple"),
    ({"presets": {"paper": {"data": 3}}}, "data=3: not text"),
    (
      {"rows": (Row("LSTM", {"recipe.epochs": "4"}),), "compared": ()},
      "recipe.epochs='4': not a whole number",
    ),
    ({"rows": (Row("LSTM", {"recipe.epoch": 4}),), "compared": ()}, "unknown config key 'recipe.epoch'"),
    ({"rows": (Row("LSTM", {"model": "two_streem"}),), "compared": ()}, "unknown model 'two_streem'"),
    (
      {"rows": (Row("LSTM", "model.cell=conv_gru"),), "compared": ()},
      "rows[0].overrides='model.cell=conv_gru': give a dict",
    ),
    (
      {"rows": (Row("LSTM", published=85.93),), "compared": ()},
      "rows[0].published=85.93: give a number, from 0 to 1",
    ),
    ({"rows": ("LSTM",), "compared": ()}, "rows[0]='LSTM': give a Row(...)"),
    ({"base": None}, "base=None: give a RunConfig(...)"),
    ({"base": dataclasses.replace(BASE, batch_size=0)}, "batch_size=0: give a whole number"),
  ],
)
def test_values_of_a_study_are_checked_before_anything_is_trained(change, message):
  with pytest.raises(UserError) as error:
    resolve("paper", study=dataclasses.replace(STUDY, **change))
  assert str(error.value).startswith(message)


CHAIN = dataclasses.replace(
  STUDY,
  rows=(Row("first"), Row("second", {"batch_size": 8}, init_from="first"), Row("third", {"batch_size": 4})),
  compared=(("second", "first"), ("third", "first")),
)


def test_some_rows_of_a_study_alone():
  study, rows = resolve("small", "rows=('second', 'first')", study=CHAIN)
  assert [row.name for row in study.rows] == list(rows) == ["first", "second"]
  assert study.compared == (("second", "first"),)
  # An option that only an omitted row sets may be overridden.
  with pytest.raises(UserError, match="batch_size differs from row to row"):
    resolve("small", "batch_size=2", study=CHAIN)
  _, rows = resolve("small", "rows=('first',)", "batch_size=2", study=CHAIN)
  assert rows["first"].batch_size == 2
  for assignment, message in [
    ("rows=('fist',)", "unknown row 'fist': did you mean 'first'"),
    ("rows=('second',)", "'second' starts from 'first': name that too"),
    ("rows=first", "write a tuple"),
    ("rows=()", "a study needs rows"),
  ]:
    with pytest.raises(UserError, match=message):
      resolve("small", assignment, study=CHAIN)


def test_a_row_starts_from_an_earlier_one():
  later = dataclasses.replace(CHAIN, rows=(Row("second", init_from="first"), Row("first")), compared=())
  with pytest.raises(UserError, match="unknown row before 'second' to start it from 'first'"):
    resolve("small", study=later)
  torn = dataclasses.replace(
    CHAIN, rows=(Row("first"), Row("second", {}, None, "first", scratch=True)), compared=()
  )
  with pytest.raises(UserError, match="row 'second' is from scratch and starts from 'first'"):
    resolve("small", study=torn)
