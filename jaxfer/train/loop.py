"""A training alone: runs its stages on the given devices, and reads back where it stands."""

import contextlib
import dataclasses
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from jaxfer import config as configuration
from jaxfer.data.plan import Plan
from jaxfer.errors import UserError
from jaxfer.train import weights
from jaxfer.train.checkpoint import Checkpoints, exists
from jaxfer.train.drive import Group, Identity, drive, restore
from jaxfer.train.placement import Placement
from jaxfer.train.stage import Stage, Variables
from jaxfer.train.state import variables_of


@dataclasses.dataclass(frozen=True)
class Training:
  """What is trained.

  Attributes:
    stages: in order; a repeated stage stands here as often as it runs.
    init: typed key -> variables.
    data: arrays, [n, ...] each, that are resident on the devices; or a `Stream`, for devices with `streamed`.
    plan: the batches of training rows.
    hyper: numbers that the stages read by name.
    start: submodules, whole or in part, that take the place of those of `init`, such as pre-trained ones.
    watch: (variables, `feed.placed` data) -> rows of metrics such as {"split": "validation", "accuracy": 0.8},
      asked for after each epoch.
    judge: likewise, at the end of each stage that is to be judged.
  """

  stages: tuple[Stage, ...]
  init: Callable[[jax.Array], Variables]
  data: Mapping[str, np.ndarray]
  plan: Plan
  hyper: Mapping[str, float]
  start: Variables | None = None
  watch: Callable[[Variables, Mapping[str, jax.Array]], list[dict[str, Any]]] | None = None
  judge: Callable[[Variables, Mapping[str, jax.Array]], list[dict[str, Any]]] | None = None


def restore_variables(
  training: Training, placement: Placement, workdir: pathlib.Path
) -> tuple[Variables, dict]:
  """The variables, on the host, and meta data of the newest checkpoint of a work directory.

  Raises:
    UserError: there is none, or it is damaged.
  """
  with contextlib.closing(Checkpoints(workdir)) as checkpoints:
    state, meta = restore(checkpoints, training, placement, workdir)
  return placement.unstack(variables_of(state), 1)[0], meta


def run(
  training: Training,
  config: configuration.RunConfig,
  placement: Placement,
  workdir: pathlib.Path,
  *,
  resume: bool = False,
  revision: str = "unknown",
) -> Variables:
  """Trains, or goes on with a training, and returns the variables at its end, on the host.

  Writes to `workdir`: `metrics.jsonl`, a row an epoch and split, the same numbers however often the training was
  stopped; `timing.jsonl`; `checkpoints/`.

  Raises:
    UserError: the directory holds a run and `resume` is not asked for, or one of another configuration; a checkpoint
      is damaged; the loss or a gradient is not finite (names stage, epoch and step).
    Interrupted: SIGTERM or SIGINT came; the state is saved.
  """

  def alone(ask):
    return None if ask is None else lambda variables, data: [ask(variables, data)]

  group = Group(
    training.stages,
    training.init,
    training.data,
    (config.seed,),
    (training.plan,),
    (training.hyper,),
    training.plan.steps,
    alone(training.watch),
    alone(training.judge),
    starts=[] if training.start is None else [training.start],
  )
  start = None if training.start is None else weights.digest(training.start)
  record = {**configuration.identity(config), "start": start}

  def differences(before):
    keys = configuration.tree_differences({k: v for k, v in before.items() if k != "execution"}, record)
    return [f"the weights in {config.init_from}" if key == "start" else key for key in keys]

  identity = Identity(record, differences, revision)
  if exists(workdir) and not resume:
    raise UserError(f"{workdir} already holds a run: go on with --resume, or choose another --workdir")
  state, _ = drive(group, config.execution, placement, workdir, identity)
  return placement.unstack(variables_of(state), 1)[0]
