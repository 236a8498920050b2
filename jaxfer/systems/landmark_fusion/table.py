"""Tables 2 and 5 to 8 and Fig. 4 of paper 002 for the variants of a study, with the published numbers beside ours.

With the affinity of the released code, a prediction depends on the other records of its batch (`layers.amend`). Every
table therefore gives its numbers for three kinds of batches: batches of 64 in the order of the distributor's list, as
the released code tests (data without such a list are sorted by key); batches of 64 in one random order; and
batches of one.
"""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxfer.config import RunConfig, differences
from jaxfer.report import plots
from jaxfer.report.tables import Cell, Table
from jaxfer.systems.landmark_fusion import published
from jaxfer.systems.prediction import ALONE, SHUFFLED, in_batches
from jaxfer.systems.system import Variants

Variant = Mapping[str, Any]
# Mean over trainings and standard deviation, each None if undefined.
MeanAndSpread = Sequence[float | None]

# Names of the predictions of a model with a head, besides that of the head itself.
RGB_NET, LANDMARK_NET, SUM = "RGB net", "landmark net", "sum of both"
# The values of w of Fig. 4. A model with a head is also evaluated with each of them.
WEIGHTS = tuple(k / 10 for k in range(11))
# Kinds of batches as the tables show them, and as predictions are named after them (`in_batches`).
BATCHES = {"in order": "", "one random order": SHUFFLED, "batches of one": ALONE}
# Columns of Table 2: whether the RGB net and the landmark net are right.
AGREEMENT = {
  "both nets right": (True, True),
  "RGB net alone right": (True, False),
  "landmark net alone right": (False, True),
  "neither right": (False, False),
}


def at_test(w: float) -> str:
  """Name of the prediction in which evaluation replaces the w of the training by this one."""
  return f"w = {w} at test"


def tables(
  variants: Variants, seeds: Sequence[int], not_trained: Variants = ()
) -> Sequence[tuple[str, Table]]:
  """The paper's tables with their titles, see `System.tables`.

  They show accuracy by kind of batches, recall by class (Tables 5 and 7), top-k and average accuracy (Tables 6 and 8),
  the two nets of a model with a head or of a landmark net that was trained alone (Table 2), and accuracy by w (Fig. 4)
  if the study has several values of w.
  """
  del seeds, not_trained
  own = [
    (
      "Accuracy in % by kind of batches (in order: batches of 64 in the distributor's order, else sorted by key)",
      _accuracies(variants),
    ),
    ("Recall by class in %: Tables 5 and 7 (in order: batches of 64)", _recalls(variants)),
    (
      "Accuracy among the k most likely classes, and average accuracy, in %: Tables 6 and 8 (in order: batches of 64)",
      _tops(variants),
    ),
  ]
  if both := [variant for variant in variants if LANDMARK_NET in variant["predictions"]]:
    own.append(
      (
        "Number of test records that both nets of a training classify correctly, or only one of them, or neither: "
        "Table 2 (in order: batches of 64)",
        _agreements(both),
      )
    )
  if with_head := [variant for variant in variants if SUM in variant["predictions"]]:
    own.append(
      (
        "Accuracy in % of the two nets of a training and of the sum of their probabilities (in order: batches of 64)",
        _nets(with_head),
      )
    )
  if swept := sweep(variants):
    own.append(("Accuracy in % by w: Fig. 4 (in order: batches of 64)", _sweep_table(swept)))
  return own


def _numbers(variant: Variant, prediction: str, batches: str) -> Mapping[str, Any]:
  """Returns the scores of a prediction in one kind of batches, see `report.study.scores`; empty if there is none."""
  name = in_batches(prediction, batches)
  return variant["predictions"].get(name, {}) if name else variant


def _percent(pair: MeanAndSpread) -> str | None:
  """Mean and standard deviation in percent; None if there is no mean."""
  mean, spread = pair
  if mean is None:
    return None
  return f"{100 * mean:.2f}" + ("" if spread is None else f" ± {100 * spread:.2f}")


def _accuracy(variant: Variant, prediction: str, batches: str) -> str | None:
  """The accuracy of a prediction in percent; None if it was not made in batches of this kind."""
  return _percent(_numbers(variant, prediction, batches).get("accuracy", [(None, None)])[0])


def _lines(
  variant: Variant, printed: Sequence[Cell] | None, cells: Callable[[Variant, str], Sequence[Cell]]
) -> list[list[Cell]]:
  """The lines of a variant: the published cells if there are any, then `cells` for each kind of batches.

  The first line begins with the variant's name.
  """
  lines: list[list[Cell]] = [] if printed is None else [["published", *printed]]
  lines += [
    [words, *cells(variant, batches)] for words, batches in BATCHES.items() if _numbers(variant, "", batches)
  ]
  return [["" if k else variant["name"], *line] for k, line in enumerate(lines)]


def _accuracies(variants: Variants) -> Table:
  """The accuracy of each variant for each kind of batches."""
  lines: list[list[Cell]] = [
    [variant["name"], *(_accuracy(variant, "", batches) for batches in BATCHES.values())]
    for variant in variants
  ]
  return ["", *BATCHES], lines


def _published(variant: Variant) -> published.Counts | None:
  """The printed results of the variant of this name, if ours are comparable with them."""
  return published.ROWS.get(variant["name"]) if variant["comparable"] else None


def _recall(variant: Variant, batches: str) -> list[Cell]:
  return [_percent(pair) for pair in _numbers(variant, "", batches)["recall"]]


def _recalls(variants: Variants) -> Table:
  """Tables 5 and 7. The printed recalls are shown only if the data have the paper's classes."""
  names, lines = list(variants[0]["label_names"]), []
  for variant in variants:
    counts, printed = _published(variant), None
    if counts is not None and set(names) == set(published.CLASSES):
      rates = dict(zip(published.CLASSES, 100 * counts.recall, strict=True))
      printed = [f"{rates[name]:.2f}" for name in names]
    lines += _lines(variant, printed, _recall)
  return ["", "batches", *names], lines


def _top(variant: Variant, batches: str) -> list[Cell]:
  found = _numbers(variant, "", batches)
  return [_percent(pair) for pair in (*found["top"], *found["average_accuracy"])]


def _tops(variants: Variants) -> Table:
  """Tables 6 and 8."""
  lines = []
  for variant in variants:
    counts, printed = _published(variant), None
    if counts is not None:
      total = sum(published.TEST_COUNTS)
      rates = [*(count / total for count in counts.top), counts.average_accuracy]
      printed = [f"{100 * rate:.2f}" for rate in rates]
    lines += _lines(variant, printed, _top)
  return ["", "batches", "top 1", "top 2", "top 3", "average"], lines


def _agreements(variants: Variants) -> Table:
  """Table 2: counts with their shares. The published counts are those of one pair of nets."""
  lines: list[list[Cell]] = []
  if all(variant["comparable"] for variant in variants):
    lines.append(["published", "in order", *_counts([(count, None) for count in published.AGREEMENT])])
  for variant in variants:
    lines += _lines(variant, None, _agreement)
  return ["", "batches", *AGREEMENT], lines


def _agreement(variant: Variant, batches: str) -> list[Cell]:
  return _counts([variant["table_summaries"][in_batches(words, batches)] for words in AGREEMENT])


def _counts(pairs: Sequence[tuple[float, float | None]]) -> list[Cell]:
  """Means and standard deviations of counts, each with its share of their total in percent."""
  total = sum(mean for mean, _ in pairs)
  return [
    f"{mean:.4g}" + ("" if spread is None else f" ± {spread:.2g}") + f" ({100 * mean / total:.1f} %)"
    for mean, spread in pairs
  ]


def _nets(variants: Variants) -> Table:
  """The accuracy of the head, of each net alone, and of the sum of both nets' probabilities."""
  predictions = {"both, by the head": "", RGB_NET: RGB_NET, LANDMARK_NET: LANDMARK_NET, SUM: SUM}

  def cells(variant: Variant, batches: str) -> list[Cell]:
    return [_accuracy(variant, prediction, batches) for prediction in predictions.values()]

  return ["", "batches", *predictions], [
    line for variant in variants for line in _lines(variant, None, cells)
  ]


def _named(variants: Variants, name: str) -> Variant | None:
  return next((variant for variant in variants if variant["name"] == name), None)


@dataclasses.dataclass(frozen=True)
class Sweep:
  """The variants of Fig. 4.

  Attributes:
    trained: the variants by the w of their training, ascending.
    proposed: the proposed variant, which is also evaluated with other values of w.
  """

  trained: Mapping[float, Variant]
  proposed: Variant

  @property
  def at_test(self) -> list[float]:
    """The values of w that the proposed variant is evaluated with, ascending."""
    return [w for w in WEIGHTS if at_test(w) in self.proposed["predictions"]]


def sweep(variants: Variants) -> Sweep | None:
  """The sweep over w; None if the study has no proposed variant, or none that differs from it in w alone.

  The sweep consists of the variants whose config differs from that of the proposed variant in w alone, and of the
  proposed variant itself. The variant that only turns off the agreement weight stands for w = 1.
  """
  proposed = _named(variants, published.PROPOSED_NAME)
  if proposed is None:
    return None
  trained = {}
  for variant in variants:
    if differences(variant["config"], proposed["config"]) == ["recipe.w"]:
      trained[trained_weight(variant["config"])] = variant
  if not trained:
    return None
  for variant in variants:
    off = variant["config"].model.options.get("agreement") is False
    if off and differences(variant["config"], proposed["config"]) == ["model.agreement"]:
      trained[1.0] = variant
  trained[trained_weight(proposed["config"])] = proposed
  return Sweep(dict(sorted(trained.items())), proposed)


def trained_weight(config: RunConfig) -> float:
  """The w that a training with this config uses, in [0, 1]."""
  return float(config.recipe.options.get("w", published.BEST_W))


def _sweep_table(swept: Sweep) -> Table:
  """Accuracy by w: of variants trained with each w, and of the proposed variant evaluated with each w."""
  lines: list[list[Cell]] = [
    [
      f"{w:.1f}",
      *(
        _accuracy(swept.trained[w], "", batches) if w in swept.trained else None
        for batches in BATCHES.values()
      ),
      *(_accuracy(swept.proposed, at_test(w), batches) for batches in BATCHES.values()),
    ]
    for w in sorted({*swept.trained, *swept.at_test})
  ]
  own = trained_weight(swept.proposed["config"])
  ways = ("trained with it", f"trained with {own}, tested with it")
  return ["w", *(f"{way}, {words}" for way in ways for words in BATCHES)], lines


def figures(variants: Variants, folder: pathlib.Path) -> dict[str, str]:
  """Draws `sweep.png` (Fig. 4) into the folder, and returns its caption by its name.

  It shows the difference from the accuracy of the RGB net alone for each w, both for variants trained with this w and
  for the proposed variant evaluated with it, in batches in order. Without a sweep or the baseline, nothing is drawn.
  """
  swept, baseline = sweep(variants), _named(variants, published.BASELINE_NAME)
  if swept is None or baseline is None:
    return {}
  reference = np.asarray(baseline["per_seed"])
  own = trained_weight(swept.proposed["config"])
  with plots.style():
    figure = plots.new_figure(3.4)
    axes = figure.add_subplot()
    gains = np.asarray(
      [100 * (np.asarray(variant["per_seed"]) - reference) for variant in swept.trained.values()]
    )
    at = np.asarray(list(swept.trained))
    colour = plots.COLOURS[0]
    axes.fill_between(at, gains.min(1), gains.max(1), color=colour, alpha=0.18, linewidth=0)
    axes.plot(at, gains.mean(1), "o-", color=colour, markersize=5, label="trained with w")
    if swept.at_test:
      pairs = [_numbers(swept.proposed, at_test(w), "")["accuracy"][0] for w in swept.at_test]
      means = [100 * (mean - reference.mean()) for mean, _ in pairs]
      look = {"color": plots.COLOURS[1], "markersize": 5}
      axes.plot(swept.at_test, means, "s--", label=f"trained with {own}, tested with w", **look)
    axes.axhline(0, color=plots.GREY, linewidth=1, linestyle=":", label="RGB net alone")
    axes.axvline(published.BEST_W, color=plots.GREY, linewidth=1, label="best w in the paper")
    axes.set_xlabel("w, weight of the landmark features where the nets disagree")
    axes.set_ylabel("accuracy gained (points)")
    figure.legend(loc="outside lower center", ncols=2)
    plots.write_png(figure, folder / "sweep.png", "Accuracy by w (Fig. 4), batches of 64 in order")
  return {
    "sweep.png": "Accuracy minus that of the RGB net alone by w, in batches of 64 in order. The line with the band "
    "shows models trained with each w: their mean and range over the seeds. The dashed line shows models trained with "
    f"w = {own} and evaluated with another w. In the paper, {published.BEST_W} is best; the accuracies of other values "
    "cannot be read from its figure."
  }
