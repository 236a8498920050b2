"""Determines which folders of a tree are splits and which are classes; raises an error if that is ambiguous.

The layouts <class>/... and <split>/<class>/... are understood, below any number of single folders. Only folders that
contain pictures count: tables, licences and other files may be anywhere. A guess is accepted only if it is plausible:
at least two classes, no class with the name of a split, and no equal folders below several classes.
"""

import dataclasses
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from jaxfer.data import emotions, splits, tree
from jaxfer.data.prepare import Findings, Problem, visible
from jaxfer.errors import UserError

LAYOUTS = ("auto", "class", "split/class")
SUFFIXES = frozenset(
  {".jpg", ".jpeg", ".jpe", ".png", ".tif", ".tiff", ".bmp", ".gif", ".webp", ".ppm", ".pgm"}
)


@dataclasses.dataclass(frozen=True)
class Layout:
  """The folders that contain the pictures of each class.

  Attributes:
    root: the folder of the splits, or of the classes if there are no splits.
    classes: the split ("" if there are none) and the folder of each class, in the order of the paths.
  """

  root: Path
  classes: tuple[tuple[str, Path], ...]


def is_picture(path: Path) -> bool:
  """Whether the file name is that of a picture."""
  return PurePosixPath(path.name).suffix.lower() in SUFFIXES


def find(source: Path, layout: str, findings: Findings) -> Layout:
  """Finds the folders of the classes.

  Args:
    source: the folder of the classes or splits; with layout "auto" it may be one above it.
    layout: one of `LAYOUTS`: the meaning of the folders in `source` and below; "auto" detects it.
    findings: files beside those folders are added to it. Pictures among them are bad, since their class is unknown.

  Raises:
    UserError: there are no class folders, or the layout is ambiguous.
  """
  root, folders = _descend(source, findings) if layout == "auto" else (source, _subfolders(source))
  named = {} if layout == "class" else splits.assign([folder.name for folder in folders])
  classes: list[tuple[str, Path]] = []
  parents = [root]
  for folder in folders:
    if not named:
      classes.append(("", folder))
    elif folder.name in named:
      parent, children = (
        _descend_split(folder, findings) if layout == "auto" else (folder, _subfolders(folder))
      )
      parents.append(parent)
      classes += [(named[folder.name], child) for child in children]
    else:
      count = sum(1 for _ in _pictures(folder))
      findings.bad.append(
        Problem(str(folder), f"{count} pictures beside the folders of splits, in none of them")
      )
  if not classes or (layout == "split/class" and not named):
    straight = next((path for parent in parents for path in visible(parent) if is_picture(path)), None)
    holds = f"pictures in no class folder, such as {straight}" if straight else "no pictures"
    raise UserError(
      f"source {source} holds {holds}: expected <class>/*.jpg (png, tiff, bmp, ...) in it, or <class> folders below "
      "train, validation and test"
    )
  if layout == "auto":
    _check_plausible(source, root, bool(named), [folder for _, folder in classes])
  names = {folder.name.casefold() for _, folder in classes}
  for parent in parents:
    what = "the folders of splits" if named and parent == root else "the class folders"
    _report_beside(parent, {*folders, *(folder for _, folder in classes)}, names, what, findings)
  return Layout(root, tuple(classes))


def _descend(source: Path, findings: Findings) -> tuple[Path, list[Path]]:
  """Descends through single folders; returns the folder of the splits or classes, and its sub-folders with pictures."""
  root, folders = source, _subfolders(source)
  for _ in range(tree.DEPTH):
    if len(folders) != 1 or splits.find(folders[0].name) or emotions.canonical(folders[0].name):
      break
    below = _subfolders(folders[0])
    if not below:
      break  # A single class.
    beside = [entry for entry in visible(root) if entry != folders[0]]
    findings.odd += [Problem(str(path), f"beside {folders[0].name}; left out") for path in beside]
    root, folders = folders[0], below
  return root, folders


def _descend_split(folder: Path, findings: Findings) -> tuple[Path, list[Path]]:
  """Descends from the folder of a split, which may contain itself, as in train/train of an archive unpacked twice."""
  root, folders = _descend(folder, findings)
  if len(folders) == 1 and splits.find(folders[0].name) == splits.find(folder.name):
    root, folders = _descend(folders[0], findings)
  return root, folders


def _check_plausible(source: Path, root: Path, split: bool, classes: Sequence[Path]) -> None:
  """Raises UserError if the folders found may not be classes."""
  for folder in classes:
    if splits.find(folder.name):
      raise UserError(
        f"source {source}: {folder} has the name of a split where a class is expected: put the class folders "
        "directly below train, validation and test"
      )
  below = {folder: [child.name for child in _subfolders(folder)] for folder in classes}
  for folder, names in below.items():
    if inner := next((name for name in names if splits.find(name)), None):
      raise UserError(
        f"source {source}: {folder} holds a folder of a split, {inner}. If it is a separate data set, give it as "
        f"--source; if it is a class, move its pictures to {inner}/{folder.name}"
      )
  known = sum(emotions.canonical(folder.name) != "" for folder in classes)
  times = Counter(name.casefold() for names in below.values() for name in set(names))
  again = sorted(name for name, count in times.items() if count > 1)
  if len(again) > 1 and 2 * known < len(classes):
    one, other = [folder for folder in classes if again[0] in map(str.casefold, below[folder])][:2]
    raise UserError(
      f"source {source}: the folders {', '.join(again[:4])} are below {one} and also below {other}. If they are the "
      "classes, name the folders above them train, validation and test. If the folders above them are the classes, "
      f"give layout={'split/class' if split else 'class'} and --source {root}"
    )


def _subfolders(folder: Path) -> list[Path]:
  """Returns the sub-folders that contain pictures at any depth."""
  return [entry for entry in visible(folder) if entry.is_dir() and next(_pictures(entry), None)]


def _pictures(folder: Path) -> Iterator[Path]:
  """Yields the pictures in a folder and below it."""
  return (path for path in tree.walk(folder) if is_picture(path))


def _report_beside(folder: Path, taken: set[Path], classes: set[str], what: str, findings: Findings) -> None:
  """Reports other entries in a folder of classes or splits: bad if they are or should contain pictures, else odd."""
  stray = []
  for entry in visible(folder):
    if entry in taken:
      continue
    if not entry.is_dir():
      if is_picture(entry):
        stray.append(entry)
      else:
        findings.odd.append(Problem(str(entry), f"a file beside {what}; left out"))
    elif next(_pictures(entry), None) or entry.name.casefold() in classes:
      pass  # It was reported already, or will be reported as a class that this split lacks.
    elif emotions.canonical(entry.name) or splits.find(entry.name) or not visible(entry):
      findings.bad.append(
        Problem(str(entry), "a folder without pictures, where a class or a split is expected")
      )
    else:
      findings.odd.append(Problem(str(entry), f"a folder without pictures beside {what}; left out"))
  if stray:
    findings.bad.append(
      Problem(str(stray[0]), f"{len(stray)} pictures beside {what}: their class is unknown")
    )
