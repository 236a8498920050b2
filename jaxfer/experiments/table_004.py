"""Paper 004's tables from a study's rows, published beside ours: nets x initialisations, classes beside raters, claims.

Rows are named "NET, INITIALISATION" by `NETS` and `INITIALISATIONS`.
"""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxfer.experiments import classes_004, published_004
from jaxfer.report import plots
from jaxfer.report.tables import Cell, Table

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


def tables(rows: Rows, seeds: Sequence[int]) -> list[tuple[str, Table]]:
  """The table of nets and initialisations, the paper's claims, epochs needed, and classes beside human raters."""
  del seeds
  found = [
    ("Nets by what they were trained on before, accuracy %: published (of 768 pictures), ours", _grid(rows)),
    (
      "Differences, points: published, ours with the 95 % interval over people, and what ours say",
      _claims(rows),
    ),
  ]
  if lines := _epochs(rows):
    header = ["", "best epoch", "accuracy % there", "scratch's best, %", "reached in epoch", "by seeds"]
    found.append(("How soon the validation people are recognised", (header, lines)))
  if rows and classes_004.order(rows[0]["label_names"]):
    title = "By class, %: our best net, the paper's best, and its human raters"
    found.append((title, classes_004.table(best_row(rows))))
  return found


def _by_net(rows: Rows) -> dict[str, dict[str, Mapping[str, Any]]]:
  """Net -> initialisation -> row."""
  nets: dict[str, dict[str, Mapping[str, Any]]] = {}
  for row in rows:
    net, _, start = row["name"].partition(", ")
    nets.setdefault(net, {})[start] = row
  return nets


def _grid(rows: Rows) -> Table:
  nets = _by_net(rows)
  starts = list(dict.fromkeys(start for own in nets.values() for start in own))
  header, lines = [""], []
  for net in nets:
    header += [f"{net}, published", "ours"]
  for start in starts:
    line: list[Cell] = [start]
    for net, own in nets.items():
      printed = published(f"{net}, {start}")
      line.append(None if printed is None else f"{100 * printed:.1f} ({round(768 * printed)})")
      row = own.get(start)
      line.append(None if row is None else _with_interval(row))
    lines.append(line)
  return header, lines


def _with_interval(row: Mapping[str, Any]) -> str:
  low, high = (100 * bound for bound in row["interval"])
  return f"{100 * row['mean']:.1f} ({low:.1f} to {high:.1f})"


def _claims(rows: Rows) -> Table:
  """Each pair that the study compares: what the paper's numbers say and whether ours say the same."""
  lines: list[list[Cell]] = []
  for row in rows:
    for other, pair in row["compared"].items():
      ours, theirs = published(row["name"]), published(other)
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


# The paper's own difference of two nets has this standard error and more: 768 pictures each, a third of them right.
_TOLD = 1.96 * 100 * (2 * 0.33 * 0.67 / published_004.TESTED) ** 0.5


def verdict(gain: float | None, pair: Mapping[str, Any]) -> str:
  """What a difference says of the paper's.

  Args:
    gain: the paper's, in points.
    pair: ours, as `report.study.compare` gives it.
  """
  if gain is None or abs(gain) < _TOLD:
    small = "" if gain is None else "published within its own noise; "
    own = "ours tells them apart" if pair["told_apart"] else "ours does not tell them apart"
    return small + own
  if not pair["told_apart"]:
    return "neither shown nor denied"
  return "shown" if (pair["difference"] > 0) == (gain > 0) else "denied: the other way round"


def curves(row: Mapping[str, Any], split: str) -> np.ndarray:
  """Accuracy of a row's trainings by epoch, [trainings, epochs]; NaN where a training ended early."""
  found: dict[str, dict[int, float]] = {}
  for line in row["history"]:
    if line["split"] == split and "accuracy" in line:
      found.setdefault(line["member"], {})[line["epoch"]] = line["accuracy"]
  last = max((epoch for own in found.values() for epoch in own), default=0)
  whole = np.full((len(found), last), np.nan)
  for line, own in zip(whole, found.values(), strict=True):
    line[[epoch - 1 for epoch in own]] = list(own.values())
  return whole


def reached(ours: np.ndarray, scratch: np.ndarray) -> list[int | None]:
  """The first epoch, from 1, in which each training is as good as the best epoch of its seed from scratch.

  Args:
    ours: [seeds, epochs], see `curves`.
    scratch: likewise.
  """
  firsts: list[int | None] = []
  for own, other in zip(ours, scratch, strict=False):
    good = np.flatnonzero(own >= np.nanmax(other))
    firsts.append(int(good[0]) + 1 if len(good) else None)
  return firsts


def _epochs(rows: Rows) -> list[list[Cell]]:
  lines: list[list[Cell]] = []
  for net, own in _by_net(rows).items():
    if "scratch" not in own or not curves(own["scratch"], "validation").size:
      continue
    scratch = curves(own["scratch"], "validation")
    for start, row in own.items():
      ours = curves(row, "validation")
      best = np.nanargmax(ours, axis=1) + 1
      firsts = reached(ours, scratch)
      known = [first for first in firsts if first is not None]
      lines.append(
        [
          f"{net}, {start}",
          _mean(best),
          _mean(100 * np.nanmax(ours, axis=1)),
          _mean(100 * np.nanmax(scratch, axis=1)),
          _mean(known) if len(known) == len(firsts) else "not by all",
          " ".join("never" if first is None else str(first) for first in firsts),
        ]
      )
  return lines


def _mean(values: Sequence[float] | np.ndarray) -> str:
  spread = f" ± {np.std(values, ddof=1):.1f}" if len(values) > 1 else ""
  return f"{np.mean(values):.1f}{spread}"


def best_row(rows: Rows) -> Mapping[str, Any]:
  """The row of the highest accuracy, the first of equal ones."""
  return max(rows, key=lambda row: row["mean"])


def figures(rows: Rows, folder: pathlib.Path) -> dict[str, str]:
  """`transfer_curves.png` and `transfer_epochs.png`, where a scratch row and validation people are there."""
  nets = {net: own for net, own in _by_net(rows).items() if "scratch" in own and len(own) > 1}
  nets = {net: own for net, own in nets.items() if curves(own["scratch"], "validation").size}
  if not nets:
    return {}
  _draw_curves(nets, folder / "transfer_curves.png")
  _draw_epochs(nets, folder / "transfer_epochs.png")
  return {
    "transfer_curves.png": "Accuracy by epoch of fine-tuning, on the training records (as augmented, left) and on the "
    "validation people (right), for each initialisation: mean over seeds, their range as a band.",
    "transfer_epochs.png": "The first epoch in which the validation people are recognised as well as in scratch's best "
    "epoch of the same seed: mean (dot), range (line) and seeds (ticks); crosses at the right edge are seeds that "
    "never are.",
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
          values = 100 * curves(row, split)
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


def _draw_epochs(nets: Mapping[str, Mapping[str, Mapping[str, Any]]], path: pathlib.Path) -> None:
  lines = [(net, start, row, own["scratch"]) for net, own in nets.items() for start, row in own.items()]
  with plots.style():
    figure = plots.new_figure(1.3 + 0.34 * len(lines))
    axes = figure.add_subplot()
    last = max(curves(row, "validation").shape[1] for _, _, row, _ in lines)
    for place, (_, start, row, scratch) in enumerate(reversed(lines)):
      firsts = reached(curves(row, "validation"), curves(scratch, "validation"))
      known, colour = [first for first in firsts if first is not None], _look(start)["color"]
      never = len(firsts) - len(known)
      if known:
        axes.plot([min(known), max(known)], [place, place], color=colour, alpha=0.5)
        axes.plot(known, [place] * len(known), "|", color=colour, markersize=9)
        axes.plot(np.mean(known), place, "o", color=colour, markersize=7)
      for k in range(never):
        axes.plot(last + 1 + 0.5 * k, place, "x", color=colour, markersize=7)
    axes.axvline(last + 0.5, color=plots.GREY, linewidth=1, linestyle=":")
    axes.set_yticks(range(len(lines)), [f"{net}, {start}" for net, start, _, _ in reversed(lines)])
    axes.set_xlim(0, last + 2.5)
    axes.set_xticks(range(0, last + 1, max(1, round(last / 8))))
    axes.set_xlabel("epoch of fine-tuning (right of the dotted line: never)")
    plots.write_png(figure, path, "Epochs until as good as scratch ever is")
