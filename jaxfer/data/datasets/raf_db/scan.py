"""Scans the distributor's folders of RAF-DB for labels, pictures and annotations; decodes no picture.

basic/ and compound/ have the same layout: EmoLabel/list_patition_label.txt (in some copies list_partition_label.txt),
Image/{aligned,original}, Annotation/{auto,manual,boundingbox}, any of the last five may be a zip archive.
Layout and counts: data/README.md, section 6; Li, Deng and Du (2017).
"""

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np

from jaxfer.data import align, heatmap, tree
from jaxfer.data.datasets.raf_db import annotations
from jaxfer.data.prepare import Count, Findings, Problem
from jaxfer.data.stills import Bytes, File, Member, Still, zip_names
from jaxfer.errors import UserError

T = TypeVar("T")

# By the distributor's code, from 1.
LABELS = {
  "basic": ("surprise", "fear", "disgust", "happiness", "sadness", "anger", "neutral"),
  "compound": (
    "happily surprised",
    "happily disgusted",
    "sadly fearful",
    "sadly angry",
    "sadly surprised",
    "sadly disgusted",
    "fearfully angry",
    "fearfully surprised",
    "angrily surprised",
    "angrily disgusted",
    "disgustedly surprised",
  ),
}
COUNTS = {"basic": 15339, "compound": 3954}
BASIC_COUNTS = {  # Paper 002, Table 3.
  "train": (1290, 281, 717, 4772, 1982, 705, 2524),
  "test": (329, 74, 160, 1185, 478, 162, 680),
}
IMAGES = ("aligned", "original")

_LISTS = ("list_patition_label.txt", "list_partition_label.txt")
_NAME = re.compile(
  r"((?:train|test)_\d+)(_aligned)?\.jpe?g|((?:train|test)_\d+)_(auto_attri|manu_attri|boundingbox)\.txt",
  re.IGNORECASE,
)
_HALF = 0.5  # The distributor counts from the middle of the first pixel, a `Still` from its edge.
_ANNOTATION_LIMIT = 1 << 16  # Bytes; the longest real one has a thousand.

Places = dict[tuple[str, str], Bytes]  # ("train_00001", "aligned") -> place of its bytes.


class _Bad(Exception):
  """An annotation that cannot be used."""

  def __init__(self, place: Bytes, error: Exception):
    super().__init__(str(error))
    self.problem = Problem(str(place), str(error))


def scan(source: Path, subset: str, image: str, findings: Findings) -> list[Still]:
  """Reads the list, its pictures' paths and the annotations; adds counts and problems to `findings`.

  Args:
    source: the folder of one subset or of both, or one above it.
    subset: "basic" or "compound".
    image: "aligned", with the automatic landmarks transformed to that frame; or "original", with the landmarks as they
      are, and the face placed by the manual points or the box.
    findings: counts and problems are added to it.

  Returns:
    One still per line of the list with valid files, in the order of the list, which `extras["order"]` records.

  Raises:
    UserError: there is no list of that subset.
  """
  path, root, others = _find_list(source, subset, findings)
  listed = _read_list(path, LABELS[subset], findings)
  places = _index(root, others, findings)
  stills = []
  without: Counter[str] = Counter()
  for order, (name, label) in enumerate(listed):
    picture = places.get((name, image))
    if picture is None:
      findings.bad.append(Problem(str(path), f"names {name}, which has no {image} picture in this copy"))
      continue
    try:
      automatic = _annotation(places, name, "auto_attri", annotations.read_automatic)
      read = _annotation(places, name, "manu_attri", annotations.read_manual)
      manual, attributes = (None, dict.fromkeys(annotations.ATTRIBUTES, "")) if read is None else read
      box = _annotation(places, name, "boundingbox", annotations.read_box)
      landmarks = automatic
      if image == "aligned" and automatic is not None:
        landmarks = None if manual is None else _carry(automatic, manual, places[name, "manu_attri"])
    except _Bad as error:
      findings.bad.append(error.problem)
      continue
    without["landmarks"] += automatic is None
    without["manual points"] += manual is None
    without["boxes"] += box is None
    stills.append(
      Still(
        key=name,
        subject=name,  # The people are unknown.
        label=label,
        source=picture,
        square=align.box_square(*box) if box and image == "original" else None,
        points=manual + _HALF if manual is not None and image == "original" else None,
        split=name.partition("_")[0],
        extras={"order": order, **attributes},
        landmarks=None if landmarks is None else landmarks + _HALF,
        where=_where(places, name, box),
      )
    )
  _count(listed, subset, stills, findings)
  missing = ", ".join(f"{count} have no {what}" for what, count in without.items() if count)
  if missing:
    findings.notes.append(f"among {len(stills)} pictures, {missing}")
  findings.notes.append(
    "`order` records the order of the list: the evaluation of a network whose output depends on the other images in "
    "the batch (ARM) depends on it and on the batch size"
  )
  _check_unlisted(places, {name for name, _ in listed}, path, findings)
  return stills


def _find_list(source: Path, subset: str, findings: Findings) -> tuple[Path, Path, list[Path]]:
  """Finds the list of a subset, the root of its folders, and the roots of other lists below that root."""
  found: dict[str, tuple[Path, Path]] = {}
  roots = []
  for path in tree.walk(source):
    if path.name.lower() not in _LISTS:
      continue
    folder = path.parent
    roots.append(folder.parent if folder.name.lower() == "emolabel" else folder)
    kind = _subset(path)
    if kind in found:
      what = f"a second list of the {kind} subset, beside {found[kind][0]}; left out"
      findings.odd.append(Problem(str(path), what))
    found.setdefault(kind, (path, roots[-1]))
  if subset not in found:
    there = f" (it holds the {next(iter(found))} subset)" if found else ""
    raise UserError(
      f"source {source} holds no {subset} subset of RAF-DB{there}: expected EmoLabel/{_LISTS[0]} in it or a few "
      "folders further down; for copies in class folders, use `jaxfer prepare image_folder`"
    )
  path, own = found[subset]
  return path, own, [root for root in roots if own in root.parents]


def _subset(path: Path) -> str:
  """Tells the two lists apart by their content: compound labels go up to 11, and its test names have three digits."""
  try:
    text = tree.read_text(path)
  except (OSError, ValueError):
    return "basic"  # Reading it later explains what is wrong.
  return "compound" if re.search(r"(?im)test_\d{3}\.jpg|\.jpg\s+(?:8|9|10|11)\s*$", text) else "basic"


def _read_list(path: Path, labels: tuple[str, ...], findings: Findings) -> list[tuple[str, int]]:
  listed: dict[str, int] = {}
  try:
    lines = tree.read_text(path).splitlines()
  except (OSError, ValueError) as error:
    raise UserError(f"{path} cannot be read ({error}): copy it again") from error
  for number, line in enumerate(lines, 1):
    if not line.strip():
      continue
    try:
      name, label = annotations.read_line(line, len(labels))
      if name in listed:
        raise ValueError(f"{name} occurs twice")
    except ValueError as error:
      findings.bad.append(Problem(str(path), f"line {number}: {error}"))
      continue
    listed[name] = label
  return list(listed.items())


def _index(root: Path, others: list[Path], findings: Findings) -> Places:
  """Indexes files below `root` with one of the distributor's names, except those below other roots."""
  places: Places = {}
  archives = []
  for path in tree.walk(root):
    if any(other in path.parents for other in others):
      continue
    if path.suffix.lower() == ".zip":
      archives.append(path)
    elif key := _key(path.name):
      places.setdefault(key, File(path))
  for archive in archives:
    try:
      names = zip_names(archive)
    except (OSError, ValueError) as error:
      findings.bad.append(Problem(str(archive), f"cannot be unpacked ({error})"))
      continue
    keys = {key: name for name in names if "__MACOSX" not in name and (key := _key(name.rpartition("/")[2]))}
    for key, name in keys.items():
      places.setdefault(key, Member(archive, name))
    if keys:
      findings.notes.append(f"{archive.name} is packed: {len(keys)} files were taken from it")
  return places


def _key(name: str) -> tuple[str, str] | None:
  match = _NAME.fullmatch(name)
  if match is None:
    return None
  if match[1]:
    return match[1].lower(), "aligned" if match[2] else "original"
  return match[3].lower(), match[4].lower()


def _annotation(places: Places, name: str, kind: str, read: Callable[[str], T]) -> T | None:
  """Reads an annotation if the copy has it."""
  place = places.get((name, kind))
  if place is None:
    return None
  try:
    data = place.read()
    if len(data) > _ANNOTATION_LIMIT:
      raise ValueError(f"longer than {_ANNOTATION_LIMIT} bytes: not an annotation of RAF-DB")
    return read(data.decode("utf-8-sig", errors="replace"))
  except (OSError, ValueError) as error:
    raise _Bad(place, error) from None


def _where(places: Places, name: str, box: tuple[float, float, float, float] | None) -> str:
  """Names the files that place the face, for messages."""
  files = [str(places[name, kind]) for kind in ("auto_attri", "manu_attri") if (name, kind) in places]
  if box:
    x, y, width, height = box
    files.append(f"{places[name, 'boundingbox']}, box {x:g},{y:g} {width:g} x {height:g}")
  return "; ".join(files)


def _carry(automatic: np.ndarray, manual: np.ndarray, place: Bytes) -> np.ndarray:
  try:
    return align.transform(automatic, heatmap.alignment(manual))
  except UserError as error:
    raise _Bad(place, error) from None


def _count(listed: list[tuple[str, int]], subset: str, stills: list[Still], findings: Findings) -> None:
  findings.counts.append(Count("pictures listed", len(listed), COUNTS[subset]))
  for split in ("train", "test"):
    labels = Counter(label for name, label in listed if name.startswith(split))
    expected = BASIC_COUNTS[split] if subset == "basic" else None
    findings.counts.append(Count(split, sum(labels.values()), sum(expected) if expected else None))
    for i, label in enumerate(LABELS[subset]):
      findings.counts.append(Count(f"  {split}, {label}", labels[i], expected[i] if expected else None))
  landmarks = sum(still.landmarks is not None for still in stills)
  findings.counts.append(Count("with 37 landmarks", landmarks, len(listed)))


def _check_unlisted(places: Places, names: set[str], path: Path, findings: Findings) -> None:
  unlisted = sorted({name for name, kind in places if kind in IMAGES} - names)
  if unlisted:
    what = f"does not name {len(unlisted)} pictures of this copy, the first {unlisted[0]}; left out"
    findings.odd.append(Problem(str(path), what))
