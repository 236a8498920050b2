"""Figures of paper 002: where both nets look in correct and wrong predictions (Tables 9 to 11)."""

import functools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxfer.data.plan import evaluation
from jaxfer.errors import UserError
from jaxfer.explain import grad_cam
from jaxfer.report import cams
from jaxfer.systems.explanation import ClassMaps
from jaxfer.systems.landmark_fusion import published, table
from jaxfer.systems.landmark_fusion.model import LandmarkFusion, Outputs
from jaxfer.systems.system import Task
from jaxfer.train.stage import Batch, Variables

# Classes of the successes in Table 9, and (true, predicted) classes of the failures in Table 10. Where a model makes no
# such mistake, another one is shown.
_SUCCESSES = ("surprise", "happiness", "sadness")
_FAILURES = (("disgust", "anger"), ("surprise", "disgust"), ("happiness", "neutral"))
# Descriptions of the cases of Table 11, by whether the landmark net, the RGB net and the fusion are right.
_CASES = {
  (landmark == truth, rgb == truth, fused == truth): description
  for (truth, landmark, rgb, fused), description in zip(
    published.CASES,
    (
      "only the RGB net is wrong",
      "all are right",
      "only the fusion is right",
      "only the landmark net is right",
    ),
    strict=True,
  )
}

# The nets by the fields of `Outputs`, as the figures call them.
_TITLES = {"landmark": "landmarks", "rgb": "image", "fused": "both"}

# Where Grad-CAM++ looks at each net: a submodule, and its output or its input.
_LOOKED_AT: Mapping[str, tuple[tuple[str, ...], Literal["input", "output"]]] = {
  "rgb": (("rgb", "trunk"), "output"),  # The output of layer4.
  "conv5": (("landmark", "conv6"), "input"),  # After the ReLU.
  "conv6": (("landmark", "arm"), "input"),
}


def looked_at(model: LandmarkFusion, net: str) -> tuple[tuple[str, ...], Literal["input", "output"]]:
  """Where Grad-CAM++ looks at the net "rgb" or "landmark", as the arguments of `grad_cam.class_activations`."""
  return _LOOKED_AT[model.cam if net == "landmark" else net]


def figures(task: Task, variables: Variables, indices: np.ndarray, folder: pathlib.Path) -> Mapping[str, str]:
  """Draws `cams.png` (Tables 9 and 10) and `cases.png` (Table 11) for a training of the proposed fusion.

  Both show Grad-CAM++ maps (`explain.grad_cam`) of the class that each net predicts: at the output of layer4 of the RGB
  net, and at the fifth convolution of the landmark net, which the paper's footnote names, or at the sixth
  (`model.cam`). `cases.png` also names the second and third classes of each net, by which the paper explains a case:
  two nets whose second class is the true one may find it together. The gradient takes each image
  as a batch of one, since images of one batch would mix (`layers.amend`). The predictions are those of the evaluation.

  Args:
    task: the task of the training.
    variables: the trained variables.
    indices: the test records.
    folder: an existing folder for the files.

  Returns:
    Captions by file name. Nothing is drawn for other trainings: those that answer with one net, leave out p or w, train
    the RGB net along, or have another w than the paper's best one.
  """
  model, options = task.model, task.config.recipe.options
  assert isinstance(model, LandmarkFusion)
  proposed = model.answer == "fused" and model.confidence and model.agreement
  if not proposed or options.get("rgb") == "along" or table.trained_weight(task.config) != published.BEST_W:
    return {}
  indices = task.in_order(indices)
  outputs = _outputs(task, variables, indices)
  predicted = {net: np.argmax(getattr(outputs, net), -1) for net in ("landmark", "rgb", "fused")}
  labels = task.data["label"][indices]
  examples = _examples(predicted["fused"], labels, task.records.label_names)
  cases = _cases(predicted, labels)
  chosen = sorted({*examples, *cases.values()})
  if not chosen:
    return {}
  at = np.asarray(chosen)
  own = {net: classes[at] for net, classes in predicted.items()}
  drawings = dict(zip(chosen, _drawings(task, variables, indices[at], own), strict=True))
  names = task.records.label_names
  more = {title: further(getattr(outputs, net), names) for net, title in _TITLES.items()}
  captions = {}
  if examples:
    title = "Where both nets look: correct predictions, then mistakes"
    cams.cams_png([drawings[k] for k in examples], folder / "cams.png", title)
    captions["cams.png"] = (
      "Grad-CAM++ of test images that the fusion classifies correctly (surprise, happiness, sadness), then of images "
      "that it mistakes, if possible as in the paper's Table 10. Red marks where a net finds the class it predicts."
    )
  if cases:
    rows = [
      drawings[k]._replace(further={title: own[k] for title, own in more.items()}) for k in cases.values()
    ]
    cams.cams_png(rows, folder / "cases.png", "Cases of Table 11")
    captions["cases.png"] = _cases_caption(list(cases))
  return captions


def _cases_caption(found: Sequence[str]) -> str:
  """The caption of `cases.png` from the descriptions of the cases that were found."""
  missing = [description for description in _CASES.values() if description not in found]
  shown = f"The first test image of each case of the paper's Table 11: {'; '.join(found)}. "
  shown += "Below the class that a net predicts are its second and third classes, with their probabilities."
  return shown + (f" No test image shows these cases: {'; '.join(missing)}." if missing else "")


def _cases(predicted: Mapping[str, np.ndarray], labels: np.ndarray) -> dict[str, int]:
  """The first test record of each case of Table 11 by the case's description, in the order of the table.

  Args:
    predicted: the class [n] that each net predicts, by the fields of `Outputs`.
    labels: [n] true classes.

  Returns:
    Positions in `labels`; cases that no record shows are left out.
  """
  right = np.stack([predicted[net] == labels for net in ("landmark", "rgb", "fused")], 1)
  first: dict[str, int] = {}
  for k, case in enumerate(map(tuple, right.tolist())):
    if case in _CASES:
      first.setdefault(_CASES[case], k)
  return {description: first[description] for description in _CASES.values() if description in first}


def further(logits: np.ndarray, names: Sequence[str]) -> list[list[tuple[str, float]]]:
  """The second and third most likely classes of each record, if there are as many, with their probabilities.

  Args:
    logits: [n, classes].
    names: name of each class.
  """
  probabilities = np.asarray(jax.nn.softmax(logits))
  places = np.argsort(-probabilities, -1, kind="stable")[:, 1:3]
  return [
    [(names[k], float(own[k])) for k in order] for own, order in zip(probabilities, places, strict=True)
  ]


def _batch(task: Task, indices: np.ndarray) -> Batch:
  """Returns the batch of some records, which are gathered first because the data may be on disk."""
  part = {name: array[indices] for name, array in task.data.items()}
  return task.system.eval_batch(part, np.arange(len(indices)))


def _outputs(task: Task, variables: Variables, indices: np.ndarray) -> Outputs:
  """The model's outputs for these records, [n, ...], in the batches of the evaluation."""
  weight = task.stages(1)[1]["w"]

  @jax.jit
  def compute(variables: Variables, batch: Batch, real: jax.Array) -> Any:
    inputs = task.system.inputs(task.model, batch)
    return task.model.apply(variables, *inputs, jnp.float32(weight), mask=real)

  parts = [
    jax.device_get(compute(variables, _batch(task, plan["row"]), plan["real"]))
    for plan in evaluation(indices, task.test_batch)
  ]
  joined = jax.tree.map(lambda *arrays: np.concatenate(arrays)[: len(indices)], *parts)
  assert isinstance(joined, Outputs)
  return joined


def _examples(predicted: np.ndarray, labels: np.ndarray, names: Sequence[str]) -> list[int]:
  """Positions of up to three correct predictions and three mistakes: the first of each kind of Tables 9 and 10.

  Args:
    predicted: [n] predicted classes.
    labels: [n] true classes.
    names: name of each class.
  """

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


def _drawings(
  task: Task, variables: Variables, indices: np.ndarray, predicted: Mapping[str, np.ndarray]
) -> list[cams.Case]:
  """The maps of both nets for these records, where `predicted` holds the class [n] that each net predicts."""
  model, names = task.model, task.records.label_names
  assert isinstance(model, LandmarkFusion)
  alone = model.clone(affinity="alone")
  batch = _batch(task, indices)
  image, heatmap = task.system.inputs(model, batch)
  over_image, over_heatmap = (
    np.asarray(_cam(alone, net, variables, image, heatmap, jnp.asarray(predicted[net])))
    for net in ("rgb", "landmark")
  )
  return [
    cams.Case(
      np.asarray(batch["image"][k]).astype(np.uint8),
      np.asarray(heatmap[k, :, :, 0]),
      over_image[k],
      over_heatmap[k],
      names[int(batch["label"][k])],
      {title: names[predicted[net][k]] for net, title in _TITLES.items()},
    )
    for k in range(len(indices))
  ]


def explanation(task: Task, variables: Variables, layer: str | None) -> ClassMaps:
  """Returns Grad-CAM++ of the class that the RGB net predicts, at the output of layer4 if no layer is named.

  The landmark net is not shown, because photographs come without landmarks.

  Raises:
    UserError: the model answers with the landmark net.
  """
  model = task.system.for_single_records(task.model, variables)
  if model.answer == "landmark":
    raise UserError(
      "this model answers with its landmark net, and no detector here gives landmarks: to explain photographs, train "
      "with model.answer=fused or rgb"
    )
  note = "no detector here gives the landmarks that this model needs: shown is its RGB net alone, with its own classes"

  def logits_of(batch: Batch) -> jax.Array:
    outputs: Outputs = model.apply(variables, *task.system.inputs(model, batch))
    return outputs.rgb

  default = "/".join(_LOOKED_AT["rgb"][0])
  note = "" if model.answer == "rgb" else note
  return ClassMaps(logits_of, task.records.label_names, layer, default, part="rgb", note=note)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _cam(
  model: LandmarkFusion,
  net: str,
  variables: Variables,
  image: jax.Array,
  heatmap: jax.Array,
  classes: jax.Array,
) -> jax.Array:
  """Where a net finds these classes [batch] in its input: maps [batch, size, size] in [0, 1]."""

  def logits_of(image: jax.Array, heatmap: jax.Array) -> jax.Array:
    outputs: Any = model.apply(variables, image, heatmap)
    return getattr(outputs, net)

  path, side = looked_at(model, net)
  found = grad_cam.class_activations(logits_of, (image, heatmap), path, classes, side=side)
  return grad_cam.over_picture(grad_cam.grad_cam_plus_plus(*found), *image.shape[1:3])
