import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfer.study.task import with_dtype
from jaxfer.systems import SYSTEMS
from jaxfer.train.stage import Context
from jaxfer.train.state import begin
from jaxfer.train.step import planned_step
from tests import small_systems


def device(platform, capability=None):
  own = {} if capability is None else {"compute_capability": capability}
  return types.SimpleNamespace(platform=platform, **own)


@pytest.mark.parametrize("agrees", [True, False])
@pytest.mark.parametrize(
  ("on", "fast"),
  [
    (device("cpu"), False),
    (device("tpu"), True),
    (device("gpu", "9.0"), True),
    (device("gpu", "12.0"), True),
    (device("gpu", "7.5"), False),
    (device("gpu", "gfx90a"), True),
  ],
  ids=str,
)
def test_auto_is_bfloat16_on_devices_that_multiply_it_fast_if_the_accuracy_agrees(
  on, fast, agrees, monkeypatch
):
  monkeypatch.setattr("jax.devices", lambda: [on])
  monkeypatch.setattr(type(SYSTEMS["elderly_transfer"]), "bfloat16", agrees)
  config = small_systems.SYSTEMS["elderly_transfer"]
  assert config.dtype == "auto"
  assert with_dtype(config).dtype == ("bfloat16" if fast and agrees else "float32")
  for dtype in ("float32", "bfloat16"):
    given = dataclasses.replace(config, dtype=dtype)
    assert with_dtype(given) == given


@pytest.mark.parametrize("name", small_systems.SYSTEMS)
def test_in_bfloat16_the_state_and_the_losses_stay_float32(name):
  task = small_systems.made(name, "dtype=bfloat16")
  data = {key: np.asarray(array[:1]) for key, array in task.data.items()}
  rows = np.arange(8, dtype=np.int32)
  stages, hparams = task.stages(1)
  context = Context({key: jnp.float32(value) for key, value in {**hparams, **task.hparams(1, rows)}.items()})
  variables = jax.eval_shape(task.init, jax.random.key(0))
  for stage in stages:
    plan = {column: rows for column in ("row", "position", *stage.columns)}
    begun = jax.eval_shape(lambda variables, stage=stage: begin(stage, variables), variables)
    trainable, metrics = jax.eval_shape(
      lambda state, plan, stage=stage: planned_step(
        stage, state, data, plan, jnp.ones((), bool), jax.random.key(0), context
      ),
      begun,
      plan,
    )
    for path, leaf in jax.tree.leaves_with_path((trainable, metrics)):
      assert leaf.dtype in (jnp.float32, jnp.int32, bool, jnp.uint32), jax.tree_util.keystr(path)
