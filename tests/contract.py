"""The contract of every system: one step and one evaluation give the same results on several devices as on one.

The programs that run are also checked: none may contain operations that jaxlib computes wrongly on CPU.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
import optax

from jaxfer.data.plan import Plan
from jaxfer.train import placement
from jaxfer.train.stage import Stage, Variables
from jaxfer.train.state import State, variables_of, with_snapshot
from tests.compiled import reduced_products, watched

RATE = 0.1
# Relative to the largest change, or value, of an array. Sums in another order differ by about 1e-5; a mean over the
# examples of each device instead of all examples is an entirely different number.
TOLERANCE = 2e-3
# Relative to the largest value of an array, or to 1 if that is larger.
CLOSE = 2e-5
# Relative to the largest change of all arrays. The gradient of a bias before BatchNorm is zero except for rounding.
CANCELLED = 1e-5


def placements(pmap: bool = True) -> list[placement.Placement]:
  """Returns placements: one device as the reference; two members with two shards by jit; four shards by `pmap`."""
  one, *_ = devices = jax.devices()[:4]
  assert len(devices) == 4
  many = tuple(devices)
  by_pmap = [placement.Placement(many, 4, backend="pmap", alone=True)] * pmap
  return [placement.Placement((one,), alone=True), placement.Placement(many, 2), *by_pmap]


def descent(stage: Stage) -> Stage:
  """Returns the stage with plain descent; Adam would turn rounding errors of zero gradients into whole steps."""
  plain = optax.sgd(RATE)
  return dataclasses.replace(
    stage, updates=tuple(dataclasses.replace(u, optimizer=plain) for u in stage.updates)
  )


def step(
  placed: placement.Placement,
  stage: Stage,
  variables: Variables,
  data: Mapping[str, np.ndarray],
  plan: Plan,
  hparams: Mapping[str, float],
) -> Variables:
  """Returns all variables of the last member, which equals all others, after the first step of a stage."""
  columns = {name: column[:1] for name, column in plan.columns(0, 0, stage.columns).items()}
  count = placed.members
  state = placed.start(stage, placed.stack([variables] * count))
  numbers = placed.stack([{name: np.float32(value) for name, value in hparams.items()}] * count)
  keys, resident = placed.stack([jax.random.key(3)] * count), placed.place(data)
  chunk, programs = watched(lambda: placed.trainer(stage, "steps"))
  columns = {name: np.stack([column] * count, axis=1) for name, column in columns.items()}
  planned, active = placed.lay(columns, np.ones((1, count), bool))
  trainable, (_, (finite,)) = chunk(state.trainable, state.frozen, resident, keys, numbers, planned, active)
  check_products(programs)
  assert jax.device_get(finite).tolist() == [True] * count
  return placed.unstack(variables_of(State(trainable, state.frozen)), count)[-1]


def check_products(programs: Sequence[jax.stages.Compiled]) -> None:
  """Checks that the only program has no matrix product that is directly summed or maximised, see jaxlib_programs.py."""
  (program,) = programs
  found = reduced_products(program.as_text())
  assert not found, f"jaxlib 0.10.0 and 0.10.1 compute a reduction of these products wrongly on CPU: {found}"


def compare(got: Any, want: Any, before: Any = None) -> None:
  """Raises AssertionError if arrays differ by more than `TOLERANCE` of their change, or by more than `CLOSE`."""
  before = jax.tree.map(np.zeros_like, want) if before is None else before
  leaves = [[np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(tree)] for tree in (got, want, before)]
  names = [jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(want)]
  changes = [np.abs(other - old).max(initial=0) for other, old in zip(*leaves[1:], strict=True)]
  for name, change, one, other, old in zip(names, changes, *leaves, strict=True):
    # Rounding errors of sums whose terms cancel, and of the value to which a change is added.
    rounding = CANCELLED * max(changes) + 8 * np.finfo(np.float32).eps * np.abs(old).max(initial=0)
    bound = min(TOLERANCE * change + rounding, CLOSE * max(1.0, np.abs(other).max(initial=0)))
    np.testing.assert_allclose(one, other, rtol=0, atol=bound, err_msg=name)


def check_steps(
  stages: Sequence[Stage],
  variables: Variables,
  data: Mapping[str, np.ndarray],
  plan: Plan,
  hparams: Mapping[str, float],
  pmap: bool = True,
) -> None:
  """Checks the contract of training: the first step of each stage is the same on one device and on four."""
  for stage in dict.fromkeys(stages):
    one, *many = (step(placed, descent(stage), variables, data, plan, hparams) for placed in placements(pmap))
    before = with_snapshot(stage, variables)
    moved = [bool((a != b).any()) for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(before), strict=True)]
    assert any(moved), f"stage '{stage.name}' moves nothing"
    for other in many:
      compare(other, one, before)


def check_outputs(
  outputs: placement.Outputs,
  variables: Variables,
  data: Mapping[str, np.ndarray],
  hparams: Mapping[str, float],
  rows: int,
  pmap: bool = True,
) -> None:
  """Checks the contract of evaluation: the outputs of the first records are the same on one device and on four."""
  row, real = np.arange(rows, dtype=np.int32), np.arange(rows) < rows - 1
  found = []
  for placed in placements(pmap):
    count = placed.members
    numbers = placed.stack([{name: np.float32(value) for name, value in hparams.items()}] * count)
    given = placed.stack([variables] * count), numbers, placed.place(data)
    evaluate, programs = watched(lambda placed=placed: placed.evaluator(outputs))
    plan = {"row": np.stack([row] * count), "real": np.stack([real] * count)}
    found.append(np.asarray(evaluate(*given, plan))[-1, real])
    check_products(programs)
  for other in found[1:]:
    compare(other, found[0])
