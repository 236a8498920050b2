"""A test for people: writes a printable sheet of labelled examples and numbered pictures, and scores the answers.

In paper 000 (section 3.3), ten people saw one labelled picture of each class and then named 70 other pictures.
"""

import base64
import csv
import dataclasses
import io
import pathlib
from collections.abc import Mapping, Sequence
from html import escape

import numpy as np

from jaxfer import files
from jaxfer.data import emotions
from jaxfer.data.encode import png
from jaxfer.errors import UserError
from jaxfer.report import html

SHEET, ANSWERS, KEY = "sheet.html", "answers.csv", "key.csv"
_PER_PAGE = 25  # Five rows of five pictures fill an A4 page.


@dataclasses.dataclass(frozen=True)
class Answered:
  """Number of correct answers of one person.

  Attributes:
    name: name of the person, taken from the name of the file.
    correct: class -> number of its pictures that the person named correctly.
    count: class -> number of its pictures.
  """

  name: str
  correct: Mapping[str, int]
  count: Mapping[str, int]

  @property
  def accuracy(self) -> float:
    """Share of all pictures that the person named correctly, in [0, 1]."""
    return sum(self.correct.values()) / sum(self.count.values())


def write(
  folder: pathlib.Path,
  examples: Mapping[str, np.ndarray],
  pictures: Sequence[np.ndarray],
  labels: Sequence[str],
  keys: Sequence[str],
) -> None:
  """Writes a test: `sheet.html` to print, `answers.csv` to fill in, and `key.csv`, which participants must not see.

  Args:
    folder: folder to write to; made if it does not exist.
    examples: class -> its labelled picture [height, width, 1 or 3] uint8, in the order of the sheet.
    pictures: pictures to name [height, width, 1 or 3] uint8, in the order of their numbers, which start from 1.
    labels: class of each picture.
    keys: key of the record of each picture.

  Raises:
    UserError: the folder already holds a test.
  """
  if there := [name for name in (SHEET, ANSWERS, KEY) if (folder / name).exists()]:
    raise UserError(f"{folder} already holds {there[0]}: choose another folder for a new people's test")
  files.make_folder(folder)
  html.write_page(folder / SHEET, "Name the expression", _sheet(examples, pictures), _STYLE)
  numbers = range(1, len(pictures) + 1)
  form = files.csv_text(["number", "answer"], [[number, ""] for number in numbers])
  files.write_atomic(folder / ANSWERS, form)
  key = files.csv_text(["number", "label", "record"], zip(numbers, labels, keys, strict=True))
  files.write_atomic(folder / KEY, key)


def score(folder: pathlib.Path, answers: Sequence[pathlib.Path]) -> list[Answered]:
  """Counts the correct answers in each file of answers, by the key in the folder.

  An answer is the name of a class or a synonym (`data.emotions`), in upper or lower case.

  Raises:
    UserError: the folder has no key; or a file of answers has a wrong header, an unknown number, a number twice or not
      at all, or an answer that is not a class.
  """
  key = folder / KEY
  if not key.is_file():
    raise UserError(
      f"{folder} holds no people's test ({KEY}): write one with `jaxfer study CONFIG --people {folder}`"
    )
  truth = {number: cells[0] for number, cells in _numbered(key, ["number", "label", "record"]).items()}
  names = sorted(set(truth.values()))
  return [_answered(path, truth, names) for path in answers]


def _answered(path: pathlib.Path, truth: Mapping[int, str], names: Sequence[str]) -> Answered:
  correct, count = dict.fromkeys(names, 0), dict.fromkeys(names, 0)
  given = _numbered(path, ["number", "answer"])
  if strangers := sorted(given.keys() - truth.keys()):
    raise UserError(
      f"{path}: there is no picture {strangers[0]}: the pictures are numbered 1 to {len(truth)}"
    )
  missing = sorted(number for number in truth if not given.get(number, [""])[0].strip())
  if missing:
    more = f" (further pictures without an answer: {len(missing) - 1})" if len(missing) > 1 else ""
    raise UserError(
      f"{path}: picture {missing[0]} has no answer{more}: write one of {', '.join(names)}; guess if need be"
    )
  for number, label in truth.items():
    try:
      named = names[emotions.find(given[number][0], names)]
    except ValueError as error:
      raise UserError(f"{path}: the answer to picture {number} {error}") from None
    count[label] += 1
    correct[label] += named == label
  return Answered(path.stem, correct, count)


def _numbered(path: pathlib.Path, header: Sequence[str]) -> dict[int, list[str]]:
  """Returns the rows of a CSV file: the number in the first column -> the other cells."""
  try:
    lines = list(csv.reader(io.StringIO(path.read_text(encoding="utf-8-sig"))))
  except OSError as error:
    raise UserError(
      f"answers {path} cannot be read ({error.strerror}): name a filled copy of {ANSWERS}"
    ) from error
  except (UnicodeDecodeError, csv.Error) as error:
    raise UserError(f"{path} is not a CSV file in UTF-8 ({error}): save it in this format") from error
  if not lines or [name.strip() for name in lines[0]] != list(header):
    shown = " ".join(",".join(lines[0] if lines else []).split())[:40]
    raise UserError(f"{path} begins with '{shown}': its first line must be {','.join(header)}")
  rows: dict[int, list[str]] = {}
  for at, cells in enumerate(lines[1:], start=2):
    if not any(cell.strip() for cell in cells):
      continue
    if len(cells) != len(header):
      raise UserError(f"{path}, line {at}: {len(cells)} columns, expected {len(header)} ({','.join(header)})")
    try:
      number = int(cells[0])
    except ValueError:
      shown = " ".join(cells[0].split())[:20]
      raise UserError(f"{path}, line {at}: '{shown}' is not the number of a picture") from None
    if number in rows:
      raise UserError(f"{path}, line {at}: picture {number} is answered twice; keep one answer")
    rows[number] = cells[1:]
  return rows


def _sheet(examples: Mapping[str, np.ndarray], pictures: Sequence[np.ndarray]) -> list[html.Html]:
  words = ", ".join(examples)
  shown = [_picture(picture, name, html.element("figcaption", name)) for name, picture in examples.items()]
  blocks = [
    html.element("h1", "Name the expression"),
    html.prose(f"Name: {'_' * 30}    Date: {'_' * 16}"),
    html.prose(
      f"Below is one example of each of {len(examples)} expressions. {len(pictures)} other pictures follow. Write the "
      "one word that fits best under each, and guess if you are not sure. Please do not discuss the pictures until "
      "everyone has finished."
    ),
    html.element("div", *shown, class_="examples"),
  ]
  for start in range(0, len(pictures), _PER_PAGE):
    page = enumerate(pictures[start : start + _PER_PAGE], start=start + 1)
    cells = [
      _picture(p, f"picture {k}", html.element("figcaption", html.element("b", k), " ", _BLANK))
      for k, p in page
    ]
    grid = html.element("div", *cells, class_="pictures")
    blocks.append(html.element("section", html.element("p", words, class_="words"), grid))
  return blocks


def _picture(picture: np.ndarray, words: str, caption: html.Html) -> html.Html:
  """Returns a figure whose picture is embedded in the page."""
  data = base64.b64encode(png(picture)).decode()
  image = html.Html(f'<img src="data:image/png;base64,{data}" alt="{escape(words)}">')
  return html.element("figure", image, caption)


_BLANK = html.element("span", class_="blank")
_STYLE = """
:root { color-scheme: light; }
@page { size: A4; margin: 12mm; }
* { box-sizing: border-box; }
body { margin: 0; background: #fff; color: #000; font: 15px/1.4 system-ui, sans-serif; }
main { max-width: 186mm; margin: 0 auto; padding: 4mm 0; }
h1 { margin: 0 0 3mm; font-size: 1.5rem; }
p { margin: 0 0 4mm; white-space: pre-wrap; }
.words { font-weight: 600; text-align: center; }
.examples { display: grid; grid-template-columns: repeat(4, 1fr); gap: 6mm 4mm; }
.pictures { display: grid; grid-template-columns: repeat(5, 1fr); gap: 4mm 4mm; }
section { break-before: page; padding-top: 2mm; }
figure { margin: 0; break-inside: avoid; }
img { display: block; width: 100%; }
figcaption { display: flex; gap: 2mm; margin-top: 1.5mm; align-items: end; }
.examples figcaption { justify-content: center; font-weight: 600; }
.blank { flex: 1; border-bottom: 1px solid #555; }
@media screen { section { margin-top: 10mm; border-top: 1px solid #ccc; padding-top: 6mm; } }
"""
