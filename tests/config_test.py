import dataclasses
import pathlib

import pytest

from jaxfer import config
from jaxfer.config import Call, RunConfig, Split
from jaxfer.errors import UserError
from jaxfer.experiments.run import options_of

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


@pytest.mark.parametrize(
  ("assignment", "message"),
  [
    ("batchsize=8", "unknown config key 'batchsize': did you mean 'batch_size'"),
    ("split.folde=3", "unknown config key 'split.folde': did you mean 'split.fold'"),
    (
      "model.temporalgate=true",
      "unknown config key 'model.temporalgate': did you mean 'model.temporal_gate'",
    ),
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
def test_what_cannot_be_meant_is_refused(assignment, message):
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
  with pytest.raises(UserError, match=r"empty.py is no config"):
    config.load(tmp_path / "empty.py")


CONFIG_DIR = pathlib.Path(__file__).parents[1] / "configs"
CONFIGS = sorted(CONFIG_DIR.rglob("*.py"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_loads_and_says_how_to_run_it(path):
  loaded = config.check(config.load(path), options_of)
  assert config.from_json(config.to_json(loaded)) == loaded
  assert f"jaxfer train configs/{path.relative_to(CONFIG_DIR)}" in path.read_text()
