"""Compares people with the network (paper 000, section 3.3).

Writes a test in which people name the expressions of a study's test records, and prints their results like Table 3.
"""

import dataclasses
import pathlib
from collections.abc import Sequence

import numpy as np

from jaxfer import config as configuration
from jaxfer import folders
from jaxfer.config import StudyConfig
from jaxfer.errors import UserError
from jaxfer.report import people, tables
from jaxfer.study import trainings
from jaxfer.study.split import split_of
from jaxfer.study.task import options_of
from jaxfer.systems.stacked_autoencoder import published


def write_test(
  study: StudyConfig,
  preset: str | None,
  assignments: Sequence[str],
  folder: pathlib.Path,
  data_dir: pathlib.Path,
) -> int:
  """Writes the sheet, the form for answers and the key of a test for people.

  The test shows the test records of the study's first row and first seed, in random order. It also shows one example of
  each class, drawn from the training records of the same row and seed.

  Args:
    study: the study, as read from its file.
    preset: one of its presets, or None; see `jaxfer.study.study.run`.
    assignments: overrides; see `jaxfer.study.study.run`.
    folder: folder for the test.
    data_dir: folder of the prepared data sets.

  Returns:
    Number of images to be named.

  Raises:
    UserError: the data of the study are not still images, or its split does not test a fixed number of records of each
      class; or as `report.people.write` and `configuration.resolve`.
  """
  study, rows = configuration.resolve(study, preset, assignments, options_of)
  config = next(iter(rows.values()))
  if not isinstance(study.seeds, int):
    config = dataclasses.replace(config, seed=study.seeds[0])
  if not config.split.kind.startswith("per_class"):
    raise UserError(
      f"split.kind={config.split.kind}: a people's test shows equally many images of each class; "
      "take split.kind=per_class"
    )
  with folders.explained(folder):
    folders.check(folder, None, "choose another folder for a new people's test")
    folders.check_writable(folder)
  data = trainings.load_data(config, data_dir)
  if "image" not in data.arrays:
    raise UserError(
      f"data set '{config.data.name}' has no still images, and a people's test is printed on paper"
    )
  split, labels = split_of(config, data), data.arrays["label"]
  rng = np.random.default_rng([config.seed, len(data)])
  tested = rng.permutation(np.flatnonzero(split.test))
  examples = {
    name: rng.choice(np.flatnonzero(split.train & (labels == label)))
    for label, name in enumerate(data.label_names)
  }
  people.write(
    folder,
    {name: data.arrays["image"][row] for name, row in examples.items()},
    [data.arrays["image"][row] for row in tested],
    [data.label_names[labels[row]] for row in tested],
    [data.keys[row] for row in tested],
  )
  return len(tested)


def scored(folder: pathlib.Path, answers: Sequence[pathlib.Path]) -> str:
  """Scores the answers of people, and returns a table in the form of Table 3.

  The table contains the accuracy and the number of correct answers of each person, their mean, and the paper's results.

  Args:
    folder: folder that `write_test` wrote.
    answers: one file of answers per person.

  Raises:
    UserError: as `report.people.score`.
  """
  results = people.score(folder, answers)
  names = list(results[0].count)
  paper = set(names) == set(published.CLASSES)
  names = list(published.CLASSES) if paper else names
  count = np.array([results[0].count[name] for name in names])
  correct = np.array([[result.correct[name] for name in names] for result in results])
  lines = [_line(result.name, own, count) for result, own in zip(results, correct, strict=True)]
  if len(results) > 1:
    lines.append(_line(f"mean of {len(results)} people", correct.mean(0), count))
  if paper:
    of = np.full(len(names), published.PER_CLASS)
    for title, table in (("people", published.PEOPLE), ("seeds of the net", published.NET)):
      mean = published.counts(table).mean(0)
      lines.append(_line(f"published, mean of {len(table)} {title}", mean, of))
  header = ["", "accuracy %", *names]
  of_each = f"of {count[0]}" if len(set(count)) == 1 else "of " + ", ".join(map(str, count))
  text = f"{tables.text(header, lines, digits=1)}\nNumber of correct answers per class, {of_each} images"
  if paper:
    text += (
      f"; of {published.PER_CLASS} in the published rows (paper 000, Tables 3 and 2: other images), whose accuracies "
      "are computed from the counts"
    )
  return text + ".\n"


def _line(name: str, correct: np.ndarray, count: np.ndarray) -> list[tables.Cell]:
  return [name, 100 * float(correct.sum() / count.sum()), *correct.tolist()]
