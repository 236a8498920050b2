"""Evaluates the members of a group on their validation and test examples."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxfer.data.plan import evaluation as evaluation_batches
from jaxfer.train.members import Evaluation, Member, Result
from jaxfer.train.placement import Placement
from jaxfer.train.prefetch import prefetch
from jaxfer.train.stage import Variables
from jaxfer.train.state import State, variables_of


class Evaluator:
  """Evaluates the members of a group on their validation and test examples."""

  def __init__(
    self,
    evaluation: Evaluation | None,
    placement: Placement,
    data: Mapping[str, Any],
    members: Sequence[Member],
  ):
    self.evaluation, self.placement, self.data, self.members = evaluation, placement, data, members
    self.hparams = placement.stack_hparams([m.hparams for m in members])

  def validate(self, variables: Variables, data: Mapping[str, Any]) -> list[list[dict[str, Any]]]:
    """Returns for each member a list with its validation metrics, or an empty list without validation examples."""
    return self._metrics("validation", variables, data, [m.validation for m in self.members])

  def test(self, variables: Variables, data: Mapping[str, Any]) -> list[list[dict[str, Any]]]:
    """Returns for each member a list with its test metrics, or an empty list without test examples."""
    return self._metrics("test", variables, data, [m.test for m in self.members])

  def _metrics(
    self, split: str, variables: Variables, data: Mapping[str, Any], indices: Sequence[np.ndarray]
  ) -> list[list[dict[str, Any]]]:
    assert self.evaluation is not None
    outputs = _outputs(self.evaluation, self.placement, variables, self.hparams, data, indices)
    return [
      [{"split": split, **self.evaluation.evaluate(out, own)}] if len(own) else []
      for out, own in zip(outputs, indices, strict=True)
    ]

  def results(
    self, state: State, failed: Mapping[int, str], history: Sequence[dict[str, Any]]
  ) -> list[Result]:
    """Returns each member's result, computed from the final state of the group."""
    members, own = self.members, variables_of(state)
    outputs: Sequence[np.ndarray | None] = [None] * len(members)
    shuffled: Sequence[np.ndarray | None] = [None] * len(members)
    validation: Sequence[np.ndarray | None] = [None] * len(members)
    if self.evaluation is not None:
      indices = [m.test for m in members]
      outputs = _outputs(self.evaluation, self.placement, own, self.hparams, self.data, indices)
      if self.evaluation.validation:
        validated = [m.validation for m in members]
        validation = _outputs(self.evaluation, self.placement, own, self.hparams, self.data, validated)
      if self.evaluation.shuffled:
        orders = [np.random.default_rng(0).permutation(len(own)) for own in indices]
        drawn = [own[order] for own, order in zip(indices, orders, strict=True)]
        mixed = _outputs(self.evaluation, self.placement, own, self.hparams, self.data, drawn)
        shuffled = [out[np.argsort(order)] for out, order in zip(mixed, orders, strict=True)]
    return [
      Result(
        member,
        self.placement.whole(variables),
        failed.get(k),
        [row for row in history if row.get("member", "") == member.name],
        outputs[k],
        shuffled[k],
        validation[k],
      )
      for k, (member, variables) in enumerate(
        zip(members, self.placement.unstack(own, len(members)), strict=True)
      )
    ]


def _outputs(
  evaluation: Evaluation,
  placement: Placement,
  variables: Variables,
  hparams: Mapping[str, jax.Array],
  data: Mapping[str, jax.Array],
  indices: Sequence[np.ndarray],
) -> list[np.ndarray]:
  """Returns each member's outputs for its own examples. Members may have different numbers of examples."""
  count = -(-max(1, *map(len, indices)) // evaluation.batch_size)
  batches = [evaluation_batches(own, evaluation.batch_size, count) for own in indices]
  compiled = placement.evaluator(evaluation.outputs)
  plans = [
    {name: np.stack([batch[name] for batch in same]) for name in ("row", "real")}
    for same in zip(*batches, strict=True)
  ]
  parts = [compiled(variables, hparams, window, plan) for window, plan in prefetch(placement, data, plans)]
  whole = np.concatenate(placement.fetch(parts), axis=1)
  return [whole[k, : len(own)] for k, own in enumerate(indices)]
