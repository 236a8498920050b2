"""Scans the distributor's folder of JAFFE for names and ratings; decodes no picture.

213 pictures named KA.AN1.39.tiff (person, posed emotion and take, serial number) and a README with two tables of
ratings; the second table leaves fear out. Layout and counts: data/README.md, section 1; Lyons et al. (1998).
"""

import dataclasses
import re
from collections import Counter
from pathlib import Path

from jaxfer.data import tree
from jaxfer.data.prepare import Belief, Count, Findings, Problem
from jaxfer.data.stills import File, Still
from jaxfer.errors import UserError

LABELS = ("anger", "disgust", "fear", "happiness", "neutral", "sadness", "surprise")
CODES = ("AN", "DI", "FE", "HA", "NE", "SA", "SU")
POSED_COUNTS = (30, 29, 32, 31, 30, 31, 30)
# Paper 000, Table 1: apparently the highest of each picture's ratings, not the posed emotions.
RATED_COUNTS = (26, 39, 8, 40, 25, 34, 41)
RATINGS = {"HAP": 3, "SAD": 5, "SUR": 6, "ANG": 0, "DIS": 1, "FEA": 2}  # Column -> index into LABELS.
LABEL_SOURCES = ("filename", "ratings")
SERIALS = frozenset(range(1, 220)) - {8, 12, 21, 76, 108, 183}

_PICTURE = re.compile(rf"([A-Z]{{2}})\.({'|'.join(CODES)})(\d)\.(\d{{1,3}})", re.IGNORECASE)
_TIFF, _OTHER = (".tiff", ".tif"), (".jpg", ".jpeg", ".png", ".bmp")
_README_LIMIT = 1 << 20  # Bytes; the distributor's README has 18 thousand.
_ROW = re.compile(r"\d+\s.*\b([A-Z]{2})[-.]([A-Z]{2}\d)", re.IGNORECASE)

Pictures = dict[str, tuple[re.Match[str], Path]]  # "KA.AN1.39" -> the match of its name, and its file.


@dataclasses.dataclass(frozen=True)
class Ratings:
  """The first table of ratings in a README.

  Attributes:
    means: "KA-AN1" -> mean ratings 1 to 5, in the order of `RATINGS`.
    odd: one message for each row that was left out.
  """

  means: dict[str, tuple[float, ...]]
  odd: tuple[str, ...]


def scan(source: Path, label_source: str, neutral_below: float, findings: Findings) -> list[Still]:
  """Reads names and, if asked for, ratings; adds counts and problems of the copy to `findings`.

  Args:
    source: the folder of the pictures, or one above it.
    label_source: "filename" takes the posed emotion; "ratings" takes the emotion with the highest of six ratings, or
      neutral if none of them reaches `neutral_below`.
    neutral_below: mean rating, 1 to 5.
    findings: counts and problems are added to it.

  Returns:
    One still per labelled picture, by key, e.g. "KA.AN1.39".

  Raises:
    UserError: there is no picture, or no table of ratings although ratings were asked for.
  """
  pictures, readmes = _list_files(source, findings)
  if not pictures:
    raise UserError(
      f"source {source} holds no pictures of JAFFE: expected names such as KA.AN1.39.tiff in it or below it"
    )
  _check_serials(pictures, findings)
  ratings = _find_ratings(readmes, findings)
  if ratings is not None:
    _compare(pictures, ratings, findings)
  elif label_source == "ratings":
    raise UserError(
      f"source {source} holds no table of ratings ('# HAP SAD SUR ANG DIS FEA PIC' in a README beside the "
      "pictures): add the README, or take label_source=filename"
    )
  labels = {key: CODES.index(match[2].upper()) for key, (match, _) in pictures.items()}
  if label_source == "ratings":
    assert ratings is not None
    labels = _rated_labels(pictures, ratings, neutral_below, findings)
  by_class = Counter(labels.values())
  expected = RATED_COUNTS if label_source == "ratings" else POSED_COUNTS
  findings.counts += [
    Count("pictures", len(pictures), 213),
    Count("subjects", len({match[1].upper() for match, _ in pictures.values()}), 10),
    Count(f"labelled by {label_source}", len(labels), 213),
    *(Count(f"  {name}", by_class[i], expected[i]) for i, name in enumerate(LABELS)),
  ]
  return [Still(key, key[:2], label, File(pictures[key][1])) for key, label in sorted(labels.items())]


def read_ratings(text: str) -> Ratings | None:
  """Reads the first table of ratings in a README; the second, which leaves fear out, is ignored.

  Returns:
    The ratings, or None if there is no such table.

  Raises:
    ValueError: the header names a column twice.
  """
  columns: list[str] = []
  means: dict[str, tuple[float, ...]] = {}
  odd = []
  for number, line in enumerate(text.splitlines(), 1):
    words = line.upper().split()
    if words[-1:] == ["PIC"] and {"HAP", "SAD"} <= set(words):
      if columns:
        break  # The header of the second table.
      columns = [word for word in words if word in RATINGS]
      if len(set(columns)) < len(columns):
        raise ValueError(f"line {number}: the table of ratings names a column twice")
    elif columns and "EXCLUDED" in line.upper() and means:
      break  # Its heading is "Semantic Ratings Data (Fear Excluded)".
    elif columns and (match := _ROW.match(line.strip())):
      key = f"{match[1]}-{match[2]}".upper()
      try:
        values = dict(zip(columns, map(float, words[1:-1]), strict=True))
        if not all(1 <= value <= 5 for value in values.values()):
          raise ValueError
        ordered = tuple(values[column] for column in RATINGS)
      except (KeyError, ValueError):
        odd.append(f"line {number}: ratings of {key} are not six numbers from 1 to 5; left out")
        continue
      if key in means:
        odd.append(f"line {number}: a second row of {key}; left out")
      means.setdefault(key, ordered)
  return Ratings(means, tuple(odd)) if means else None


def _list_files(source: Path, findings: Findings) -> tuple[Pictures, list[Path]]:
  pictures: Pictures = {}
  readmes, other = [], Counter[str]()
  for path in tree.walk(source):
    match = _PICTURE.fullmatch(path.stem)
    suffix = path.suffix.lower()
    if path.name.lower().startswith("readme"):
      readmes.append(path)
    elif suffix not in _TIFF + _OTHER:
      continue
    elif match is None:
      findings.odd.append(Problem(str(path), "its name is not that of a picture of JAFFE; left out"))
    elif (key := path.stem.upper()) in pictures:
      findings.odd.append(Problem(str(path), f"a second copy of {pictures[key][1]}; left out"))
    else:
      pictures[key] = match, path
      other[suffix] += suffix in _OTHER
  if converted := +other:
    kinds = ", ".join(f"{count} {suffix}" for suffix, count in converted.most_common())
    findings.notes.append(f"not the distributor's TIFF files: {kinds}; used as they are")
  return pictures, readmes


def _check_serials(pictures: Pictures, findings: Findings) -> None:
  serials = Counter(int(match[4]) for match, _ in pictures.values())
  missing, foreign = sorted(SERIALS - set(serials)), sorted(set(serials) - SERIALS)
  repeated = sorted(serial for serial, count in serials.items() if count > 1)
  seen = [f"{what} {_numbers(these)}" for what, these in (("lacks", missing), ("has", foreign)) if these]
  if repeated:
    seen.append(f"repeats {_numbers(repeated)}")
  findings.beliefs.append(
    Belief(
      "serial numbers run from 1 to 219 without 8, 12, 21, 76, 108, 183",
      not seen,
      ", ".join(seen) or f"{len(serials)} numbers",
    )
  )


def _numbers(values: list[int]) -> str:
  shown = ", ".join(map(str, values[:6]))
  return f"{shown} and {len(values) - 6} more" if len(values) > 6 else shown


def _find_ratings(readmes: list[Path], findings: Findings) -> Ratings | None:
  for path in readmes:
    try:
      ratings = read_ratings(tree.read_text(path, _README_LIMIT))
    except (OSError, ValueError) as error:
      findings.odd.append(Problem(str(path), f"{error}; its ratings were ignored"))
      continue
    if ratings is not None:
      findings.odd += [Problem(str(path), what) for what in ratings.odd]
      return ratings
  return None


def _rating_key(match: re.Match[str]) -> str:
  return f"{match[1]}-{match[2]}{match[3]}".upper()


def _compare(pictures: Pictures, ratings: Ratings, findings: Findings) -> None:
  """Reports ratings without a picture and pictures without ratings; neither is changed to match the other."""
  keys = {_rating_key(match) for match, _ in pictures.values()}
  for key in sorted(set(ratings.means) - keys):
    findings.odd.append(Problem(key, "there are ratings, but no picture of that name; not used"))
  unrated = sorted(keys - set(ratings.means))
  findings.counts.append(Count("rated pictures", len(keys) - len(unrated), len(keys)))
  for key in unrated:
    findings.odd.append(Problem(key, "a picture without ratings"))


def _rated_labels(
  pictures: Pictures,
  ratings: Ratings,
  neutral_below: float,
  findings: Findings,
) -> dict[str, int]:
  labels, highest, ties = {}, [], 0
  for key, (match, _) in pictures.items():
    means = ratings.means.get(_rating_key(match))
    if means is None:
      continue
    best = max(means)
    highest.append(best)
    ties += means.count(best) > 1
    strongest = list(RATINGS.values())[means.index(best)]
    labels[key] = LABELS.index("neutral") if best < neutral_below else strongest
  highest.sort()
  neutral = RATED_COUNTS[LABELS.index("neutral")]
  findings.notes += [
    f"{len(pictures) - len(labels)} pictures have no ratings: they are counted, but not written",
    f"{ties} pictures have two highest ratings: the first in the order {', '.join(RATINGS)} was taken",
  ]
  if len(highest) > neutral:
    low, high = highest[neutral - 1], highest[neutral]
    findings.notes.append(
      f"{neutral} pictures would be neutral, as in paper 000, with neutral_below above {low:g} and up to {high:g}"
    )
  return labels
