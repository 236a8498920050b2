"""Scans FER2013 in its forms: a csv of pixels, class folders, and FER+'s votes with the pictures of either form.

Layouts and counts: data/README.md, section 13; Goodfellow et al. (2013), Barsoum et al. (2016).
"""

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from jaxfer.data import emotions, splits, tree
from jaxfer.data.datasets.fer2013 import tables
from jaxfer.data.datasets.image_folder import layout
from jaxfer.data.prepare import Count, Findings, Problem
from jaxfer.data.stills import Bytes, File, Still
from jaxfer.errors import UserError

# By FER2013's code and by FER+'s columns; class folders of copies are often in alphabetical order, which is neither.
LABELS = {
  "fer2013": ("anger", "disgust", "fear", "happiness", "sadness", "surprise", "neutral"),
  "ferplus": tables.VOTES[:8],
}
CLASS_COUNTS = (4953, 547, 5121, 8989, 6077, 4002, 6198)
SPLIT_COUNTS = {"train": 28709, "validation": 3589, "test": 3589}
_NAMED = re.compile(r"(training|publictest|privatetest)_\d+", re.IGNORECASE)
_FERPLUS_FOLDERS = {"fer2013train": "train", "fer2013valid": "validation", "fer2013test": "test"}


def scan(source: Path, label_source: str, findings: Findings) -> list[Still]:
  """Finds the form, reads labels, and adds counts and problems of the copy to `findings`.

  Args:
    source: a folder that holds fer2013.csv, class folders, or FER+'s files with fer2013.csv or its pictures.
    label_source: "fer2013", or "ferplus" for the majority of ten votes. `extras["votes"]` has the votes in the order of
      `tables.VOTES`.
    findings: counts and problems are added to it.

  Returns:
    One still per labelled picture, in the order of the table or of the paths.

  Raises:
    UserError: the source holds nothing of the data set, or no votes although they were asked for.
  """
  files = list(tree.walk(source))
  tables_found = [(path, tables.header(path)) for path in files if path.suffix.lower() == ".csv"]
  pixels = [path for path, names in tables_found if {"emotion", "usage", "pixels"} <= set(names)]
  if pixels[1:]:
    findings.odd += [
      Problem(str(path), f"a second table, beside {pixels[0]}; left out") for path in pixels[1:]
    ]
  if label_source == "ferplus":
    votes = [path for path, names in tables_found if {"image name", "nf"} <= set(names)]
    stills = _ferplus(source, pixels[:1], votes[:1], files, findings)
  elif pixels:
    stills = _from_table(pixels[0], findings)
  else:
    stills = _from_folders(source, files, findings)
  if not stills and not findings.bad:
    raise UserError(
      f"source {source} holds nothing of FER2013: expected fer2013.csv (emotion,pixels,Usage) or "
      "train/<emotion>/*.jpg and test/<emotion>/*.jpg in it or below it"
    )
  _count(stills, label_source, findings)
  findings.notes.append("people are unknown: each picture counts as a different person")
  return stills


def _from_table(path: Path, findings: Findings) -> list[Still]:
  stills = []
  for number, row in enumerate(tables.read_rows(path)):
    if isinstance(row, ValueError):
      findings.bad.append(Problem(str(path), str(row)))
    elif row.emotion not in ("0", "1", "2", "3", "4", "5", "6"):
      what = f"line {row.line}: emotion is {row.emotion[:20]!r}, expected 0 (anger) to 6 (neutral)"
      findings.bad.append(Problem(str(path), what))
    else:
      stills.append(_still(f"fer{number:07d}", int(row.emotion), row.pixels, row.split))
  return stills


def _from_folders(source: Path, files: Iterable[Path], findings: Findings) -> list[Still]:
  """Labels pictures by their folders: words for the seven emotions, or the codes 0 to 6, but not both."""
  pictures = [path for path in files if layout.is_picture(path)]
  numbered = {path.parent.name for path in pictures} <= set(map(str, range(7)))
  stills = []
  unknown: Counter[str] = Counter()
  for path in pictures:
    name = path.parent.name
    try:
      label = int(name) if numbered else emotions.find(name, LABELS["fer2013"])
    except ValueError:
      unknown[str(path.parent)] += 1
      continue
    match = _NAMED.fullmatch(path.stem)
    split = tables.USAGES[match[1].lower()] if match else _split(path.parent.parent, source)
    key = path.relative_to(source).as_posix()
    stills.append(_still(key, label, File(path), split))
  for place, count in unknown.items():
    findings.bad.append(
      Problem(place, f"{count} pictures in a folder that is not named as an emotion of FER2013")
    )
  if numbered and stills:
    _check_codes(source, Counter(still.label for still in stills), findings)
  return stills


def _split(folder: Path, source: Path) -> str:
  """Returns the split after which a folder above the class is named; the nearest takes precedence."""
  for above in (folder, *folder.parents):
    if split := splits.find(above.name):
      return split
    if above == source:
      break
  return ""


def _check_codes(source: Path, counts: Counter[int], findings: Findings) -> None:
  """Refuses numbered folders in alphabetical order.

  They differ from FER2013's codes in 4, 5 and 6, and can be recognised because surprise is rare.
  """
  if counts[6] < min(counts[4], counts[5]):
    raise UserError(
      f"source {source}: its folders 0 to 6 seem to be in alphabetical order, not FER2013's codes (6, with "
      f"{counts[6]} pictures, is rarer than 4 and 5, as surprise is): rename them to angry, disgust, fear, happy, "
      "neutral, sad, surprise"
    )
  findings.notes.append("folder names are numbers: read as FER2013's codes, 0 (anger) to 6 (neutral)")


def _ferplus(
  source: Path, pixels: list[Path], votes: list[Path], files: list[Path], findings: Findings
) -> list[Still]:
  places: list[tuple[str, str, Bytes, tables.Voted]] = []
  joined = bool(pixels and votes)
  if joined:
    places = _join(pixels[0], votes[0], findings)
  else:
    for path in files:
      split = _FERPLUS_FOLDERS.get(path.parent.name.lower())
      if path.name.lower() == "label.csv" and split:
        places += _beside(path, split, findings)
  if not places and not findings.bad:
    raise UserError(
      f"source {source} holds no votes of FER+ with their pictures: expected fer2013new.csv and fer2013.csv, whose "
      "rows belong together, or FER2013Train/label.csv with fer0000000.png beside it"
    )
  stills, lost = [], Counter[str]()
  for key, split, place, voted in places:
    label = tables.majority(voted.votes)
    if label is None:
      lost["without a majority"] += 1
    elif label >= len(LABELS["ferplus"]):
      lost["mostly voted unknown or no face"] += 1
    else:
      stills.append(_still(key, label, place, split, {"votes": np.array(voted.votes, np.int32)}))
  findings.counts += [Count("pictures with votes", len(places), 35714 if joined else 35710)]
  findings.notes += [f"{count} pictures {why}: counted, not written" for why, count in lost.items()]
  return stills


def _join(pixels: Path, votes: Path, findings: Findings) -> list[tuple[str, str, Bytes, tables.Voted]]:
  """Joins votes and pixels row by row."""
  rows = list(tables.read_rows(pixels))
  try:
    voted = tables.read_votes(votes)
  except (OSError, ValueError) as error:
    raise UserError(f"{votes}: {error}; expected the columns of fer2013new.csv") from error
  if len(rows) != len(voted):
    raise UserError(
      f"{votes} has {len(voted)} rows and {pixels} {len(rows)}: their rows must match one to one, so copy both whole"
    )
  places: list[tuple[str, str, Bytes, tables.Voted]] = []
  unnamed = 0
  for number, (row, vote) in enumerate(zip(rows, voted, strict=True)):
    for path, one in ((pixels, row), (votes, vote)):
      if isinstance(one, ValueError):
        findings.bad.append(Problem(str(path), str(one)))
    if isinstance(row, ValueError) or isinstance(vote, ValueError):
      continue
    if row.split != vote.split:
      what = f"line {vote.line}: the split is {vote.split}, but {row.split} in {pixels.name}"
      findings.bad.append(Problem(str(votes), what))
    elif not vote.name:
      unnamed += 1
    else:
      places.append((f"fer{number:07d}", row.split, row.pixels, vote))
  findings.counts.append(Count("rows without a picture's name", unnamed, 173))
  findings.notes.append(f"{unnamed} rows whose picture FER+ dropped (no name): counted, not written")
  return places


def _beside(path: Path, split: str, findings: Findings) -> list[tuple[str, str, Bytes, tables.Voted]]:
  """Reads a label.csv and the pictures in its folder."""
  places: list[tuple[str, str, Bytes, tables.Voted]] = []
  there = {file.name.lower(): file for file in path.parent.iterdir()}
  try:
    rows = tables.read_labels(path, split)
  except (OSError, ValueError) as error:
    findings.bad.append(Problem(str(path), str(error)))
    return []
  seen = set()
  for row in rows:
    if isinstance(row, ValueError):
      findings.bad.append(Problem(str(path), str(row)))
    elif (name := row.name.lower()) not in there or name in seen:
      what = "occurs twice" if name in seen else "is not beside it"
      findings.bad.append(Problem(str(path), f"line {row.line}: {row.name[:40]!r} {what}"))
    else:
      seen.add(name)
      places.append((name.partition(".")[0], split, File(there[name]), row))
  return places


def _still(key: str, label: int, place: Bytes, split: str, extras: dict | None = None) -> Still:
  return Still(key, key, label, place, split=split, extras=extras or {})


def _count(stills: list[Still], label_source: str, findings: Findings) -> None:
  by_class, by_split = Counter(still.label for still in stills), Counter(still.split for still in stills)
  own = label_source == "fer2013"
  findings.counts.append(Count(f"labelled by {label_source}", len(stills), 35887 if own else None))
  findings.counts += [
    Count(f"  {split}", by_split[split], count if own else None) for split, count in SPLIT_COUNTS.items()
  ]
  findings.counts += [
    Count(f"  {name}", by_class[i], CLASS_COUNTS[i] if own else None)
    for i, name in enumerate(LABELS[label_source])
  ]
  if by_split[""]:
    findings.notes.append(f"{by_split['']} pictures have no split in their names or folders")
