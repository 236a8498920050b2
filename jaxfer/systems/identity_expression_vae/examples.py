"""Example images of a trained model with two codes: swapped expressions (Fig. 4) and an interpolation (Fig. 5).

Each training stores its examples in a file, from which a study draws the figures that compare its variants.
"""

import dataclasses
import enum
import pathlib
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxfer import files
from jaxfer.errors import UserError
from jaxfer.systems.identity_expression_vae import code_metrics
from jaxfer.systems.identity_expression_vae.model import IdentityExpressionVAE
from jaxfer.systems.system import Options, Task
from jaxfer.train.stage import Variables

# File of the examples in the folder of a training.
FILE = "made.npz"
IDENTITIES, STEPS = 5, 8
EXPRESSIONS = ("happiness", "surprise", "anger", "sadness")
# The expressions at both ends of the interpolation, those of the paper's Fig. 5.
ENDS = ("happiness", "sadness")


class Method(enum.StrEnum):
  """The methods with two codes, in the order in which figures show them."""

  CONVENTIONAL = "conventional"
  ADVERSARIAL = "with L_gan"
  BOTH = "both losses"
  ITERATED = "iterated"

  @classmethod
  def of(cls, options: Options) -> "Method":
    """Returns the method of a recipe, from the options that its config sets."""
    if options.get("iterated", False):
      return cls.ITERATED
    if options.get("switch", True):
      return cls.BOTH
    return cls.ADVERSARIAL if options.get("adversarial", True) else cls.CONVENTIONAL


@dataclasses.dataclass(frozen=True)
class SwapGrid:
  """Images with swapped codes. All images are uint8.

  Attributes:
    identities: [columns, S, S, 3] images that give the identity codes.
    expressions: [rows, S, S, 3] images that give the expression codes.
    swaps: [rows, columns, S, S, 3] images decoded from both.
  """

  identities: np.ndarray
  expressions: np.ndarray
  swaps: np.ndarray


@dataclasses.dataclass(frozen=True)
class Interpolation:
  """Images between two expressions. All images are uint8.

  Attributes:
    source: [S, S, 3] image that gives the identity code, and the expression code at the beginning.
    target: [S, S, 3] image that gives the expression code at the end.
    between: [steps, S, S, 3] images decoded from expression codes at equal distances, both ends included.
  """

  source: np.ndarray
  target: np.ndarray
  between: np.ndarray


@dataclasses.dataclass(frozen=True)
class Examples:
  """The examples of a training.

  Attributes:
    method: the method.
    test: swaps of test people.
    train: swaps of training people.
    interpolation: from one test person to another.
  """

  method: Method
  test: SwapGrid
  train: SwapGrid
  interpolation: Interpolation

  @property
  def size(self) -> int:
    """Height and width of the images in pixels."""
    return len(self.interpolation.source)

  @property
  def label(self) -> str:
    """Label of the images in a figure: the method, and the image size in pixels."""
    return f"{self.method} ({self.size})"

  def save(self, path: pathlib.Path) -> None:
    """Writes the examples into an NPZ file."""
    arrays = {"method": np.asarray(self.method.value), **vars(self.interpolation)}
    for side, grid in (("test", self.test), ("train", self.train)):
      arrays |= {f"{side} {name}": images for name, images in vars(grid).items()}
    files.write_atomic(path, lambda file: np.savez_compressed(file, **arrays))


def load(path: pathlib.Path) -> Examples:
  """Reads examples that `Examples.save` wrote.

  Raises:
    UserError: the file is damaged.
  """
  try:
    # NumPy would leave a damaged file open.
    with path.open("rb") as file, np.load(file) as arrays:
      test, train = (
        SwapGrid(**{field.name: arrays[f"{side} {field.name}"] for field in dataclasses.fields(SwapGrid)})
        for side in ("test", "train")
      )
      ends = {field.name: arrays[field.name] for field in dataclasses.fields(Interpolation)}
      return Examples(Method(str(arrays["method"])), test, train, Interpolation(**ends))
  except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
    fix = f"remove it and {path.with_name('result.json')}, and run the study again with --resume"
    raise UserError(f"{path} is damaged ({error}): {fix}") from None


def make(task: Task, variables: Variables, train_indices: np.ndarray, test_indices: np.ndarray) -> Examples:
  """Decodes the examples of a training. Arguments are those of `System.figures`.

  Images of training people are those on which they are evaluated. Their training images show the labelled expression in
  some frames only.
  """
  at_peak = code_metrics.recognition_indices(task, train_indices)
  return Examples(
    method=Method.of(task.config.recipe.options),
    test=_swap(task, variables, test_indices),
    train=_swap(task, variables, at_peak if len(at_peak) else train_indices),
    interpolation=_interpolate(task, variables, test_indices),
  )


def images_of(task: Task, indices: Any) -> np.ndarray:
  """Returns the images [n, S, S, 3], uint8, of records."""
  return np.asarray(task.data["image"][np.asarray(indices)])


def to_bytes(images: np.ndarray) -> np.ndarray:
  """Converts images in [0, 1] to uint8."""
  return (255 * np.clip(images, 0, 1)).round().astype(np.uint8)


def _first(indices: np.ndarray, labels: np.ndarray, label: int) -> int:
  """Returns the first index with this label, or the first of all if there is none."""
  with_label = indices[labels[indices] == label]
  return int(with_label[0] if len(with_label) else indices[0])


def _labels(task: Task, names: Sequence[str]) -> list[int]:
  """Returns the labels with these names. A name that the data do not have is replaced by one of theirs."""
  known = list(task.records.label_names)
  return [known.index(name) if name in known else k % len(known) for k, name in enumerate(names)]


def _people(task: Task, indices: np.ndarray) -> list[np.ndarray]:
  """Groups indices by person, in the order of the people's numbers."""
  subject = np.asarray(task.data["subject"])
  return [indices[subject[indices] == person] for person in np.unique(subject[indices])]


def _swap(task: Task, variables: Variables, indices: np.ndarray) -> SwapGrid:
  """Swaps expressions between people.

  The identities are neutral images of the first people. Each expression is an image of another person, the last people
  if there are enough.
  """
  model: Any = task.model
  labels, people = np.asarray(task.data["label"]), _people(task, indices)
  (neutral,) = _labels(task, ("neutral",))
  identities = [_first(of_person, labels, neutral) for of_person in people[:IDENTITIES]]
  from_last = people[::-1]
  expressions = [
    _first(from_last[k % len(from_last)], labels, label) for k, label in enumerate(_labels(task, EXPRESSIONS))
  ]
  of_identities = code_metrics.encode(task, variables, np.asarray(identities), told=False)
  of_expressions = code_metrics.encode(task, variables, np.asarray(expressions), told=False)
  swaps = decode_swaps(model, variables, of_identities, of_expressions)
  return SwapGrid(images_of(task, identities), images_of(task, expressions), swaps)


def decode_swaps(
  model: IdentityExpressionVAE, variables: Variables, identities: np.ndarray, expressions: np.ndarray
) -> np.ndarray:
  """Decodes every expression with every identity.

  Args:
    model: the model.
    variables: its variables.
    identities: [columns, z_i | z_e] codes that give the identity.
    expressions: [rows, z_i | z_e] codes that give the expression.

  Returns:
    [rows, columns, S, S, 3] images, uint8.
  """
  codes = [
    code_metrics.swapped(model, identities, np.broadcast_to(code, identities.shape)) for code in expressions
  ]
  images = code_metrics.decode(model, variables, np.concatenate(codes))
  return to_bytes(images).reshape(len(expressions), len(identities), *images.shape[1:])


def decode_between(
  model: IdentityExpressionVAE, variables: Variables, source: np.ndarray, target: np.ndarray
) -> np.ndarray:
  """Decodes z_e = (1 - t) source + t target with z_i of the source, for `STEPS` values of t from 0 to 1.

  Args:
    model: the model.
    variables: its variables.
    source: [z_i | z_e] code.
    target: [z_i | z_e] code.

  Returns:
    [steps, S, S, 3] images, uint8.
  """
  t = np.linspace(0, 1, STEPS)[:, None]
  both = (1 - t) * source + t * target
  codes = code_metrics.swapped(model, np.broadcast_to(source, both.shape), both).astype(np.float32)
  return to_bytes(code_metrics.decode(model, variables, codes))


def _interpolate(task: Task, variables: Variables, indices: np.ndarray) -> Interpolation:
  """Interpolates from the first to the last person: z_e = (1 - t) source + t target, with z_i of the source."""
  model: Any = task.model
  labels, people = np.asarray(task.data["label"]), _people(task, indices)
  start, end = _labels(task, ENDS)
  ends = [_first(people[0], labels, start), _first(people[-1], labels, end)]
  source, target = code_metrics.encode(task, variables, np.asarray(ends), told=False)
  source_image, target_image = images_of(task, ends)
  return Interpolation(source_image, target_image, decode_between(model, variables, source, target))


def by_label(named: Sequence[tuple[str, Examples]]) -> Mapping[str, Examples]:
  """Orders the examples of variants by method and size, and labels them for a figure.

  The label is that of the examples. If several variants have the same one, the names of the variants replace the method
  in it.

  Args:
    named: the name of each variant and its examples.
  """
  methods = list(Method)
  ordered = sorted(named, key=lambda pair: (methods.index(pair[1].method), pair[1].size))
  labels = [stored.label for _, stored in ordered]
  return {
    stored.label if labels.count(stored.label) == 1 else f"{name} ({stored.size})": stored
    for name, stored in ordered
  }
