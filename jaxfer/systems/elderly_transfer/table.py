"""Tables and figures of a study of paper 004: our results beside the published ones.

The study's variants are those of `VARIANTS`: one of four nets with one of six initialisations. A variant of another
name appears only in the study's main table, in the table of differences and, if it is the best, in the table by class.
"""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxfer.report import plots
from jaxfer.report.tables import Cell, Table
from jaxfer.systems.elderly_transfer import classes, published

# The nets by the names that variants give them, and their names in `published` and in the option `model.net`.
NETS = {
  "ResNet18": "resnet18",
  "ResNet50": "resnet50",
  "Face-ResNet18": "face_resnet18",
  "Face-ResNet50": "face_resnet50",
}
# The initialisations by the names that variants give them, and their names in `published`. In the paper, objects are
# ImageNet's, expressions are AffectNet's (eight classes), and the last three are pretrained on CASIA-WebFace.
INITIALISATIONS = {
  "scratch": "scratch",
  "objects": "imagenet",
  "expressions": "affectnet8",
  "softmax": "casia_softmax",
  "cosface": "casia_cosface",
  "adaface": "casia_adaface",
}


@dataclasses.dataclass(frozen=True)
class Variant:
  """A variant of the study.

  Attributes:
    net: a key of `NETS`.
    initialisation: a key of `INITIALISATIONS`.
  """

  net: str
  initialisation: str

  @property
  def published(self) -> float | None:
    """The paper's accuracy, 0 to 1; None where the paper says that the pretraining failed."""
    correct = published.CORRECT[INITIALISATIONS[self.initialisation]][list(NETS).index(self.net)]
    return None if correct is None else correct / published.TEST_IMAGES


# By the name of the variant in the study's config.
VARIANTS: Mapping[str, Variant] = {
  f"{net}, {start}": Variant(net, start) for net in NETS for start in INITIALISATIONS
}

Row = Mapping[str, Any]  # A variant's results, see `System.tables`.
Rows = Sequence[Row]


def published_accuracy(name: str) -> float | None:
  """The paper's accuracy of the variant of this name, 0 to 1; None where it has none, or its pretraining failed."""
  return VARIANTS[name].published if name in VARIANTS else None


def tables(rows: Rows, not_trained: Rows = ()) -> list[tuple[str, Table]]:
  """The study's further tables, with their titles; arguments as for `System.tables`.

  They show the accuracy by net and initialisation, the differences that the study compares, the epochs that each
  initialisation needs, and the results by class beside those of human raters. The last is shown only for the paper's
  classes, and only if published numbers are comparable.
  """
  found = [
    (
      "Accuracy in % by net and initialisation: published (correct of 768 images) and ours",
      _grid(rows, not_trained),
    ),
    (
      "Differences in accuracy, in percentage points: published, ours with the 95 % interval over people, and whether "
      "ours agree",
      _differences(rows),
    ),
  ]
  if lines := [_epochs_line(name, epochs) for name, epochs in epochs_of(rows).items()]:
    header = [
      "", "best epoch", "accuracy % in it", "best from scratch, %", "epoch that reaches it", "by seed"
    ]  # fmt: skip
    found.append(("Epochs of fine-tuning, by the accuracy on the validation people", (header, lines)))
  if rows and rows[0]["comparable"] and classes.order(rows[0]["label_names"]):
    title = "Results by class, in %: our best model, the paper's best model, and the paper's human raters"
    found.append((title, classes.table(best_row(rows))))
    notes: list[list[Cell]] = [[note] for note in published.NOTES]
    found.append(("Notes on the paper's results by class", (["note"], notes)))
  return found


def _by_net(rows: Rows) -> dict[str, dict[str, Row]]:
  """The rows of `VARIANTS` by net and initialisation."""
  nets: dict[str, dict[str, Row]] = {}
  for row in rows:
    if variant := VARIANTS.get(row["name"]):
      nets.setdefault(variant.net, {})[variant.initialisation] = row
  return nets


def _grid(rows: Rows, not_trained: Rows) -> Table:
  """Accuracy by initialisation (lines) and net (columns), in the order of the paper's table."""
  texts = {row["name"]: "failed" for row in not_trained} | {row["name"]: _with_interval(row) for row in rows}
  ours = {VARIANTS[name]: text for name, text in texts.items() if name in VARIANTS}
  comparable = all(row["comparable"] for row in [*rows, *not_trained])
  nets = [net for net in NETS if net in {variant.net for variant in ours}]
  header = ["", *(title for net in nets for title in (f"{net}, published", "ours"))]
  lines: list[list[Cell]] = []
  for start in INITIALISATIONS:
    variants = [Variant(net, start) for net in nets]
    if any(variant in ours for variant in variants):
      cells = [(_printed(variant) if comparable else None, ours.get(variant)) for variant in variants]
      lines.append([start, *(cell for pair in cells for cell in pair)])
  return header, lines


def _printed(variant: Variant) -> str:
  """The paper's accuracy in %, and how many of its test images are correct."""
  rate = variant.published
  return "failed" if rate is None else f"{100 * rate:.1f} ({round(published.TEST_IMAGES * rate)})"


def _with_interval(row: Row) -> str:
  """Our accuracy in % with its 95 % interval."""
  if len(row["failed"]) == row["members"]:
    return "failed"
  low, high = (100 * bound for bound in row["interval"])
  return f"{100 * row['mean']:.1f} ({low:.1f} to {high:.1f})"


def _differences(rows: Rows) -> Table:
  """The pairs of variants that the study compares: the paper's difference, ours, and whether they agree."""
  lines: list[list[Cell]] = []
  for row in rows:
    for other, pair in row["compared"].items():
      names = (row["name"], other)
      ours, theirs = (published_accuracy(name) if row["comparable"] else None for name in names)
      gain = None if ours is None or theirs is None else 100 * (ours - theirs)
      low, high = (100 * bound for bound in pair["interval"])
      lines.append(
        [
          f"{row['name']} minus {other}",
          None if gain is None else f"{gain:+.1f}",
          f"{100 * pair['difference']:+.1f} ({low:+.1f} to {high:+.1f})",
          verdict(gain, pair),
        ]
      )
  return ["", "published", "ours", ""], lines


# 1.96 standard errors, in percentage points, of the difference of two accuracies near 1/3 on 768 independent images
# each. This is conservative: the paper tests its models on the same images, so their errors are correlated.
_NOISE = 1.96 * 100 * (2 * 0.33 * 0.67 / published.TEST_IMAGES) ** 0.5


def verdict(gain: float | None, pair: Mapping[str, Any]) -> str:
  """Whether our difference of two variants agrees with the paper's.

  Args:
    gain: the paper's difference, in percentage points; None where the paper gives none.
    pair: our comparison, as `report.study.compare` returns it.
  """
  if gain is None or abs(gain) < _NOISE:
    prefix = "" if gain is None else "published difference within its sampling error; "
    return prefix + ("our difference is clear" if pair["told_apart"] else "our difference is not clear")
  if not pair["told_apart"]:
    return "neither confirmed nor contradicted"
  return "confirmed" if (pair["difference"] > 0) == (gain > 0) else "contradicted: opposite sign"


Training = tuple[int, int]  # The seed and the fold of a training.
Curves = Mapping[Training, np.ndarray]  # Accuracy [epochs], 0 to 1, of each training.


def curves(row: Row, split: str) -> Curves:
  """The accuracy of a row's trainings on a split ("train" or "validation"), without the trainings that failed.

  It is empty where the history holds no accuracy on this split.
  """
  failed = _failed(row)
  found: dict[Training, list[float]] = {}
  for line in row["history"]:
    training = line["seed"], line["fold"]
    if line["split"] == split and "accuracy" in line and training not in failed:
      found.setdefault(training, []).append(line["accuracy"])
  return {training: np.asarray(accuracy) for training, accuracy in found.items()}


@dataclasses.dataclass(frozen=True)
class Epochs:
  """Accuracy of a variant's trainings on the validation people, and of the same net trained from scratch.

  Attributes:
    own: the curves of the variant.
    scratch: the curves of the same net from scratch.
    first: for each training, by seed and fold, the first epoch (from 1) that is at least as accurate as the best epoch
      from scratch of the same seed and fold; "never" if there is none; "failed" if either training failed.
  """

  own: Curves
  scratch: Curves
  first: Mapping[Training, int | str]


def epochs_of(rows: Rows) -> dict[str, Epochs]:
  """The epochs of each variant whose net was also trained from scratch, by name; empty without validation people."""
  found = {}
  for by_start in _by_net(rows).values():
    validation = {start: curves(row, "validation") for start, row in by_start.items()}
    if "scratch" in by_start and any(validation.values()):
      for start, row in by_start.items():
        own, scratch = validation[start], validation["scratch"]
        found[row["name"]] = Epochs(own, scratch, _first(own, scratch, _failed(row)))
  return found


def _failed(row: Row) -> set[Training]:
  """The trainings that failed."""
  return {(failed["seed"], failed["fold"]) for failed in row["failed"]}


def _first(own: Curves, scratch: Curves, failed: set[Training]) -> dict[Training, int | str]:
  """See `Epochs.first`."""
  first: dict[Training, int | str] = {}
  for training in sorted({*own, *failed}):
    if training not in own or training not in scratch:
      first[training] = "failed"
      continue
    good = np.flatnonzero(own[training] >= scratch[training].max())
    first[training] = int(good[0]) + 1 if len(good) else "never"
  return first


def _epochs_line(name: str, epochs: Epochs) -> list[Cell]:
  """A line of the table of epochs; means are over the trainings that did not fail."""
  known = [first for first in epochs.first.values() if isinstance(first, int)]
  return [
    name,
    _mean([int(np.argmax(own)) + 1 for own in epochs.own.values()]),
    _mean([100 * own.max() for own in epochs.own.values()]),
    _mean([100 * own.max() for own in epochs.scratch.values()]),
    _mean(known) if len(known) == len(epochs.first) else "not in all",
    " ".join(map(str, epochs.first.values())),
  ]


def _mean(values: Sequence[float]) -> str:
  """The mean and the standard deviation; "failed" without values."""
  if not values:
    return "failed"
  spread = f" ± {np.std(values, ddof=1):.1f}" if len(values) > 1 else ""
  return f"{np.mean(values):.1f}{spread}"


def best_row(rows: Rows) -> Row:
  """The row with the highest accuracy; ties go to the earlier row."""
  return max(rows, key=lambda row: row["mean"])


def figures(rows: Rows, folder: pathlib.Path) -> dict[str, str]:
  """Draws `transfer_curves.png` and `transfer_epochs.png`, and returns their captions by file name.

  They show the nets that were trained from scratch and with another initialisation. Without such a net, or without
  validation people, nothing is drawn.

  Args:
    rows: as for `tables`.
    folder: an existing folder.
  """
  nets = {net: own for net, own in _by_net(rows).items() if "scratch" in own and len(own) > 1}
  epochs = epochs_of([row for own in nets.values() for row in own.values()])
  nets = {net: own for net, own in nets.items() if own["scratch"]["name"] in epochs}
  if not nets:
    return {}
  _draw_curves(nets, folder / "transfer_curves.png")
  _draw_epochs(epochs, folder / "transfer_epochs.png")
  return {
    "transfer_curves.png": "Accuracy by epoch of fine-tuning for each initialisation, on the augmented training images "
    "(left) and on the validation people (right). Lines are means over seeds, and bands are their range. Seeds that "
    "failed are left out.",
    "transfer_epochs.png": "The first epoch whose accuracy on the validation people reaches that of the best epoch "
    "from scratch of the same seed. Ticks are seeds, and the line is their range. The dot is their mean, drawn "
    "only where every seed gets there. Crosses at the right edge are seeds that never do, or that failed.",
  }


def _look(start: str) -> dict[str, Any]:
  """Colour and line style of an initialisation, the same in all figures."""
  place = list(INITIALISATIONS).index(start)
  if start == "scratch":
    return {"color": plots.COLOURS[6], "linestyle": "--"}
  return {"color": plots.COLOURS[place - 1], "linestyle": "-"}


def _draw_curves(nets: Mapping[str, Mapping[str, Row]], path: pathlib.Path) -> None:
  """Draws accuracy by epoch: one line of panels per net, training on the left, validation on the right."""
  with plots.style():
    figure = plots.new_figure(0.9 + 2.5 * len(nets))
    grid = figure.subplots(len(nets), 2, sharex=True, sharey="row", squeeze=False)
    for across, (net, own) in zip(grid, nets.items(), strict=True):
      for axes, split in zip(across, ("train", "validation"), strict=True):
        for start, row in own.items():
          # If every training failed, the line is empty, and the legend still names it.
          values = 100 * np.array(list(curves(row, split).values()) or [np.zeros(0)])
          at, look = np.arange(1, values.shape[1] + 1), _look(start)
          if len(values) > 1:
            axes.fill_between(at, values.min(0), values.max(0), color=look["color"], alpha=0.1, linewidth=0)
          axes.plot(at, values.mean(0), label=start, **look)
        axes.set_title(
          f"{net}: {'training images' if split == 'train' else 'validation people'}", fontsize=10
        )
        axes.xaxis.get_major_locator().set_params(integer=True)
      across[0].set_ylabel("accuracy (%)")
    for axes in grid[-1]:
      axes.set_xlabel("epoch of fine-tuning")
    figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    plots.write_png(figure, path, "Learning curves by initialisation")


def _draw_epochs(epochs: Mapping[str, Epochs], path: pathlib.Path) -> None:
  """Draws `Epochs.first` of each variant on a separate line."""
  with plots.style():
    figure = plots.new_figure(1.3 + 0.34 * len(epochs))
    axes = figure.add_subplot()
    last = max(len(own) for each in epochs.values() for own in each.own.values())
    edge = last + 1.0
    for place, (name, each) in enumerate(reversed(list(epochs.items()))):
      known = [first for first in each.first.values() if isinstance(first, int)]
      colour, missed = _look(VARIANTS[name].initialisation)["color"], len(each.first) - len(known)
      if known:
        axes.plot([min(known), max(known)], [place, place], color=colour, alpha=0.5)
        axes.plot(known, [place] * len(known), "|", color=colour, markersize=9)
      if known and not missed:
        axes.plot(np.mean(known), place, "o", color=colour, markersize=7)
      crosses = last + 1 + 0.5 * np.arange(missed)
      axes.plot(crosses, [place] * missed, "x", color=colour, markersize=7)
      edge = max([edge, *crosses])
    axes.axvline(last + 0.5, color=plots.GREY, linewidth=1, linestyle=":")
    axes.set_yticks(range(len(epochs)), list(epochs)[::-1])
    axes.set_xlim(0, edge + 0.5)
    axes.set_xticks(range(0, last + 1, max(1, round(last / 8))))
    axes.set_xlabel("epoch of fine-tuning (right of the dotted line: never)")
    plots.write_png(figure, path, "Epochs to reach the best accuracy from scratch")
