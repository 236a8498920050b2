"""Scans pictures listed in a table with their paths, labels and optional columns; decodes no image.

| column | |
|---|---|
| path | of the picture, relative to the table's folder and inside it |
| label | class name |
| subject | the person |
| split | train, validation or test, or another usual word for one (`splits.find`) |
| sequence, frame | the film that the picture is from, and its number in the film |
| x, y, w, h | face box in pixels, all four or none |
| landmarks | `x0 y0 x1 y1 ...` in pixels: 2, 3 or 5 points (`Still.points`), 37 (RAF-DB's order) or 68 (iBUG's) |
| gender, age, race | group of people in your words, such as `female` or `20-39`; the accuracy is reported by group |

The first two columns are required. If there is a column `subject`, it must be filled in every row, since an unknown
person cannot be kept apart from the others.
"""

import dataclasses
import math
import os
import re
from pathlib import Path

import numpy as np

from jaxfer.data import align, splits
from jaxfer.data.datasets.image_folder.scan import count, sort_names
from jaxfer.data.datasets.manifest import table
from jaxfer.data.prepare import Findings, Problem
from jaxfer.data.stills import File, Still
from jaxfer.errors import UserError

REQUIRED = ("path", "label")
GROUPS = ("gender", "age", "race")  # The accuracy is also reported by these columns.
OPTIONAL = ("subject", "split", "sequence", "frame", "x", "y", "w", "h", "landmarks", *GROUPS)
POINTS = (2, 3, 5, 37, 68)  # Numbers of landmarks that are understood.


def scan(source: Path, num_landmarks: int, findings: Findings) -> tuple[tuple[str, ...], list[Still]]:
  """Reads the table.

  Args:
    source: the table, or a folder with no other table.
    num_landmarks: number of landmarks to keep, 0 for none. Rows with another number are bad; rows without are counted.
    findings: counts and problems are added to it.

  Returns:
    The class names in ascending order (numeric order if all are numbers), and the stills, whose keys are the paths.

  Raises:
    UserError: there is no table, or none of its rows can be used and none is bad.
  """
  path = table.find(source)
  rows: list[tuple[str, Still]] = []  # Class name and still.
  seen: dict[tuple[object, ...], int] = {}
  times: dict[str, int] = {}
  for row in table.read(path, REQUIRED, OPTIONAL, findings):
    try:
      relative, file = locate(path.parent, row["path"])
      square, landmarks = _square(row), read_landmarks(row["landmarks"])
      if not row["label"]:
        raise ValueError("no label")
      where = f"{path.name}, line {row.line}{_shown_box(row)}"
      still = _still(row, relative, file, square, landmarks, num_landmarks)
      # Contradicting rows about one face are found later, when the pictures are read.
      line = seen.setdefault((relative, square, row["label"], still.subject, still.split), row.line)
      if line != row.line:
        findings.odd.append(
          Problem(relative, f"listed in line {line} and again in line {row.line}; used once")
        )
        continue
      times[relative] = times.get(relative, 0) + 1
      key = relative if times[relative] == 1 else f"{relative}#{times[relative]}"
      rows.append((row["label"], dataclasses.replace(still, key=key, where=where)))
    except ValueError as error:
      findings.bad.append(Problem(str(path), f"line {row.line}, {table.shown(row['path'])}: {error}"))
  if not rows and not findings.bad:
    raise UserError(f"{path} has a header but no rows")
  named = [still.subject != "" for _, still in rows]
  if any(named) and not all(named):
    for _, still in rows:
      if not still.subject:
        findings.bad.append(Problem(still.key, "no subject, although others have one"))
    rows = [(label, still) for label, still in rows if still.subject]
  names = sort_names({label for label, _ in rows})
  index = {name: i for i, name in enumerate(names)}
  stills = [
    dataclasses.replace(still, label=index[label], subject=still.subject or still.key)
    for label, still in rows
  ]
  without = sum(still.landmarks is None for still in stills)
  if num_landmarks and without:
    findings.notes.append(f"{without} of {len(stills)} pictures have no landmarks: written as NaN")
  count(stills, names, any(named), findings)
  return names, stills


def locate(folder: Path, text: str) -> tuple[str, Path]:
  """Resolves a path of the table to its normal form relative to the folder, and to the file.

  Raises:
    ValueError: the path is empty or outside the folder, or there is no such file.
  """
  if not text:
    raise ValueError("no path")
  if "\0" in text or len(text) > 4096:
    raise ValueError("not a path")
  file = Path(os.path.normpath(folder / text))
  if "\\" in text and not os.path.isfile(file):  # Unlike `is_file`, this allows a name that is too long.
    file = Path(os.path.normpath(folder / text.replace("\\", "/")))
  if not file.is_relative_to(folder):
    raise ValueError(f"is outside {folder}: give paths inside the table's folder")
  try:
    there = file.is_file()
  except OSError as error:
    raise ValueError(f"cannot be looked up ({error.strerror})") from None
  if not there:
    raise ValueError("there is no such file")
  return file.relative_to(folder).as_posix(), file


def read_landmarks(text: str) -> np.ndarray | None:
  """Parses `x0 y0 x1 y1 ...`, separated by spaces, commas or semicolons, as float64 [K, 2]; None for "".

  Raises:
    ValueError: values are not finite numbers, or their number is not one of `POINTS`.
  """
  if not text:
    return None
  try:
    values = np.array([float(word) for word in re.split(r"[\s,;]+", text.strip(" ,;\t"))])
  except ValueError:
    raise ValueError(f"landmarks are {table.shown(text)}: expected x0 y0 x1 y1 ...") from None
  if len(values) not in [2 * points for points in POINTS] or not np.isfinite(values).all():
    counts = ", ".join(map(str, POINTS))
    raise ValueError(
      f"landmarks are {len(values)} numbers: expected two finite numbers for each of {counts} points"
    )
  return values.reshape(-1, 2)


def face_points(landmarks: np.ndarray) -> np.ndarray:
  """Selects the 2, 3 or 5 points that place a face; pairs are ordered from image-left to image-right.

  37 points (data/README.md, section 6: eyes 13-18 and 19-24, mouth 25-36) give the eyes and the middle of the mouth;
  68 (iBUG: eyes 36-41 and 42-47, tip of the nose 30, corners of the mouth 48 and 54) give five.
  """
  if len(landmarks) == 37:
    mouth = landmarks[25:37]
    corners = mouth[[mouth[:, 0].argmin(), mouth[:, 0].argmax()]]
    points = np.stack([landmarks[13:19].mean(axis=0), landmarks[19:25].mean(axis=0), corners.mean(axis=0)])
  elif len(landmarks) == 68:
    eyes = landmarks[36:42].mean(axis=0), landmarks[42:48].mean(axis=0)
    points = np.stack([*eyes, landmarks[30], landmarks[48], landmarks[54]])
  else:
    points = landmarks.copy()
  for pair in ([0, 1], [3, 4]) if len(points) == 5 else ([0, 1],):
    points[pair] = points[pair][np.argsort(points[pair, 0])]
  return points


def _still(
  row: table.Row, key: str, file: Path, square: align.Square | None, landmarks: np.ndarray | None, kept: int
) -> Still:
  split = splits.find(row["split"])
  if row["split"] and not split:
    raise ValueError(f"split is {table.shown(row['split'])}: expected train, validation or test")
  frame = row["frame"]
  if frame and not re.fullmatch(r"[0-9]{1,9}", frame):
    raise ValueError(f"frame is {table.shown(frame)}: expected a whole number")
  if kept and landmarks is not None and len(landmarks) != kept:
    raise ValueError(f"{len(landmarks)} landmarks: option landmarks asks for {kept}")
  return Still(
    key=key,
    subject=row["subject"],
    label=0,
    source=File(file),
    square=square,
    points=None if landmarks is None else face_points(landmarks),
    split=split,
    extras={
      "sequence": row["sequence"],
      "frame": int(frame) if frame else -1,
      **{name: row[name] for name in GROUPS},
    },
    landmarks=landmarks if kept else None,
  )


def _shown_box(row: table.Row) -> str:
  texts = [row[column] for column in "xywh"]
  return f", box {texts[0]},{texts[1]} {texts[2]} x {texts[3]}" if any(texts) else ""


def _square(row: table.Row) -> align.Square | None:
  texts = [row[column] for column in "xywh"]
  if not any(texts):
    return None
  try:
    x, y, width, height = map(float, texts)
  except ValueError:
    raise ValueError(f"box is {table.shown(','.join(texts))}: expected x, y, w, h in pixels") from None
  if not (math.isfinite(x + y + width + height) and width > 0 and height > 0):
    raise ValueError(f"box {x:g},{y:g} {width:g} x {height:g} has no extent")
  return align.box_square(x, y, width, height)
