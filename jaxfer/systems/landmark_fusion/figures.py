"""Figures of paper 002: where both nets look, in successes and failures (Tables 9, 10), and cases of Table 11."""

import functools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxfer.data.plan import evaluation
from jaxfer.explain import grad_cam
from jaxfer.report import cams
from jaxfer.systems.landmark_fusion import published
from jaxfer.systems.landmark_fusion.model import LandmarkFusion, Outputs
from jaxfer.systems.system import Task
from jaxfer.train.stage import Batch, Variables

# Of Table 9, and truth and prediction of Table 10; where a net makes no such mistake, any other.
_SUCCESSES = ("surprise", "happiness", "sadness")
_FAILURES = (("disgust", "anger"), ("surprise", "disgust"), ("happiness", "neutral"))
# Whether landmark net, RGB net and both are right, in the rows of Table 11.
_KINDS = {
  (landmark == truth, rgb == truth, both == truth): words
  for (truth, landmark, rgb, both), words in zip(
    published.CASES,
    ("the landmarks help", "all are right", "only together", "the landmarks are not heard"),
    strict=True,
  )
}

# Submodule and side of it: the output of layer4, and the fifth convolution with its ReLU.
_LOOKED_AT: Mapping[str, tuple[tuple[str, ...], Literal["input", "output"]]] = {
  "rgb": (("rgb", "trunk"), "output"),
  "landmark": (("landmark", "conv6"), "input"),
}


def figures(
  task: Task, variables: Variables, trained: np.ndarray, tested: np.ndarray, folder: pathlib.Path
) -> Mapping[str, str]:
  """`cams.png` and `cases.png`, of the proposed fusion: both weights, and the RGB net as it was given.

  Grad-CAM++ (`explain.grad_cam`) of the class that each net predicts: the RGB net at the output of layer4, the landmark
  net at its fifth convolution, which the paper's footnote names. The gradient takes every picture as a batch of one, as
  pictures of a batch would mix otherwise (`layers.amend`); the predictions are those of the test.
  """
  model, options = task.model, task.config.recipe.options
  settings: Any = model
  plain = settings.answer == "fused" and settings.confidence and settings.agreement
  if not plain or options.get("rgb", "first") == "along" or options.get("w", 0.6) != 0.6:
    return {}
  tested = task.in_order(tested)
  outputs = _outputs(task, variables, tested)
  said = {net: np.argmax(getattr(outputs, net), -1) for net in ("landmark", "rgb", "fused")}
  labels = task.data["label"][tested]
  examples = _examples(said["fused"], labels, task.records.label_names)
  kinds = _kinds(said, labels)
  chosen = sorted({*examples, *kinds.values()})
  if not chosen:
    return {}
  at = np.asarray(chosen)
  own = {net: classes[at] for net, classes in said.items()}
  cases = dict(zip(chosen, _cases(task, variables, tested[at], own), strict=True))
  drawn = {}
  if examples:
    title = "Where both nets look: classes found, then mistaken"
    cams.cams_png([cases[k] for k in examples], folder / "cams.png", title)
    drawn["cams.png"] = (
      "Grad-CAM++ of tested pictures that the fusion names rightly (surprise, happiness, sadness), then of mistakes, "
      "those of the paper's Table 10 where there are any: red where a net finds the class that it predicts."
    )
  if kinds:
    cams.cams_png([cases[k] for k in kinds.values()], folder / "cases.png", "Cases of Table 11")
    missing = [words for words in _KINDS.values() if words not in kinds]
    drawn["cases.png"] = (
      f"The first tested picture of each kind of the paper's Table 11: {'; '.join(kinds)}"
      + (f". No picture was found where {', or where '.join(missing)}." if missing else ".")
    )
  return drawn


def _kinds(said: Mapping[str, np.ndarray], labels: np.ndarray) -> dict[str, int]:
  """The first number of each kind of Table 11 that there is, in the table's order."""
  right = np.stack([said[net] == labels for net in ("landmark", "rgb", "fused")], 1)
  first: dict[str, int] = {}
  for k, kind in enumerate(map(tuple, right.tolist())):
    if kind in _KINDS:
      first.setdefault(_KINDS[kind], k)
  return {words: first[words] for words in _KINDS.values() if words in first}


def _batch(task: Task, rows: np.ndarray) -> Batch:
  """Some rows as the model's inputs are made of; taken first, as data may lie on disk."""
  part = {name: array[rows] for name, array in task.data.items()}
  return task.system.eval_batch(part, np.arange(len(rows)))


def _outputs(task: Task, variables: Variables, tested: np.ndarray) -> Outputs:
  """What the nets say of the tested rows, in batches of their order, padding masked."""
  weight = task.stages(1)[1]["w"]

  @jax.jit
  def compute(variables: Variables, batch: Batch, real: jax.Array) -> Any:
    inputs = task.system.inputs(task.model, batch)
    return task.model.apply(variables, *inputs, jnp.float32(weight), mask=real)

  parts = [
    jax.device_get(compute(variables, _batch(task, plan["row"]), plan["real"]))
    for plan in evaluation(tested, task.test_batch)
  ]
  joined = jax.tree.map(lambda *arrays: np.concatenate(arrays)[: len(tested)], *parts)
  assert isinstance(joined, Outputs)
  return joined


def _examples(predicted: np.ndarray, labels: np.ndarray, names: Sequence[str]) -> list[int]:
  """Numbers of three successes and three failures, the first of each kind that there is."""

  def first(where: np.ndarray) -> list[int]:
    return np.flatnonzero(where)[:1].tolist()

  index = {name: k for k, name in enumerate(names)}
  chosen = []
  for name in _SUCCESSES:
    chosen += first((labels == predicted) & (labels == index.get(name, -1)))
  failures: list[int] = []
  for truth, guess in _FAILURES:
    failures += first((labels == index.get(truth, -1)) & (predicted == index.get(guess, -1)))
  others = [k for k in np.flatnonzero(labels != predicted).tolist() if k not in failures]
  return chosen + (failures + others)[:3]


def _cases(
  task: Task, variables: Variables, rows: np.ndarray, said: Mapping[str, np.ndarray]
) -> list[cams.Case]:
  """A case of each row, where `said` is the class [rows] that each net predicts."""
  settings: Any = task.model
  model, names = settings.clone(affinity="alone"), task.records.label_names
  batch = _batch(task, rows)
  image, heatmap = task.system.inputs(task.model, batch)
  over_image, over_heatmap = (
    np.asarray(_look(model, net, variables, image, heatmap, jnp.asarray(said[net])))
    for net in ("rgb", "landmark")
  )
  titles = {"landmark": "landmarks", "rgb": "picture", "fused": "both"}
  return [
    cams.Case(
      np.asarray(batch["image"][k]).astype(np.uint8),
      np.asarray(heatmap[k, :, :, 0]),
      over_image[k],
      over_heatmap[k],
      names[int(batch["label"][k])],
      {title: names[said[net][k]] for net, title in titles.items()},
    )
    for k in range(len(rows))
  ]


@functools.partial(jax.jit, static_argnums=(0, 1))
def _look(
  model: LandmarkFusion,
  net: str,
  variables: Variables,
  image: jax.Array,
  heatmap: jax.Array,
  classes: jax.Array,
) -> jax.Array:
  """Where a net finds these classes [batch], over its input: [batch, size, size] in [0, 1]."""

  def logits_of(image: jax.Array, heatmap: jax.Array) -> jax.Array:
    outputs: Any = model.apply(variables, image, heatmap)
    return getattr(outputs, net)

  path, side = _LOOKED_AT[net]
  found = grad_cam.class_activations(logits_of, (image, heatmap), path, classes, side=side)
  return grad_cam.over_picture(grad_cam.grad_cam_plus_plus(*found), *image.shape[1:3])
