"""Tables and figures of a study of paper 003: Table 3, Fig. 3, and tables of values that the paper does not measure."""

import itertools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxfer.report import plots
from jaxfer.report.tables import Cell, Table
from jaxfer.systems.identity_expression_vae import code_metrics, published
from jaxfer.systems.identity_expression_vae import figures as training_figures
from jaxfer.systems.prediction import Prediction
from jaxfer.systems.system import History, Variants

Variant = Mapping[str, Any]


def after_round(number: int) -> str:
  """Returns the name of the summary that holds the accuracy after a round. The first round has number 1."""
  return f"test accuracy (%) after round {number}"


def summaries(
  histories: Sequence[History], predictions: Sequence[Mapping[str, Prediction]]
) -> dict[str, list[float]]:
  """Returns divergences and accuracies by name, with one value per training.

  There is the divergence of the posterior from the prior for each stage, in nat, in its last epoch; and the accuracy
  after each round, in percent.

  Args:
    histories: the metrics of each training.
    predictions: not used.
  """
  del predictions
  found: dict[str, list[float]] = {}
  for history in histories:
    for metrics in {row["stage"]: row for row in history if row["split"] == "train"}.values():
      divergence = metrics.get("kl", metrics.get("generator/kl"))
      if divergence is not None:
        found.setdefault(f"nat of stage {metrics['stage']}", []).append(divergence)
    rounds = [row["accuracy"] for row in history if row["split"] == "test"]
    for number, accuracy in enumerate(rounds, 1):
      found.setdefault(after_round(number), []).append(100 * accuracy)
  return found


def tables(variants: Variants, seeds: Sequence[int], not_trained: Variants = ()) -> list[tuple[str, Table]]:
  """Returns the tables with their titles, see `System.tables`.

  They show Table 3, linear probes of the codes, reconstruction errors, and image probes on swapped images.
  """
  del seeds, not_trained
  variants = [variant for variant in variants if variant["metrics"]]
  found = [
    (
      "Accuracy of recognition by clustering, in %, mean ± sd: Table 3 (published: over trials; ours: over seeds)",
      _recognition(variants),
    ),
    (
      "Accuracy of linear classifiers on codes, in % (subject: on other images; expression: on test people)",
      _linear_probes(variants),
    ),
    ("Reconstruction error: root mean square in grey levels, 0 to 255", _errors(variants)),
  ]
  if with_swaps := [variant for variant in variants if "subject kept in swaps, test" in variant["metrics"]]:
    found.append(
      (
        "Share of its accuracy on photographs that an image classifier keeps on images with swapped codes, in %",
        _kept_in_swaps(with_swaps),
      )
    )
  return found


def _mean(variant: Variant, metric: str, scale: float = 100) -> str | None:
  """Mean and standard deviation of a metric over trainings, in percent by default; None if it has no value."""
  values = [scale * value for value in variant["metrics"].get(metric, []) if value is not None]
  if not values:
    return None
  spread = f" ± {np.std(values, ddof=1):.1f}" if len(values) > 1 else ""
  return f"{np.mean(values):.1f}{spread}"


def _recognition(variants: Variants) -> Table:
  """Table 3. The original VAE has a second line, for its codes without the means of people."""
  lines: list[list[Cell]] = []
  for variant in variants:
    lines.append(_recognition_line(variant, variant["name"]))
    if variant["name"] == published.VAE:
      lines.append(_recognition_line(variant, published.SUBTRACTED, code_metrics.SUBTRACTED))
  sides = [[f"{side}, published", f"{side}, ours", "sd over trials"] for side in ("train", "test")]
  return ["", *sides[0], *sides[1]], lines


def _recognition_line(variant: Variant, name: str, suffix: str = "") -> list[Cell]:
  """A line of Table 3. The suffix selects metrics of codes that were changed before clustering."""
  printed = published.ROWS.get(name) if variant["comparable"] else None
  line: list[Cell] = [name]
  for side in ("train", "test"):
    accuracy: published.Percent | None = getattr(printed, side, None)
    line.append(None if accuracy is None else f"{accuracy[0]:.2f} ± {accuracy[1]:.2f}")
    if suffix and side == "test":
      # The paper does not test this: a new person's mean is not known in advance.
      line += [None, None]
    else:
      line += [_mean(variant, f"{side}{suffix}"), _mean(variant, f"{side}{suffix}, sd over trials")]
  return line


def _linear_probes(variants: Variants) -> Table:
  lines: list[list[Cell]] = []
  for variant in variants:
    for code in ("z_i", "z_e", "z"):
      accuracies = [_mean(variant, f"{target} from {code}") for target in ("subject", "expression")]
      if any(accuracies):
        lines.append([variant["name"], code, *accuracies])
  return ["", "code", "subject", "expression"], lines


def _errors(variants: Variants) -> Table:
  lines: list[list[Cell]] = [
    [variant["name"], _mean(variant, "train, error", 1), _mean(variant, "test, error", 1)]
    for variant in variants
  ]
  return ["", "training people", "test people"], lines


def _kept_in_swaps(variants: Variants) -> Table:
  """Shares of accuracy for each variant; below them, for each image size, the accuracies on photographs."""
  columns = [(target, side) for side in ("train", "test") for target in ("subject", "expression")]
  lines: list[list[Cell]] = [
    [variant["name"], *(_mean(variant, f"{target} kept in swaps, {side}") for target, side in columns)]
    for variant in variants
  ]
  # All variants with the same image size have the same classifiers. The accuracies are taken from the first one.
  by_size = {variant["data"]["image_size"]: variant for variant in reversed(variants)}
  for size, variant in sorted(by_size.items()):
    accuracies = [_mean(variant, f"{target}, photographs, {side}") for target, side in columns]
    lines.append([f"accuracy on photographs of {size} pixels", *accuracies])
  return ["", *(f"{target}, {side}" for target, side in columns)], lines


def by_round(variant: Variant) -> list[tuple[float, float | None]]:
  """Returns the accuracy after each round in percent, as mean and standard deviation over trainings.

  The deviation is None for a single training. The list is empty if the stages were not repeated.
  """
  found = variant["summaries"]
  names = itertools.takewhile(lambda name: name in found, map(after_round, itertools.count(1)))
  return [tuple(found[name]) for name in names]


def _size(variant: Variant) -> int:
  """Returns the height and width of the images in pixels."""
  size: int = variant["data"]["image_size"]
  return size


def _name_and_size(variant: Variant) -> str:
  return f"{variant['name']} ({_size(variant)} px)"


def figures(variants: Variants, folder: pathlib.Path) -> dict[str, str]:
  """Draws `rounds.png` (Fig. 3) if stages were repeated, and the figures of `figures.side_by_side`.

  Args:
    variants: see `System.tables`.
    folder: an existing folder, into which the files are written.

  Returns:
    Captions by file name.

  Raises:
    UserError: see `figures.side_by_side`.
  """
  captions = training_figures.side_by_side(variants, folder)
  curves = [(variant, curve) for variant in variants if (curve := by_round(variant))]
  if not curves:
    return captions
  single_passes = [each for each in variants if each["name"] in (published.BOTH, published.BOTH_LARGE)]
  with plots.style():
    figure = plots.new_figure(3.6)
    axes = figure.add_subplot()
    colours: dict[int, str] = {}
    for (variant, curve), colour in zip(curves, plots.COLOURS, strict=False):
      colours.setdefault(_size(variant), colour)
      rounds = np.arange(1, len(curve) + 1)
      mean = np.asarray([pair[0] for pair in curve])
      deviation = np.asarray([pair[1] or 0 for pair in curve])
      axes.plot(rounds, mean, "o-", color=colour, label=_name_and_size(variant))
      axes.fill_between(rounds, mean - deviation, mean + deviation, color=colour, alpha=0.18, linewidth=0)
      axes.set_xticks(rounds)
    for variant in single_passes:
      colour, label = colours.get(_size(variant), plots.GREY), f"{_name_and_size(variant)}, a single pass"
      axes.axhline(100 * variant["mean"], color=colour, linestyle=":", linewidth=1.5, label=label)
    axes.set_xlabel("rounds of both stages")
    axes.set_ylabel("accuracy (%)")
    figure.legend(loc="outside lower center", ncols=1)
    plots.write_png(figure, folder / "rounds.png", "Accuracy by rounds (Fig. 3 of paper 003)")
  captions["rounds.png"] = (
    "Fig. 3: accuracy of recognition for test people after each round, mean over seeds; the band is the standard "
    "deviation. Dotted lines are a single pass, in the colour of the curve with the same image size. The values of the "
    "paper cannot be read off its figure."
  )
  return captions
