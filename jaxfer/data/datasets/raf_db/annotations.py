"""Parses the lists and annotations of RAF-DB, one function per format. Errors in the text raise ValueError."""

import re

import numpy as np

NUM_LANDMARKS = 37
# Attributes in the manual annotations, by code from 0, as listed in the distributor's readme.
ATTRIBUTES = {
  "gender": ("male", "female", "unsure"),
  "race": ("Caucasian", "African-American", "Asian"),
  "age": ("0-3", "4-19", "20-39", "40-69", "70+"),
}
_LINE = re.compile(r"((?:train|test)_\d{3,5})(?:_aligned)?\.jpe?g\s+(\d{1,2})", re.IGNORECASE)


def read_line(line: str, num_classes: int) -> tuple[str, int]:
  """Reads a line of the list of labels, e.g. `train_00001.jpg 5`, as name and class index (from 0).

  Raises:
    ValueError: the line has another form, or the label is not 1 to `num_classes`.
  """
  match = _LINE.fullmatch(line.strip())
  if match is None:
    raise ValueError(f"{line.strip()[:40]!r}: expected a name and a label such as 'train_00001.jpg 5'")
  if not 1 <= int(match[2]) <= num_classes:
    raise ValueError(f"label of {match[1]} is {int(match[2])}: expected 1 to {num_classes}")
  return match[1].lower(), int(match[2]) - 1


def read_automatic(text: str) -> np.ndarray:
  """Reads the automatic landmarks: one `x<TAB>y` per line, in pixels of the original picture.

  The order is: brows 0-2 and 3-5, nose 6-12, eyes 13-18 and 19-24, mouth 25-36.

  Returns:
    float64 [37, 2].

  Raises:
    ValueError: their number is wrong, or a value is not a finite number.
  """
  return _numbers(text.split(), 2 * NUM_LANDMARKS, "landmarks").reshape(NUM_LANDMARKS, 2)


def read_manual(text: str) -> tuple[np.ndarray, dict[str, str]]:
  """Reads the manual points: eyes, nose tip and corners of the mouth, separated by tabs or spaces.

  Three more numbers follow: the codes of gender, race and age group.

  Returns:
    (points, attributes). The points are float64 [5, 2], in pixels of the original picture. Each pair is ordered by x,
    because the distributor does not define left and right. The attributes have the keys of `ATTRIBUTES`.

  Raises:
    ValueError: the text has another form.
  """
  values = _numbers(text.split(), 13, "manual points and attributes")
  attributes = {}
  for (name, words), value in zip(ATTRIBUTES.items(), values[10:], strict=True):
    if value not in range(len(words)):
      raise ValueError(f"{name} is {value:g}: expected 0 to {len(words) - 1}")
    attributes[name] = words[int(value)]
  points = values[:10].reshape(5, 2)
  for first in (0, 3):
    pair = slice(first, first + 2)
    points[pair] = points[pair][np.argsort(points[pair, 0], kind="stable")]
  return points, attributes


def read_box(text: str) -> tuple[float, float, float, float]:
  """Reads a face box, four or more numbers `x1 y1 x2 y2 ...`, as (x, y, width, height) in pixels.

  Raises:
    ValueError: there are fewer numbers, or the box has no area.
  """
  x1, y1, x2, y2 = _numbers(text.split()[:4], 4, "face box")
  if not (x1 < x2 and y1 < y2):
    raise ValueError(f"face box {x1:g} {y1:g} {x2:g} {y2:g} has no area: expected x1 y1 x2 y2")
  return float(x1), float(y1), float(x2 - x1), float(y2 - y1)


def _numbers(words: list[str], count: int, what: str) -> np.ndarray:
  if len(words) != count:
    raise ValueError(f"{what}: {len(words)} numbers, expected {count}")
  try:
    values = np.array([float(word) for word in words])
  except ValueError as error:
    raise ValueError(f"{what}: {error}") from None
  if not np.isfinite(values).all():
    raise ValueError(f"{what}: not all numbers are finite")
  return values
