"""Paper 004's tables from a study's rows, published beside ours: nets x initialisations, classes beside raters, claims.

Rows are named "NET, INITIALISATION" by `NETS` and `INITIALISATIONS`.
"""

import dataclasses
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxfer.report import plots
from jaxfer.report.tables import Cell, Table
from jaxfer.systems.elderly_transfer import classes
from jaxfer.systems.elderly_transfer import published as published_004

# As rows name them: the key in `published_004`.
NETS = {
  "ResNet18": "resnet18",
  "ResNet50": "resnet50",
  "Face-ResNet18": "face_resnet18",
  "Face-ResNet50": "face_resnet50",
}
# Objects are ImageNet in the paper, expressions AffectNet-8, the others CASIA-WebFace.
INITIALISATIONS = {
  "scratch": "scratch",
  "objects": "imagenet",
  "expressions": "affectnet8",
  "softmax": "casia_softmax",
  "cosface": "casia_cosface",
  "adaface": "casia_adaface",
}

Rows = Sequence[Mapping[str, Any]]


def published(name: str) -> float | None:
  """The paper's accuracy of a row of this name, 0 to 1; None where its pre-training failed, or there is none."""
  net, _, start = name.partition(", ")
  if net not in NETS or start not in INITIALISATIONS:
    return None
  correct = published_004.CORRECT[INITIALISATIONS[start]][list(NETS).index(net)]
  return None if correct is None else correct / published_004.TESTED


def tables(rows: Rows, seeds: Sequence[int], not_trained: Rows = ()) -> list[tuple[str, Table]]:
  """The table of nets and initialisations, the paper's claims, epochs needed, and classes beside human raters."""
  del seeds
  found = [
    (
      "Nets by what they were trained on before, accuracy %: published (of 768 pictures), ours",
      _grid(rows, not_trained),
    ),
    (
      "Differences, points: published, ours with the 95 % interval over people, and what ours say",
      _claims(rows),
    ),
  ]
  if lines := [_epochs(name, epochs) for name, epochs in epochs_of(rows).items()]:
    header = ["", "best epoch", "accuracy % there", "scratch's best, %", "reached in epoch", "by seeds"]
    found.append(("How soon the validation people are recognised", (header, lines)))
  if rows and rows[0]["comparable"] and classes.order(rows[0]["label_names"]):
    title = "By class, %: our best net, the paper's best, and its human raters"
    found.append((title, classes.table(best_row(rows))))
    found.append(
      ("What is to be known of the paper's classes", (["note"], [[note] for note in published_004.NOTES]))
    )
  return found


def _by_net(rows: Rows) -> dict[str, dict[str, Mapping[str, Any]]]:
  """Net -> initialisation -> row."""
  nets: dict[str, dict[str, Mapping[str, Any]]] = {}
  for row in rows:
    net, _, start = row["name"].partition(", ")
    nets.setdefault(net, {})[start] = row
  return nets


def _grid(rows: Rows, not_trained: Rows) -> Table:
  """Lines and columns in the order of the paper's table, those that it does not have below and to the right."""
  own = {row["name"]: "failed" for row in not_trained} | {row["name"]: _with_interval(row) for row in rows}
  pairs = [name.partition(", ")[::2] for name in own]
  nets = [
    net for net in dict.fromkeys([*NETS, *(net for net, _ in pairs)]) if net in {net for net, _ in pairs}
  ]
  header, lines = [""], []
  beside = all(row["comparable"] for row in [*rows, *not_trained])
  for net in nets:
    header += [f"{net}, published", "ours"]
  asked = {start for _, start in pairs}
  for start in dict.fromkeys([*INITIALISATIONS, *(start for _, start in pairs)]):
    if start in asked:
      cells = [(_printed(net, start) if beside else None, own.get(f"{net}, {start}")) for net in nets]
      lines.append([start, *(cell for both in cells for cell in both)])
  return header, lines


def _printed(net: str, start: str) -> str | None:
  """A cell of the paper's table."""
  if net not in NETS or start not in INITIALISATIONS:
    return None
  rate = published(f"{net}, {start}")
  return "failed" if rate is None else f"{100 * rate:.1f} ({round(published_004.TESTED * rate)})"


def _with_interval(row: Mapping[str, Any]) -> str:
  if len(row["failed"]) == row["members"]:
    return "failed"
  low, high = (100 * bound for bound in row["interval"])
  return f"{100 * row['mean']:.1f} ({low:.1f} to {high:.1f})"


def _claims(rows: Rows) -> Table:
  """Each pair that the study compares: what the paper's numbers say and whether ours say the same."""
  lines: list[list[Cell]] = []
  for row in rows:
    for other, pair in row["compared"].items():
      ours, theirs = (published(name) if row["comparable"] else None for name in (row["name"], other))
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


# Points; 1.96 standard errors of the difference of two accuracies of a third, of 768 pictures each. On the safe side:
# the paper's nets are tested on the same pictures, which takes what they share out of it.
_NOISE = 1.96 * 100 * (2 * 0.33 * 0.67 / published_004.TESTED) ** 0.5


def verdict(gain: float | None, pair: Mapping[str, Any]) -> str:
  """What a difference says of the paper's.

  Args:
    gain: the paper's, in points.
    pair: ours, as `report.study.compare` gives it.
  """
  if gain is None or abs(gain) < _NOISE:
    small = "" if gain is None else "published within its own noise; "
    own = "ours tells them apart" if pair["told_apart"] else "ours does not tell them apart"
    return small + own
  if not pair["told_apart"]:
    return "neither shown nor denied"
  return "shown" if (pair["difference"] > 0) == (gain > 0) else "denied: the other way round"


def curves(row: Mapping[str, Any], split: str) -> dict[str, np.ndarray]:
  """Accuracy by epoch, [epochs], of each of a row's trainings that did not fail, by its name; {} where none is told."""
  failed = _failed(row)
  found: dict[str, list[float]] = {}
  for line in row["history"]:
    if line["split"] == split and "accuracy" in line and line["member"] not in failed:
      found.setdefault(line["member"], []).append(line["accuracy"])
  return {name: np.asarray(own) for name, own in found.items()}


@dataclasses.dataclass(frozen=True)
class Epochs:
  """A row's trainings on the validation people, beside those of its net from scratch.

  Attributes:
    own: see `curves`.
    scratch: likewise.
    first: training, in the order of seeds -> the first epoch, from 1, in which it is as good as the best epoch of its
      seed from scratch; or "never"; or "failed", it or that from scratch.
  """

  own: Mapping[str, np.ndarray]
  scratch: Mapping[str, np.ndarray]
  first: Mapping[str, int | str]


def epochs_of(rows: Rows) -> dict[str, Epochs]:
  """Of each row whose net was trained from scratch too, by its name; none where nobody was watched."""
  found = {}
  for own in _by_net(rows).values():
    watched = {start: curves(row, "validation") for start, row in own.items()}
    if "scratch" in own and any(watched.values()):
      for start, row in own.items():
        first = _first(watched[start], watched["scratch"], _failed(row))
        found[row["name"]] = Epochs(watched[start], watched["scratch"], first)
  return found


def _failed(row: Mapping[str, Any]) -> list[str]:
  """Names of trainings."""
  return [line.partition(":")[0] for line in row["failed"]]


def _first(
  own: Mapping[str, np.ndarray], scratch: Mapping[str, np.ndarray], failed: Sequence[str]
) -> dict[str, int | str]:
  first: dict[str, int | str] = {}
  for name in sorted({*own, *failed}, key=lambda name: [int(n) for n in re.findall(r"\d+", name)]):
    if name not in own or name not in scratch:
      first[name] = "failed"
      continue
    good = np.flatnonzero(own[name] >= scratch[name].max())
    first[name] = int(good[0]) + 1 if len(good) else "never"
  return first


def _epochs(name: str, epochs: Epochs) -> list[Cell]:
  known = [first for first in epochs.first.values() if isinstance(first, int)]
  return [
    name,
    _mean([int(np.argmax(own)) + 1 for own in epochs.own.values()]),
    _mean([100 * own.max() for own in epochs.own.values()]),
    _mean([100 * own.max() for own in epochs.scratch.values()]),
    _mean(known) if len(known) == len(epochs.first) else "not by all",
    " ".join(map(str, epochs.first.values())),
  ]


def _mean(values: Sequence[float]) -> str:
  """With the standard deviation; of those that did not fail."""
  if not values:
    return "failed"
  spread = f" ± {np.std(values, ddof=1):.1f}" if len(values) > 1 else ""
  return f"{np.mean(values):.1f}{spread}"


def best_row(rows: Rows) -> Mapping[str, Any]:
  """The row of the highest accuracy, the first of equal ones."""
  return max(rows, key=lambda row: row["mean"])


def figures(rows: Rows, folder: pathlib.Path) -> dict[str, str]:
  """`transfer_curves.png` and `transfer_epochs.png`, where a scratch row and validation people are there."""
  nets = {net: own for net, own in _by_net(rows).items() if "scratch" in own and len(own) > 1}
  epochs = epochs_of([row for own in nets.values() for row in own.values()])
  nets = {net: own for net, own in nets.items() if f"{net}, scratch" in epochs}
  if not nets:
    return {}
  _draw_curves(nets, folder / "transfer_curves.png")
  _draw_epochs(epochs, folder / "transfer_epochs.png")
  return {
    "transfer_curves.png": "Accuracy by epoch of fine-tuning, on the training records (as augmented, left) and on the "
    "validation people (right), for each initialisation: mean over seeds, their range as a band; without seeds that "
    "failed.",
    "transfer_epochs.png": "The first epoch in which the validation people are recognised as well as in scratch's best "
    "epoch of the same seed: seeds (ticks), their range (line) and, where all come so far, their mean (dot); crosses "
    "at the right edge are seeds that never do, or failed.",
  }


def _look(start: str) -> dict[str, Any]:
  """The same in all figures."""
  place = list(INITIALISATIONS).index(start) if start in INITIALISATIONS else 0
  if start == "scratch":
    return {"color": plots.COLOURS[6], "linestyle": "--"}
  return {"color": plots.COLOURS[place - 1], "linestyle": "-"}


def _draw_curves(nets: Mapping[str, Mapping[str, Mapping[str, Any]]], path: pathlib.Path) -> None:
  with plots.style():
    figure = plots.new_figure(0.9 + 2.5 * len(nets))
    grid = figure.subplots(len(nets), 2, sharex=True, sharey="row", squeeze=False)
    for across, (net, own) in zip(grid, nets.items(), strict=True):
      for axes, split in zip(across, ("train", "validation"), strict=True):
        for start, row in own.items():
          # Where all failed an empty line: the legend names it.
          values = 100 * np.array(list(curves(row, split).values()) or [np.zeros(0)])
          at, look = np.arange(1, values.shape[1] + 1), _look(start)
          if len(values) > 1:
            axes.fill_between(at, values.min(0), values.max(0), color=look["color"], alpha=0.1, linewidth=0)
          axes.plot(at, values.mean(0), label=start, **look)
        axes.set_title(f"{net}: {'training' if split == 'train' else 'validation people'}", fontsize=10)
        axes.xaxis.get_major_locator().set_params(integer=True)
      across[0].set_ylabel("accuracy (%)")
    for axes in grid[-1]:
      axes.set_xlabel("epoch of fine-tuning")
    figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    plots.write_png(figure, path, "Learning curves by initialisation")


def _draw_epochs(epochs: Mapping[str, Epochs], path: pathlib.Path) -> None:
  with plots.style():
    figure = plots.new_figure(1.3 + 0.34 * len(epochs))
    axes = figure.add_subplot()
    last = max(len(own) for each in epochs.values() for own in each.own.values())
    edge = last + 1.0
    for place, (name, each) in enumerate(reversed(list(epochs.items()))):
      known = [first for first in each.first.values() if isinstance(first, int)]
      colour, missed = _look(name.partition(", ")[2])["color"], len(each.first) - len(known)
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
    plots.write_png(figure, path, "Epochs until as good as scratch ever is")
