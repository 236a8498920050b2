"""Scans the distributor's folders of AffectNet (forms of 2017, 2021 and 2024); decodes no image.

Layout and counts: data/README.md, section 9; Mollahosseini, Hasani and Mahoor (2017). The people are unknown, so
every picture counts as a different person.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from jaxfer.data import align
from jaxfer.data.datasets.affectnet import annotations
from jaxfer.data.datasets.affectnet.annotations import Annotation
from jaxfer.data.prepare import Belief, Count, Findings, Problem, find_folders, progress, visible
from jaxfer.data.stills import File, Still
from jaxfer.data.tree import walk
from jaxfer.errors import UserError

LABELS = (
  "neutral",
  "happiness",
  "sadness",
  "surprise",
  "fear",
  "disgust",
  "anger",
  "contempt",
)  # By code, from 0.
OTHER = {8: "none", 9: "uncertain", 10: "no face"}
TRAIN_COUNTS = (74_874, 134_415, 25_459, 14_090, 6_378, 3_803, 24_882, 3_750)
FORMS = ("2017", "2021", "plus")

_SPLITS = ("train", "validation")
_THREADS = 16  # Reading a million small files is limited by the disk, not by the processor.
_BLOCK = 4096
_ID = re.compile(r"(\d{1,12})_exp\.npy", re.IGNORECASE)
_IMAGES = {".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff"}

Item = tuple[str, Path, str, Annotation]  # Key, picture, split, annotation.


def scan(source: Path, form: str, points: bool, findings: Findings) -> list[Still]:
  """Lists the pictures with one of the eight expressions.

  Args:
    source: the folder of the chosen form, or one above it.
    form: one of `FORMS`.
    points: whether landmarks are wanted; the face box is not used then.
    findings: counts and problems are added to it.

  Raises:
    UserError: there is nothing of that form below `source`; the message names the form that was found.
  """
  read = {"2017": _read_2017, "2021": _read_2021, "plus": _read_plus}[form]
  skipped: Counter[int] = Counter()
  by_split: dict[str, Counter[int]] = {split: Counter() for split in _SPLITS}
  stills: dict[str, Still] = {}
  contradicting: set[str] = set()
  boxless = 0
  for key, path, split, said in read(source, points, findings):
    if not 0 <= said.expression < len(LABELS):
      skipped[said.expression] += 1
      continue
    if key in stills:
      if stills[key].label == said.expression:
        findings.odd.append(Problem(str(path), "listed a second time; left out"))
      else:
        what = f"listed as {LABELS[said.expression]}, and before as {LABELS[stills.pop(key).label]}; both are left out"
        findings.bad.append(Problem(str(path), what))
        contradicting.add(key)
      continue
    if key in contradicting:
      continue
    by_split[split][said.expression] += 1
    boxless += form == "2017" and said.box is None
    stills[key] = _still(key, path, split, said, points)
  if not stills:
    findings.finish(skip_bad=False)
    raise UserError(
      f"source {source}: no picture of AffectNet's form {form} has one of the eight expressions"
    )
  for split in _SPLITS:
    if not by_split[split]:
      findings.odd.append(Problem(str(source), f"nothing of the {split} split: is the copy incomplete?"))
  _count(by_split, skipped, findings)
  if boxless:
    findings.notes.append(f"{boxless} pictures of an expression have no face box: the detector places them")
  return list(stills.values())


def _still(key: str, path: Path, split: str, said: Annotation, points: bool) -> Still:
  square, five = None, None
  if points:
    five = None if said.landmarks is None else five_points(said.landmarks)
  elif said.box is not None:
    square = align.box_square(*said.box)
  extras = {"valence": np.float32(said.valence), "arousal": np.float32(said.arousal)}
  where = f"line {said.line} of the {split} list" if said.line else ""
  if square is not None and said.box is not None:
    x, y, width, height = said.box
    where += f", box {x:g},{y:g} {width:g} x {height:g}"
  return Still(key, key, said.expression, File(path), square, five, split, extras, where=where)


def five_points(landmarks: np.ndarray) -> np.ndarray:
  """Returns five of the 68 landmarks, [5, 2]: centres of the eyes, nose tip, corners of the mouth."""
  eyes = landmarks[36:42].mean(axis=0), landmarks[42:48].mean(axis=0)
  return np.stack([*eyes, landmarks[30], landmarks[48], landmarks[54]])


def _count(by_split: dict[str, Counter[int]], skipped: Counter[int], findings: Findings) -> None:
  train, validation = by_split["train"], by_split["validation"]
  findings.counts.append(Count("training pictures", train.total(), sum(TRAIN_COUNTS)))
  findings.counts += [Count(f"  {name}", train[i], TRAIN_COUNTS[i]) for i, name in enumerate(LABELS)]
  findings.counts.append(Count("validation pictures", validation.total()))
  seen = ", ".join(f"{validation[i]} {name}" for i, name in enumerate(LABELS))
  holds = all(validation[i] == 500 for i in range(len(LABELS)))
  findings.beliefs.append(Belief("500 validation pictures a class", holds, seen))
  for code, count in sorted(skipped.items()):
    what = f"{code} ({OTHER[code]})" if code in OTHER else f"{code}, which is not a known label"
    findings.notes.append(f"{count} pictures labelled {what}: left out")


def _read_2017(source: Path, points: bool, findings: Findings) -> Iterator[Item]:
  del points  # The list always has them.
  lists: dict[str, Path] = {}
  for path in walk(source, 4):
    if path.suffix.lower() == ".csv":
      lists.setdefault(path.name.lower(), path)
  names = {"training.csv": "train", "validation.csv": "validation"}
  if not names.keys() & lists.keys():
    raise _wrong_form(source, "2017", "Manually_Annotated_file_lists/training.csv")
  if "automatically_annotated.csv" in lists:
    findings.notes.append(
      "automatically annotated pictures were left out, since papers use the manual annotations"
    )
  malformed, rows, negative, roots = 0, 0, 0, {}
  for name, split in names.items():
    if name not in lists:
      continue
    try:
      for row in annotations.read_csv(lists[name]):
        if isinstance(row, annotations.OutOfRange):
          findings.bad.append(Problem(str(lists[name]), str(row)))
          continue
        if isinstance(row, ValueError):
          malformed += 1
          findings.odd.append(Problem(str(lists[name]), f"{row}; left out"))
          continue
        rows += 1
        negative += row.box is None and row.expression == 10
        folder = row.path.split("/")[0]
        if folder not in roots:
          roots[folder] = _image_root(source, folder)
        path = roots[folder] / row.path
        yield f"{split}_{row.path.rsplit('.', 1)[0].replace('/', '_')}", path, split, row
    except (OSError, ValueError) as error:
      findings.bad.append(Problem(str(lists[name]), str(error)))
  findings.counts.append(Count("rows", rows))
  findings.notes.append(f"{malformed} malformed rows left out; {negative} rows without a face have no box")


def _image_root(source: Path, folder: str) -> Path:
  """Returns the folder to which the paths of the lists are relative: one that contains `folder`."""
  roots = find_folders(source, lambda children: any(child.name == folder for child in children))
  return roots[0] if roots else source / "Manually_Annotated_Images"


def _read_2021(source: Path, points: bool, findings: Findings) -> Iterator[Item]:
  trees = _trees(source, ("train_set", "val_set"))
  trees = {split: tree for split, tree in trees.items() if _has(tree / "annotations", "_exp.npy")}
  if not trees:
    raise _wrong_form(source, "2021", "train_set/annotations/0_exp.npy")

  def read(folder: Path, name: str) -> Annotation:
    return annotations.read_folder(folder, name, points)

  for split, tree in trees.items():
    ids = [match[1] for path in visible(tree / "annotations") if (match := _ID.fullmatch(path.name))]
    yield from _read_pairs(tree, split, ids, read, findings)


def _read_plus(source: Path, points: bool, findings: Findings) -> Iterator[Item]:
  if points:
    raise UserError("the landmark format of AffectNet+ is not known: choose crop=whole or crop=auto")
  trees = _trees(source, ("train_set", "validation_set"))
  trees = {split: tree for split, tree in trees.items() if _has(tree / "annotations", ".json")}
  if not trees:
    raise _wrong_form(source, "plus", "human_annotated/train_set/annotations/0.json")

  def read(folder: Path, name: str) -> Annotation:
    return annotations.read_json(folder / f"{name}.json")

  for split, tree in trees.items():
    ids = [path.stem for path in visible(tree / "annotations") if path.suffix.lower() == ".json"]
    yield from _read_pairs(tree, split, ids, read, findings)


def _read_pairs(
  tree: Path, split: str, ids: list[str], read: Callable[[Path, str], Annotation], findings: Findings
) -> Iterator[Item]:
  """Yields pictures and annotations of the same number, in order; a file without its counterpart is reported."""
  folder = tree / "images"
  images = {
    path.stem: path for path in (visible(folder) if folder.is_dir() else ()) if path.suffix.lower() in _IMAGES
  }
  if lonely := sorted(images.keys() - set(ids)):
    what = f"{len(lonely)} pictures without an annotation, such as {images[lonely[0]].name}; left out"
    findings.odd.append(Problem(str(folder), what))
  ids.sort(key=lambda name: (len(name), name))

  def attempt(name: str) -> Annotation | str:
    try:
      return read(tree / "annotations", name)
    except (OSError, ValueError) as error:
      return str(error)

  with ThreadPoolExecutor(_THREADS) as pool:

    def blocks() -> Iterable[
      Annotation | str
    ]:  # The pool's map would submit all of the million files at once.
      for start in range(0, len(ids), _BLOCK):
        yield from pool.map(attempt, ids[start : start + _BLOCK])

    said = progress(blocks(), len(ids), f"reading annotations ({split})")
    for name, annotation in zip(ids, said, strict=True):
      if isinstance(annotation, str):
        findings.bad.append(Problem(str(tree / "annotations" / name), annotation))
      else:
        yield f"{split}_{name}", images.get(name, folder / f"{name}.jpg"), split, annotation


def _trees(source: Path, names: tuple[str, str]) -> dict[str, Path]:
  """Returns, for each split, the folder nearest to the source."""
  trees: dict[str, Path] = {}
  for name, split in zip(names, _SPLITS, strict=True):

    def is_root(children: list[Path], name: str = name) -> bool:
      return name in {child.name.lower() for child in children}

    for root in find_folders(source, is_root)[:1]:
      trees[split] = next(child for child in visible(root) if child.name.lower() == name)
  return trees


def _has(folder: Path, ending: str) -> bool:
  return folder.is_dir() and any(path.name.lower().endswith(ending) for path in folder.iterdir())


def _wrong_form(source: Path, form: str, expected: str) -> UserError:
  there = "no known form"
  names = (
    ("2017", ("training.csv", "validation.csv")),
    ("2021", ("_exp.npy",)),
    ("plus", (".json",)),
  )
  for other, endings in names:
    if other != form and any(path.name.lower().endswith(endings) for path in walk(source, 4)):
      there = f"form={other}"
      break
  return UserError(
    f"source {source} holds no AffectNet of form={form}: expected {expected} in it or a few folders further down; it "
    f"looks like {there}"
  )
