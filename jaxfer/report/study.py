"""Makes the rows and comparisons of a study's table from its predictions, and writes the table in several formats."""

import math
import pathlib
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxfer import files, metrics
from jaxfer.errors import UserError
from jaxfer.report import pages, plots, tables


def scores(result: Mapping[str, Any]) -> dict[str, Any]:
  """Scores predictions: the accuracy of each seed, its spread, and counts pooled over folds and seeds.

  Args:
    result: predictions by seed, as returned by `study.evaluation.by_seed`. Records of failed trainings are wrong.

  Returns:
    Accuracies as "mean", "std" and "per_seed"; "correct", "count" and "trials"; "records", the number of different
    test records; "interval", Wilson's 95 % interval of the mean for that many records; "chance", one over the number of
    classes that are tested; "by_class" with the counts of each seed; and for the first prediction, and for each of the
    other "predictions", a pair of mean and spread over seeds for each entry of "accuracy", "top" (top-1, top-2 and
    top-3 accuracy), "recall" (one per class) and "average_accuracy" (mean recall).
  """
  classes = len(result["label_names"])
  labels, correct = np.concatenate(result["label"]), np.concatenate(result["correct"])
  pooled, by_seed = metrics.score(labels, correct, classes), _scores(result["label"], result, classes)
  accuracies = np.asarray([own.accuracy for own in by_seed])
  # Several seeds may test the same record, which then counts once in the interval.
  records = len({key for keys in result["key"] for key in keys})
  return {
    "mean": float(accuracies.mean()),
    "std": _spread(accuracies),
    "per_seed": accuracies.tolist(),
    "correct": pooled.correct,
    "count": pooled.count,
    "trials": np.shape(_by_trial(result)[0])[1],
    "by_class": {
      "correct": [[metrics.whole(n) for n in own.right] for own in by_seed],
      "count": [own.support.tolist() for own in by_seed],
    },
    "records": records,
    "interval": list(metrics.wilson_interval(pooled.accuracy * records, records)),
    "chance": 1 / int((pooled.support > 0).sum()),
    **_over_seeds(result["label"], result, classes),
    "predictions": {
      name: _over_seeds(result["label"], other, classes) for name, other in result["predictions"].items()
    },
  }


def confusion(result: Mapping[str, Any]) -> list[list[int | float]]:
  """Returns the confusion matrix C[true, predicted] of the first prediction, pooled over folds and seeds.

  Its entries are counts, or means of counts if there are several trials. Records of failed trainings are left out.
  The argument is as in `scores`.
  """
  labels, by_trial = np.concatenate(result["label"]), np.concatenate(_by_trial(result))
  matrix = metrics.mean_confusion(labels, by_trial, len(result["label_names"]))
  return [[metrics.whole(count) for count in row] for row in matrix]


def _by_trial(result: Mapping[str, Any]) -> list[np.ndarray]:
  """Returns the predictions [records, trials] of each seed."""
  by_trial = result.get("by_trial")
  return by_trial or [np.reshape(own, (-1, 1)) for own in result["predicted"]]


def summarize(result: Mapping[str, Any]) -> dict[str, Any]:
  """Returns a variant's row of the table.

  Args:
    result: contents of the variant's `result.json`: the arguments of `scores`; "summaries" and "table_summaries", of
      which the row has mean and spread; "metrics" (name -> one value per training), "warnings" and "figures" of the
      system; "failed", with the "member" (its name), "seed" and "fold" of each failed training, and "where" it was not
      finite; and a description of the trainings and their data.
  """
  kept = ["data", "label_names", "parameters", "folds", "tested", "members", "failed", "figures"]
  kept += ["metrics", "warnings", "seconds", "compile_seconds"]
  return {
    **scores(result),
    "confusion": confusion(result),
    **{
      key: {name: [float(np.mean(values)), _spread(values)] for name, values in result[key].items()}
      for key in ("summaries", "table_summaries")
    },
    **{name: result[name] for name in kept},
  }


def _scores(
  labels: Sequence[Sequence[int]], predictions: Mapping[str, Any], classes: int
) -> list[metrics.Score]:
  """Returns the score of each seed."""
  return [
    metrics.score(np.asarray(own), correct, classes)
    for own, correct in zip(labels, predictions["correct"], strict=True)
  ]


def _over_seeds(
  labels: Sequence[Sequence[int]], predictions: Mapping[str, Any], classes: int
) -> dict[str, list[list[float | None]]]:
  """Returns mean and spread over seeds of accuracy, top-k accuracy, recall by class and mean recall.

  A class without records has no recall, and is left out of the mean recall.
  """
  by_seed = _scores(labels, predictions, classes)
  recall = np.asarray([own.recall for own in by_seed])
  ranks = [] if predictions["rank"] is None else [np.asarray(own) for own in predictions["rank"]]
  tops = [[float((own < k).mean()) for own in ranks] for k in (1, 2, 3)] if ranks else []

  def over(values: Any) -> list[float | None]:
    return [float(np.mean(values)), _spread(values)]

  return {
    "accuracy": [over([own.accuracy for own in by_seed])],
    "top": [over(values) for values in tops],
    "average_accuracy": [over([own.average_accuracy for own in by_seed])],
    "recall": [over(values) if np.isfinite(values).all() else [None, None] for values in recall.T],
  }


def _spread(values: Sequence[float] | np.ndarray) -> float | None:
  """Returns the standard deviation, or None for a single value."""
  return float(np.std(values, ddof=1)) if len(values) > 1 else None


def compare(one: str, ours: Mapping[str, Any], other: str, theirs: Mapping[str, Any]) -> dict[str, Any]:
  """Compares two rows by the paired difference of their accuracies, record by record and seed by seed.

  The 95 % interval is a normal interval of a mean over people, who are assumed to be drawn at random. All records of a
  person, in all seeds, count as one observation, because they are not independent. Folds and seeds are averaged. The
  interval holds for these trainings only and does not cover the variation between trainings. Therefore, one row is
  reported as ahead only if the interval excludes 0 and all seeds agree on the sign.

  Args:
    one: name of the first row.
    ours: result of the first row, see `scores`.
    other: name of the second row.
    theirs: result of the second row.

  Returns:
    The names "one" and "other"; "difference", the accuracy of `one` minus that of `other`, over all seeds; the
    difference "per_seed"; its "interval"; the number of "people"; "told_apart", whether one row is ahead; and
    "sentence", the result in words.

  Raises:
    UserError: the rows were tested on different records.
  """
  if (ours["key"], ours["label"]) != (theirs["key"], theirs["label"]):
    raise UserError(f"rows '{one}' and '{other}' were tested on different records: they cannot be compared")
  counts = [len(own) for own in ours["label"]]
  correct = [np.concatenate(each["correct"]) for each in (ours, theirs)]
  difference, ends = correct[0] - correct[1], np.cumsum(counts)[:-1]
  by_seed = np.asarray([part.mean() for part in np.split(difference, ends)])
  mean = float(by_seed.mean())
  people, person = np.unique(np.concatenate(ours["subject"]), return_inverse=True)
  # All seeds have the same weight, even if they test different numbers of records.
  weight = 1 / (len(counts) * np.repeat(counts, counts))
  excess = np.bincount(person, weight * (difference - mean))
  # If each record has a different subject, the data do not identify people.
  drawn = "records" if len(people) == len(set(np.concatenate(ours["key"]))) else "people"
  half = math.inf
  if len(people) > 1:
    half = 1.96 * math.sqrt(len(people) / (len(people) - 1) * float(excess @ excess))
  told = abs(mean) > half and bool((np.sign(by_seed) == np.sign(mean)).all())
  low, high = max(mean - half, -1.0), min(mean + half, 1.0)
  seeds = ", ".join(f"{100 * value:+.1f}" for value in by_seed)
  verdict = (
    ("ahead" if mean > 0 else "behind") if told else "neither ahead nor behind, as far as these data tell"
  )
  sentence = (
    f"{one} minus {other}: {100 * mean:+.1f} points (95 % interval over {len(people)} {drawn} {100 * low:+.1f} to "
    f"{100 * high:+.1f}; by seed {seeds}): {verdict}"
  )
  return {
    "one": one,
    "other": other,
    "difference": mean,
    "per_seed": by_seed.tolist(),
    "interval": [low, high],
    "people": len(people),
    "told_apart": told,
    "sentence": sentence,
  }


def write(
  table: Mapping[str, Any],
  histories: Mapping[str, Sequence[Mapping[str, Any]]],
  workdir: pathlib.Path,
  own: Mapping[str, str] | None = None,
) -> None:
  """Writes `table.json`, `table.md`, `accuracy.png` and `report.html`, and each row's `confusion.png` and `curves.png`.

  Args:
    table: the table, as returned by `jaxfer.study.study.run`.
    histories: name of a row -> metrics of its trainings, each with the name of the "member".
    workdir: folder of the study, which contains the "folder" of each row.
    own: figures in `workdir` that the system has drawn, file name -> caption.
  """
  files.write_json(workdir / "table.json", table)
  files.write_atomic(workdir / "table.md", markdown(table))
  accuracy_png(table, workdir / "accuracy.png")
  figures = [
    (
      workdir / "accuracy.png",
      "Accuracy of each row: ours with 95 % interval and single seeds"
      + (", and the published value." if table["source"] else "."),
    ),
    *((workdir / name, caption) for name, caption in (own or {}).items()),
  ]
  for row in table["rows"]:
    at = workdir / row["folder"]
    if np.sum(row["confusion"]):
      title = f"{row['name']}: {round(row['correct'], 1)} of {row['count']} correct ({row['mean']:.1%})"
      plots.confusion_png(row["confusion"], row["label_names"], at / "confusion.png", title)
      figures.append(
        (
          at / "confusion.png",
          f"{row['name']}: confusion matrix of the test records. Rows are the true classes.",
        )
      )
    if histories[row["name"]]:
      plots.learning_curves_png(histories[row["name"]], at / "curves.png", row["name"])
      figures.append(
        (
          at / "curves.png",
          f"{row['name']}: learning curves. The line is the mean of the trainings, the band their range.",
        )
      )
    figures += [(at / name, f"{row['name']}: {caption}") for name, caption in row["figures"].items()]
  pages.write_study(workdir / "report.html", {**table, "tables": further_tables(table)}, figures)


def text(table: Mapping[str, Any]) -> str:
  """Returns the table as plain text, followed by notes."""
  lines = "\n".join(_lines(table))
  whole = f"{table['title']}\n\n{tables.text(*_cells(table), digits=2)}\n"
  for further in further_tables(table):
    whole += f"{further['title']}\n\n{tables.text(further['header'], further['rows'], digits=2)}\n"
  return whole + lines


def markdown(table: Mapping[str, Any]) -> str:
  """Returns the table and its notes as Markdown."""
  whole = f"# {table['title']}\n\n{tables.markdown(*_cells(table), digits=2)}\n"
  for further in further_tables(table):
    whole += f"## {further['title']}\n\n{tables.markdown(further['header'], further['rows'], digits=2)}\n"
  return whole + "".join(f"- {line}\n" for line in _lines(table))


def further_tables(table: Mapping[str, Any]) -> list[dict[str, Any]]:
  """Returns the further tables below the main one (title, header, rows): the system's own, and further numbers."""
  names = list(dict.fromkeys(name for row in table["rows"] for name in row["summaries"]))
  if not names:
    return list(table["tables"])
  cells: list[list[tables.Cell]] = [
    [row["name"], *(_with_spread(*row["summaries"].get(name, (None, None))) for name in names)]
    for row in table["rows"]
  ]
  title = "Mean and standard deviation over the trainings of a row"
  return [*table["tables"], {"title": title, "header": ["", *names], "rows": cells}]


def _with_spread(mean: float | None, spread: float | None) -> str | None:
  if mean is None:
    return None
  return f"{mean:.4g}" + ("" if spread is None else f" ± {spread:.2g}")


def _cells(table: Mapping[str, Any]) -> tables.Table:
  """Returns the header and the cells of the table, with accuracies in percent."""
  header = ["", "published %", "ours %", "sd", "95 % interval", "by seed", "correct", "failed"]
  rows: list[list[tables.Cell]] = []
  for row in table["rows"]:
    low, high = (100 * bound for bound in row["interval"])
    rows.append(
      [
        row["name"],
        None if row["published"] is None else 100 * row["published"],
        100 * row["mean"],
        None if row["std"] is None else 100 * row["std"],
        f"{low:.1f} to {high:.1f}",
        " ".join(f"{100 * value:.2f}" for value in row["per_seed"]),
        f"{round(row['correct'], 1)}/{row['count']}",
        len(row["failed"]),
      ]
    )
  for row in table["not_trained"]:
    printed = None if row["published"] is None else 100 * row["published"]
    rows.insert(row["place"], [row["name"], printed, "- (pre-training failed)", *[None] * (len(header) - 3)])
  return header, rows


def _lines(table: Mapping[str, Any]) -> list[str]:
  first, environment, timing = table["rows"][0], table["environment"], table["timing"]
  lines = [
    f"published: {table['source']}" if table["source"] else pages.NOT_COMPARED,
    f"ours: preset {table['preset']}, seeds {', '.join(map(str, table['seeds']))}; sd over seeds; Wilson's interval of "
    f"the different records tested, at the mean over seeds; chance {100 * first['chance']:.1f} %",
    *_by_rows(table, lambda row: f"{row['tested']}; {row['records']} different records", "tested"),
    *(
      f"accuracy is the mean of {row['trials']} trials"
      for row in table["rows"][:1]
      if row.get("trials", 1) > 1
    ),
    *([table["note"]] if table["note"] else []),
    *(comparison["sentence"] for comparison in table["comparisons"]),
  ]
  for row in table["rows"]:
    lines += [
      f"failed: {row['name']}, {tables.not_finite(failed)}; its records count as wrong"
      for failed in row["failed"]
    ]
  lines += [f"remark: {row['name']}, {line}" for row in table["rows"] for line in row["warnings"]]
  lines += [f"not trained: {row['name']}, its pre-training {row['why']}" for row in table["not_trained"]]
  lines += _by_rows(table, _data, "data")
  lines += [
    f"data: {note}"
    for note in dict.fromkeys(n for row in table["rows"] for n in row["data"].get("notes", ()))
  ]
  versions = ", ".join(f"{name} {value}" for name, value in environment.items() if name != "device")
  lines.append(f"{environment['device']}; {versions}")
  lines.append(
    f"{sum(row['members'] for row in table['rows'])} trainings in {timing['seconds']:.0f} s, "
    f"{timing['compile_seconds']:.0f} s of it compiling"
    + (
      f", besides {timing['pretrainings']} pre-trainings in {timing['pretraining_seconds']:.0f} s"
      if timing.get("pretrainings")
      else ""
    )
  )
  return lines


def _by_rows(table: Mapping[str, Any], words: Callable[[Mapping[str, Any]], str], what: str) -> list[str]:
  """Returns a line for each distinct description of rows. It names the rows unless it applies to all of them."""
  names: dict[str, list[str]] = {}
  for row in table["rows"]:
    names.setdefault(words(row), []).append(row["name"])
  return [
    f"{what}: {said}" if len(names) == 1 else f"{what} ({', '.join(rows)}): {said}"
    for said, rows in names.items()
  ]


def _data(row: Mapping[str, Any]) -> str:
  """Describes the data of a row in words."""
  data = row["data"]
  apart = ("name", "embedded_version", "fingerprint", "notes")
  options = ", ".join(f"{name} {value}" for name, value in data.items() if name not in apart)
  version = data.get("embedded_version")
  drawn = f"; embedded data, version {version}" if version else ""
  return f"{data['name']}, {options}{drawn}; fingerprint {data['fingerprint'][:16]}"


def accuracy_png(table: Mapping[str, Any], path: str | pathlib.Path) -> None:
  """Draws each row's accuracy: seeds as ticks, their mean with Wilson's interval, the published value as a diamond.

  If chance is far below all of them, it is named in the legend but not drawn, because the marks would lie too close
  together.
  """
  rows = table["rows"]
  at = np.arange(len(rows))[::-1]
  means = np.asarray([100 * row["mean"] for row in rows])
  bounds = 100 * np.transpose([row["interval"] for row in rows])
  with plots.style():
    figure = plots.new_figure(1.7 + 0.42 * len(rows))
    axes = figure.add_subplot()
    error = np.abs(bounds - means)
    look = {"color": plots.COLOURS[0], "capsize": 3, "markersize": 7, "zorder": 3}
    axes.errorbar(means, at, xerr=error, fmt="o", label="ours, 95 % interval", **look)
    for place, row in zip(at, rows, strict=True):
      seeds = [100 * value for value in row["per_seed"]]
      axes.plot(seeds, [place - 0.22] * len(seeds), "|", color=plots.GREY, markersize=8)
    published = [(100 * row["published"], p) for p, row in zip(at, rows, strict=True) if row["published"]]
    if published:
      axes.plot(*np.transpose(published), "D", color=plots.COLOURS[1], markersize=6, label="published")
    axes.plot([], [], "|", color=plots.GREY, markersize=8, label="seeds")
    chance, (low, high) = 100 * rows[0]["chance"], axes.get_xlim()
    if low - chance < high - low:
      axes.axvline(chance, color=plots.GREY, linewidth=1, linestyle=":", label="chance")
    else:
      axes.plot([], [], " ", label=f"chance: {chance:.1f} %")
    axes.set_yticks(at, [row["name"] for row in rows])
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.set_xlabel("accuracy (%)")
    figure.legend(loc="outside lower center", ncols=4)
    plots.write_png(figure, path, textwrap.fill(table["title"], 50))
