"""Figures of paper 002: where both nets look, in successes and failures (Tables 9, 10), and cases of Table 11."""

import functools
import pathlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxfer.explain import grad_cam
from jaxfer.models.landmark_fusion import Outputs
from jaxfer.report import cams
from jaxfer.train.stage import Variables

if TYPE_CHECKING:
  from jaxfer.experiments.task import Task

# Of Table 9, and truth and prediction of Table 10; where a net makes no such mistake, any other.
_SUCCESSES = ("surprise", "happiness", "sadness")
_FAILURES = (("disgust", "anger"), ("surprise", "disgust"), ("happiness", "neutral"))
# Whether landmark net, RGB net and both are right, as in the rows of Table 11.
_KINDS = {
  (True, False, True): "the landmarks help",
  (True, True, True): "all are right",
  (False, False, True): "only together",
  (True, False, False): "the landmarks are not heard",
}


def figures(
  task: "Task", variables: Variables, tested: np.ndarray, folder: pathlib.Path
) -> Mapping[str, str]:
  """`cams.png` and `cases.png`, of the proposed fusion: both weights, and the RGB net as it was given.

  Grad-CAM++ (specs 0.4, 3.7) of the class that each net predicts: the RGB net at the output of layer4, the landmark
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
  names = task.records.label_names
  said = {net: np.argmax(getattr(outputs, net), -1) for net in ("landmark", "rgb", "fused")}
  labels = task.data["label"][tested]
  draw = functools.partial(_draw, task, variables, tested, said, labels, names)
  drawn = {}
  if chosen := _examples(said["fused"], labels, names):
    draw(chosen, folder / "cams.png", "Where both nets look: classes found, then mistaken")
    drawn["cams.png"] = (
      "Grad-CAM++ of tested pictures that the fusion names rightly (surprise, happiness, sadness), then of mistakes, "
      "those of the paper's Table 10 where there are any: red where a net finds the class that it predicts."
    )
  kinds = {kind: k for k in range(len(labels) - 1, -1, -1) if (kind := _kind(said, labels, k)) in _KINDS}
  if kinds:
    draw([kinds[kind] for kind in _KINDS if kind in kinds], folder / "cases.png", "Cases of Table 11")
    missing = [words for kind, words in _KINDS.items() if kind not in kinds]
    drawn["cases.png"] = (
      "The first tested picture of each kind of the paper's Table 11: "
      + "; ".join(words for kind, words in _KINDS.items() if kind in kinds)
      + (f". No picture was found where {', or where '.join(missing)}." if missing else ".")
    )
  return drawn


def _kind(said: Mapping[str, np.ndarray], labels: np.ndarray, k: int) -> tuple[bool, bool, bool]:
  return (
    bool(said["landmark"][k] == labels[k]),
    bool(said["rgb"][k] == labels[k]),
    bool(said["fused"][k] == labels[k]),
  )


def _outputs(task: "Task", variables: Variables, tested: np.ndarray) -> Outputs:
  """What the nets say of the tested rows, in batches of their order, padding masked."""
  from jaxfer.data.plan import evaluation

  weight = jnp.float32(task.stages(1)[1]["w"])

  @jax.jit
  def compute(image, heatmap, real):
    return task.model.apply(variables, image, heatmap, weight, mask=real)

  parts = []
  for plan in evaluation(tested, task.test_batch):
    image, heatmap, _ = task.experiment.inputs(task.model, task.experiment.example(task.data, plan["row"]))
    parts.append(jax.device_get(compute(image, heatmap, plan["real"])))
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


def _draw(
  task: "Task",
  variables: Variables,
  tested: np.ndarray,
  said: Mapping[str, np.ndarray],
  labels: np.ndarray,
  names: Sequence[str],
  chosen: Sequence[int],
  path: pathlib.Path,
  title: str,
) -> None:
  rows = tested[np.asarray(chosen)]
  batch = task.experiment.example(task.data, rows)
  image, heatmap, weight = task.experiment.inputs(task.model, batch)
  settings: Any = task.model
  model = settings.clone(affinity="alone")

  def look(net: str, path: tuple[str, ...], side: Any) -> np.ndarray:
    @jax.jit
    def maps(image, heatmap, classes):
      logits_of = lambda *inputs: getattr(model.apply(variables, *inputs), net)  # noqa: E731
      found = grad_cam.class_activations(logits_of, (image, heatmap, weight), path, classes, side=side)
      return grad_cam.over_picture(grad_cam.grad_cam_plus_plus(*found), *image.shape[1:3])

    return np.asarray(maps(image, heatmap, jnp.asarray(said[net][np.asarray(chosen)])))

  over_image = look("rgb", ("rgb", "trunk"), "output")
  over_heatmap = look("landmark", ("landmark", "conv6"), "input")
  titles = {"landmark": "landmarks", "rgb": "picture", "fused": "both"}
  cases = [
    cams.Case(
      np.asarray(batch["image"][k]).astype(np.uint8),
      np.asarray(heatmap[k, :, :, 0]),
      over_image[k],
      over_heatmap[k],
      names[labels[number]],
      {title: names[said[net][number]] for net, title in titles.items()},
    )
    for k, number in enumerate(chosen)
  ]
  cams.cams_png(cases, path, title)
