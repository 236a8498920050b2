"""Figures of paper 003: swapped expressions (Fig. 4), the way between two (Fig. 5), reconstructions, a map of codes.

A training draws its own; what Figs. 4 and 5 set side by side for several methods each row's folder keeps in `made.npz`,
and the table's figures are drawn from these.
"""

import collections
import importlib.util
import pathlib
import textwrap
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxfer import files
from jaxfer.errors import UserError
from jaxfer.report import grids, swaps
from jaxfer.systems.identity_expression_vae import code_metrics
from jaxfer.systems.identity_expression_vae.model import IdentityExpressionVAE
from jaxfer.systems.system import Task
from jaxfer.train.stage import Variables

IDENTITIES, EXPRESSIONS, STEPS = 5, 4, 8
# Between the two of Fig. 5; of other labels, the first and the last.
_WAY = ("neutral", "happiness")
_SHOWN = ("happiness", "surprise", "anger", "sadness")
_NAME = 24  # Letters of a line of a row's name beside its pictures.


def method(task: Task) -> str:
  """A method and the size of its input, as a figure names it."""
  options, size = task.config.recipe.options, task.data["image"].shape[1]
  if not isinstance(task.model, IdentityExpressionVAE):
    return f"{task.config.model.name} ({size})"
  if options.get("iterated", False):
    name = "iterated"
  elif options.get("switch", True):
    name = "both losses"
  else:
    name = "with L_gan" if options.get("adversarial", True) else "conventional"
  return f"{name} ({size})"


def figures(
  task: Task, variables: Variables, trained: np.ndarray, tested: np.ndarray, folder: pathlib.Path
) -> Mapping[str, str]:
  """`reconstructions.png`, `map.png`, `map_tsne.png`; of nets with two codes `swaps.png`, `between.png`, `made.npz`."""
  drawn = {"reconstructions.png": _draw_reconstructions(task, variables, tested, folder)}
  drawn |= _draw_maps(task, variables, tested, folder)
  if not isinstance(task.model, IdentityExpressionVAE):
    return drawn
  made: dict[str, np.ndarray] = {"method": np.asarray(method(task))}
  for side, rows in (("test", tested), ("train", trained)):
    made |= {f"{side} {name}": array for name, array in _swap(task, variables, rows).items()}
  made |= _between(task, variables, tested)
  files.write_atomic(folder / "made.npz", lambda file: np.savez_compressed(file, **made))  # type: ignore[arg-type]
  _draw_swaps([made], "test", folder / "swaps.png")
  _draw_between([made], folder / "between.png")
  drawn["swaps.png"] = (
    "People whom the training never saw, with expressions read from other such people: the top row gives the identity, "
    "the left column the expression."
  )
  drawn["between.png"] = (
    "From one expression of a tested person to another one's, z_e in equal steps; the identity stays."
  )
  return drawn


def _images(task: Task, rows: Any) -> np.ndarray:
  return np.asarray(task.data["image"][np.asarray(rows)])


def _bytes(images: np.ndarray) -> np.ndarray:
  return (255 * np.clip(images, 0, 1)).round().astype(np.uint8)


def _first(rows: np.ndarray, labels: np.ndarray, label: int) -> int:
  """The first of the rows with a label, or the first of all."""
  own = rows[labels[rows] == label]
  return int(own[0] if len(own) else rows[0])


def _index(task: Task, names: Sequence[str]) -> list[int]:
  """Labels of these names, or as many of the data's own where they have others."""
  known = list(task.records.label_names)
  return [known.index(name) if name in known else k % len(known) for k, name in enumerate(names)]


def _people(task: Task, rows: np.ndarray) -> list[np.ndarray]:
  """The rows of each person, in the order of their numbers."""
  subject = np.asarray(task.data["subject"])
  return [rows[subject[rows] == who] for who in np.unique(subject[rows])]


def _swap(task: Task, variables: Variables, rows: np.ndarray) -> dict[str, np.ndarray]:
  """Images of identities [columns, ...] and expressions [rows, ...], and swaps [rows, columns, ...], uint8.

  Identities are of the first people, neutral; each expression is another person's, of the last ones where there are
  enough.
  """
  model: Any = task.model
  labels, people = np.asarray(task.data["label"]), _people(task, rows)
  neutral, *_ = _index(task, ("neutral",))
  identities = [_first(own, labels, neutral) for own in people[:IDENTITIES]]
  givers = people[::-1]
  expressions = [
    _first(givers[k % len(givers)], labels, label)
    for k, label in enumerate(_index(task, _SHOWN[:EXPRESSIONS]))
  ]
  one = code_metrics.encode(task, variables, np.asarray(identities), told=False)
  other = code_metrics.encode(task, variables, np.asarray(expressions), told=False)
  grid = [code_metrics.swapped(model, one, np.broadcast_to(own, one.shape)) for own in other]
  pictures = code_metrics.decode(model, variables, np.concatenate(grid))
  return {
    "identities": _images(task, identities),
    "expressions": _images(task, expressions),
    "swaps": _bytes(pictures).reshape(len(expressions), len(identities), *pictures.shape[1:]),
  }


def _between(task: Task, variables: Variables, rows: np.ndarray) -> dict[str, np.ndarray]:
  """Images of source and target, and [steps, ...] between them: z_e = (1 - t) source + t target, the source's z_i."""
  model: Any = task.model
  labels, people = np.asarray(task.data["label"]), _people(task, rows)
  start, end = _index(task, _WAY)
  ends = [_first(people[0], labels, start), _first(people[-1], labels, end)]
  source, target = code_metrics.encode(task, variables, np.asarray(ends), told=False)
  t = np.linspace(0, 1, STEPS)[:, None]
  way = (1 - t) * source + t * target
  found = code_metrics.swapped(model, np.broadcast_to(source, way.shape), way).astype(np.float32)
  pictures = code_metrics.decode(model, variables, found)
  source_image, target_image = _images(task, ends)
  return {"source": source_image, "target": target_image, "between": _bytes(pictures)}


def _draw_swaps(made: Sequence[Mapping[str, np.ndarray]], side: str, path: pathlib.Path) -> None:
  by_method = {str(one["method"]): one[f"{side} swaps"] for one in made}
  shown = max(made, key=lambda one: one[f"{side} identities"].shape[1])
  who = "people never seen" if side == "test" else "people learned from"
  swaps.swap_grid_png(
    shown[f"{side} identities"], shown[f"{side} expressions"], by_method, path, f"Expressions swapped, {who}"
  )


def _draw_between(made: Sequence[Mapping[str, np.ndarray]], path: pathlib.Path) -> None:
  by_method = {str(one["method"]): one["between"] for one in made}
  shown = max(made, key=lambda one: one["source"].shape[0])
  swaps.interpolation_png(shown["source"], shown["target"], by_method, path, "From one expression to another")


def side_by_side(rows: Sequence[Mapping[str, Any]], folder: pathlib.Path) -> dict[str, str]:
  """Figs. 4 and 5 of all rows of a study in `folder` that keep a `made.npz`."""
  made = []
  for row in rows:
    path = folder / row["folder"] / "made.npz"
    if path.is_file():
      try:
        with np.load(path) as arrays:
          made.append({**arrays, "row": np.asarray(row["name"])})
      except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        fix = f"remove it and {path.with_name('result.json')}, and go on with --resume"
        raise UserError(f"{path} is damaged ({error}): {fix}") from None
  if not made:
    return {}
  order = ("conventional", "with L_gan", "both losses", "iterated")
  made.sort(key=lambda one: (order.index(str(one["method"]).rpartition(" ")[0]), one["source"].shape[0]))
  # Rows of one method, as those of an ambiguity of numbers, are told apart by their own names.
  count = collections.Counter(str(one["method"]) for one in made)
  for one in made:
    if count[str(one["method"])] > 1:
      one["method"] = np.asarray(textwrap.fill(f"{one['row']} ({one['source'].shape[0]})", _NAME))
  drawn = {}
  for side in ("test", "train"):
    _draw_swaps(made, side, folder / f"swaps_{side}.png")
    who = "whom no training saw" if side == "test" else "whom the trainings learned from"
    drawn[f"swaps_{side}.png"] = (
      f"Fig. 4: people {who}. Top row: whose identity; left: whose expression; rows: methods, with the input's size in "
      "pixels, each of its first seed."
    )
  _draw_between(made, folder / "between.png")
  drawn["between.png"] = (
    "Fig. 5: the expression moves in equal steps of z_e from the source's to the target's."
  )
  return drawn


def _draw_reconstructions(task: Task, variables: Variables, tested: np.ndarray, folder: pathlib.Path) -> str:
  labels = np.asarray(task.data["label"])
  by_label = [tested[labels[tested] == label] for label in np.unique(labels[tested])]
  # Not of one person alone.
  rows = np.asarray([own[k * len(own) // len(by_label)] for k, own in enumerate(by_label)])
  pictures = code_metrics.decode(
    task.model, variables, code_metrics.encode(task, variables, rows, told=False)
  )
  both = np.stack([_images(task, rows), _bytes(pictures)])
  grids.rows_png(both, ["photograph", "decoded"], folder / "reconstructions.png", "Tested images decoded")
  return "Images of people whom the training never saw, and what is decoded from the means of their codes."


def _draw_maps(
  task: Task, variables: Variables, tested: np.ndarray, folder: pathlib.Path
) -> Mapping[str, str]:
  """Of the tested images' codes; by t-SNE where scikit-learn is installed."""
  found = code_metrics.encode(task, variables, tested, told=False)
  codes = code_metrics.expression_of(task.model, found)
  label, subject = (np.asarray(task.data[name])[tested] for name in ("label", "subject"))
  names, title = task.records.label_names, "Codes of tested images"
  points, shares = swaps.pca(codes)
  swaps.latent_map_png(points, label, subject, names, folder / "map.png", title, shares)
  drawn = {
    "map.png": "The codes that are clustered, of the tested images, on the two directions of largest variance."
  }
  if importlib.util.find_spec("sklearn"):
    swaps.latent_map_png(swaps.tsne(codes), label, subject, names, folder / "map_tsne.png", f"{title}, t-SNE")
    drawn["map_tsne.png"] = "The same by t-SNE, which keeps neighbours together and no distances."
  return drawn
