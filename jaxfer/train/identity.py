"""Identifies a training, so that it resumes only from its own checkpoints."""

import dataclasses
import hashlib
import json
from collections.abc import Callable
from typing import Any

import numpy as np

from jaxfer import files
from jaxfer.data.plan import Plan
from jaxfer.train import weights
from jaxfer.train.members import Training


@dataclasses.dataclass(frozen=True)
class Identity:
  """Identifies a training, so that it resumes only from its own checkpoints.

  Attributes:
    record: everything that determines the training, as JSON. It is saved in each checkpoint.
    differences: function of a saved record that returns the keys in which it differs from `record`.
    revision: version of the program that saves the checkpoint. If another version cannot read the checkpoint, its error
      message names this version.
  """

  record: dict[str, Any]
  differences: Callable[[dict[str, Any]], list[str]]
  revision: str = "unknown"


def digest(plan: Plan) -> str:
  """Returns a string that identifies a plan by its indices, batch size, remainder and seed."""
  rows = hashlib.sha256(np.ascontiguousarray(plan.rows, np.int64).tobytes()).hexdigest()
  return f"{rows[:16]} {plan.batch_size} {plan.remainder} {list(plan.seed)}"


def identity_of(training: Training) -> Identity:
  """Returns the identity of a training, which its checkpoints must have."""
  stages, members, record, revision = training.stages, training.members, training.record, training.revision
  digests = {id(m.initial): weights.digest(m.initial) for m in members if m.initial is not None}
  starts = {m.name: digests.get(id(m.initial)) for m in members}
  now = {
    "record": json.loads(files.to_json(record)),
    "starts": starts,
    "stages": [[stage.name, stage.epochs] for stage in stages],
    **{
      f"member {m.name}": {"seed": m.seed, "plan": digest(m.plan), "hparams": files.plain(m.hparams)}
      for m in members
    },
  }

  def differences(before):
    other = {m.origin for m in members if before.get("starts", {}).get(m.name) != starts[m.name]}
    keys = sorted({*before, *now} - {"starts"})
    return [f"the weights of {origin}" for origin in sorted(other)] + [
      key for key in keys if before.get(key) != now.get(key)
    ]

  return Identity(now, differences, revision)
