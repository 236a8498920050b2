"""Table 3 of paper 003 beside ours, what it does not measure, and Fig. 3, from a study's rows."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxfer.report import plots
from jaxfer.report.tables import Cell, Table
from jaxfer.systems.identity_expression_vae import figures as training_figures
from jaxfer.systems.identity_expression_vae import published as published_003
from jaxfer.systems.system import Prediction

_ROUND = "test accuracy (%) after round "

Rows = Sequence[Mapping[str, Any]]


def facts(
  histories: Sequence[Sequence[Mapping[str, Any]]], readings: Sequence[Mapping[str, Prediction]]
) -> dict[str, list[float]]:
  """How far each code's posterior is from the prior in its last epoch, in nat, and accuracy after each round, in %."""
  del readings
  found: dict[str, list[float]] = {}
  for history in histories:
    for row in {row["stage"]: row for row in history if row["split"] == "train"}.values():
      divergence = row.get("kl", row.get("generator/kl"))
      if divergence is not None:
        found.setdefault(f"nat of stage {row['stage']}", []).append(divergence)
    rounds = [row["accuracy"] for row in history if row["split"] == "test"]
    for number, accuracy in enumerate(rounds, 1):
      found.setdefault(f"{_ROUND}{number}", []).append(100 * accuracy)
  return found


def tables(rows: Rows, seeds: Sequence[int], not_trained: Rows = ()) -> list[tuple[str, Table]]:
  """Table 3; what is read linearly from each code; what swapped images keep, and errors of reconstruction."""
  del seeds, not_trained
  rows = [row for row in rows if row["measures"]]
  own = [
    (
      "Recognition by clustering, %: Table 3, mean ± sd (published: over trials; ours: over seeds)",
      _table3(rows),
    )
  ]
  own.append(
    ("Read linearly from a code, %: subjects in other images, expressions of people never seen", _codes(rows))
  )
  own.append(("Error of reconstruction, grey levels of 255 (root mean square)", _errors(rows)))
  if both := [row for row in rows if "subject kept in swaps, test" in row["measures"]]:
    own.append(
      ("Swapped images: share of its own accuracy that a probe of photographs keeps, %", _kept(both))
    )
  return own


def _over(row: Mapping[str, Any], name: str, scale: float = 100) -> str | None:
  """Mean and deviation over trainings of a measure."""
  values = [scale * value for value in row["measures"].get(name, []) if value is not None]
  if not values:
    return None
  spread = f" ± {np.std(values, ddof=1):.1f}" if len(values) > 1 else ""
  return f"{np.mean(values):.1f}{spread}"


def _printed(pair: published_003.Percent | None) -> str | None:
  return None if pair is None else f"{pair[0]:.2f} ± {pair[1]:.2f}"


def _table3(rows: Rows) -> Table:
  """Rows of the paper in its order, where the study has them, then others."""
  sources: list[tuple[str, Mapping[str, Any], str]] = []
  for row in rows:
    sources.append((row["name"], row, ""))
    if row["name"] == published_003.VAE:
      sources.append((published_003.SUBTRACTED, row, ", subject means subtracted"))
  lines: list[list[Cell]] = []
  for name, row, way in sources:
    published = published_003.ROWS.get(name) if row["comparable"] else None
    line: list[Cell] = [name]
    for side in ("train", "test"):
      line.append(None if published is None else _printed(getattr(published, side)))
      # Its people's means are unknown before they are met.
      known = not (way and side == "test")
      line += (
        [_over(row, f"{side}{way}"), _over(row, f"{side}{way}, sd over trials")] if known else [None, None]
      )
    lines.append(line)
  sides = [[f"{side}, published", f"{side}, ours", "sd over trials"] for side in ("train", "test")]
  return ["", *sides[0], *sides[1]], lines


def _codes(rows: Rows) -> Table:
  lines: list[list[Cell]] = []
  for row in rows:
    for code in ("z_i", "z_e", "z"):
      read = [_over(row, f"{what} from {code}") for what in ("subject", "expression")]
      if any(read):
        lines.append([row["name"], code, *read])
  return ["", "code", "subject", "expression"], lines


def _errors(rows: Rows) -> Table:
  lines: list[list[Cell]] = [
    [row["name"], _over(row, "train, error", 1), _over(row, "test, error", 1)] for row in rows
  ]
  return ["", "people learned from", "people never seen"], lines


def _kept(rows: Rows) -> Table:
  columns = [(what, side) for side in ("train", "test") for what in ("subject", "expression")]
  lines: list[list[Cell]] = [
    [row["name"], *(_over(row, f"{what} kept in swaps, {side}") for what, side in columns)] for row in rows
  ]
  # Photographs of one size have the same probes, whatever the row.
  sizes = {row["data"]["image_size"]: row for row in reversed(rows)}
  for size, row in sorted(sizes.items()):
    photographs = [_over(row, f"{what}, photographs, {side}") for what, side in columns]
    lines.append([f"the probes' accuracy on photographs of {size} px", *photographs])
  return ["", *(f"{what}, {side}" for what, side in columns)], lines


def by_round(row: Mapping[str, Any]) -> list[tuple[float, float | None]]:
  """Accuracy after each round in %, mean and deviation over trainings; empty where there were none."""
  found = {name: pair for name, pair in row["facts"].items() if name.startswith(_ROUND)}
  return [tuple(found[f"{_ROUND}{k}"]) for k in range(1, len(found) + 1)]


def _sized(row: Mapping[str, Any]) -> str:
  """A row's name with the size of its images."""
  return f"{row['name']} ({row['data']['image_size']} px)"


def figures(rows: Rows, folder: pathlib.Path) -> dict[str, str]:
  """`rounds.png`, Fig. 3; and the figures of `figures.side_by_side`."""
  drawn = training_figures.side_by_side(rows, folder)
  lines = {_sized(row): line for row in rows if (line := by_round(row))}
  if not lines:
    return drawn
  single = next((row for row in rows if row["name"] == published_003.BOTH), None)
  with plots.style():
    figure = plots.new_figure(3.6)
    axes = figure.add_subplot()
    for (name, line), colour in zip(lines.items(), plots.COLOURS, strict=False):
      at = np.arange(1, len(line) + 1)
      mean = np.asarray([pair[0] for pair in line])
      half = np.asarray([pair[1] or 0 for pair in line])
      axes.plot(at, mean, "o-", color=colour, label=name)
      axes.fill_between(at, mean - half, mean + half, color=colour, alpha=0.18, linewidth=0)
      axes.set_xticks(at)
    if single is not None:
      level = 100 * single["mean"]
      axes.axhline(
        level, color=plots.GREY, linestyle=":", linewidth=1.5, label=f"{_sized(single)}, a single pass"
      )
    axes.set_xlabel("rounds of both stages")
    axes.set_ylabel("accuracy (%)")
    figure.legend(loc="outside lower center", ncols=1)
    plots.write_png(figure, folder / "rounds.png", "Accuracy by rounds (Fig. 3 of paper 003)")
  drawn["rounds.png"] = (
    "Recognition of people never seen after each round, mean over seeds and their deviation as a band. The paper's "
    "values cannot be read off."
  )
  return drawn
