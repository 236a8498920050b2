"""Scans the distributor's folders of CK+ for names, labels and landmarks; decodes no image.

CK+ has four parallel folder trees with sub-folders such as S005/001/: frames, landmarks (one file per frame), FACS
codes and emotion labels (one file at the peak; 327 of 593 sequences have a label). Copies nest and name the trees
differently, so the files inside identify them. Layout and counts: data/README.md, section 3; Lucey et al. (2010).
"""

import dataclasses
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from jaxfer.data.prepare import Belief, Count, Findings, Problem, find_folders, visible
from jaxfer.data.tree import read_text
from jaxfer.errors import UserError

# By the distributor's code, 1 to 7; no sequence has code 0 (neutral), so it is not a class.
LABELS = ("anger", "contempt", "disgust", "fear", "happiness", "sadness", "surprise")
CLASS_COUNTS = (45, 18, 59, 25, 69, 28, 83)
NUM_LABELLED = sum(CLASS_COUNTS)
NUM_SEQUENCES = 593
NUM_LANDMARKS = 68

_SUBJECT = re.compile(r"S\d{3}", re.IGNORECASE)
_FILE = re.compile(r"(S\d{3}_\d{3})_(\d{8})(\.png|_landmarks\.txt|_facs\.txt|_emotion\.txt)", re.IGNORECASE)
_KINDS = {".png": "frames", "_landmarks.txt": "landmarks", "_facs.txt": "facs", "_emotion.txt": "labels"}

Files = dict[str, list[Path]]  # Sequence key -> its files of one kind, ascending; an empty folder has none.


@dataclasses.dataclass(frozen=True)
class Sequence:
  """One recorded sequence.

  Attributes:
    key: e.g. "S005_001".
    frames: its images from onset to peak.
    label: index into `LABELS`; -1 if the distributor gives no label.
    landmarks: [68, 2], points (x, y) of the first frame in pixels; None if the copy has none.
  """

  key: str
  frames: tuple[Path, ...]
  label: int
  landmarks: np.ndarray | None

  @property
  def subject(self) -> str:
    """The person, e.g. "S005"."""
    return self.key[:4]


@dataclasses.dataclass(frozen=True)
class Tree:
  """What a scan found.

  Attributes:
    frames: every sequence with frames, labelled or not.
    labelled: keys of the sequences with a label file, valid or not.
    sequences: the labelled sequences, by key, with a valid label and with valid or missing landmarks.
    landmarks: the landmark files of every sequence.
  """

  frames: Files
  labelled: frozenset[str]
  sequences: tuple[Sequence, ...]
  landmarks: Files


def scan(source: Path, findings: Findings) -> Tree:
  """Reads names, labels and landmarks, and adds counts and problems of the copy to `findings`.

  Args:
    source: the folder of the four trees, or one above it.
    findings: counts and problems are added to it.

  Raises:
    UserError: there are no frames or no labels below `source`.
  """
  folders = _find_trees(source, findings)
  for kind, usual in (
    ("frames", "cohn-kanade-images/S005/001/*.png"),
    ("labels", "Emotion/S005/001/*_emotion.txt"),
  ):
    if kind not in folders:
      raise UserError(
        f"source {source} holds no {kind} of CK+: expected {usual} in it or a few folders further down"
      )
  files = {kind: _list_files(folder, kind, findings) for kind, folder in folders.items()}
  frames = {key: paths for key, paths in files["frames"].items() if paths}
  for paths in frames.values():
    if frame_number(paths[-1]) != len(paths):
      what = f"its last frame is number {frame_number(paths[-1])}, of {len(paths)} files; taken in order"
      findings.odd.append(Problem(str(paths[-1].parent), what))
  labels = _read_labels(files["labels"], frames, findings)
  _count(frames, labels, files, findings)
  landmarks = files.get("landmarks", {})
  if "landmarks" not in folders:
    findings.notes.append("no landmarks in this copy")
  for key, paths in frames.items() if landmarks else ():
    if len(landmarks.get(key, ())) < len(paths):
      what = f"{len(paths) - len(landmarks.get(key, ()))} of {len(paths)} frames have no landmarks"
      findings.odd.append(Problem(str(paths[0].parent), what))
  _check_facs(files.get("facs", {}), frames, findings)
  labelled = frozenset(key for key, paths in files["labels"].items() if paths)
  tree = Tree(frames, labelled, (), landmarks)
  return dataclasses.replace(tree, sequences=tuple(_sequences(tree, labels, findings)))


def unlabelled(tree: Tree, findings: Findings) -> list[Sequence]:
  """Returns the unlabelled sequences with valid or missing landmarks, by key; the others are reported as bad."""
  return list(_sequences(tree, {key: -1 for key in tree.frames if key not in tree.labelled}, findings))


def _sequences(tree: Tree, labels: Mapping[str, int], findings: Findings) -> Iterator[Sequence]:
  for key, label in sorted(labels.items()):
    frames = tree.frames[key]
    first = f"{frames[0].stem}_landmarks"
    path = next((path for path in tree.landmarks.get(key, ()) if path.stem.lower() == first.lower()), None)
    try:
      yield Sequence(key, tuple(frames), label, None if path is None else read_landmarks(path))
    except (OSError, ValueError) as error:
      findings.bad.append(Problem(str(path), str(error)))


def frame_number(path: Path) -> int:
  """The eight digits of a file's name."""
  return int(path.name[9:17])


def read_label(path: Path) -> int:
  """Reads an emotion file, one number such as `   3.0000000e+00`, as an index into `LABELS`.

  Raises:
    ValueError: the file holds anything but one whole number from 1 to 7.
  """
  text = read_text(path).strip()
  try:
    (value,) = map(float, text.split())
  except ValueError:
    raise ValueError(f"label is {text[:40]!r}: expected one number") from None
  if value not in range(1, len(LABELS) + 1):
    raise ValueError(f"label is {value:g}: expected 1 ({LABELS[0]}) to {len(LABELS)} ({LABELS[-1]})")
  return int(value) - 1


def read_landmarks(path: Path) -> np.ndarray:
  """Reads a landmarks file: 68 lines of `x y`.

  Returns:
    float64 [68, 2], pixels.

  Raises:
    ValueError: the file holds anything else.
  """
  lines = read_text(path).split("\n")
  points = [line.split() for line in lines if line.strip()]
  try:
    array = np.array(points, float)
  except ValueError:
    raise ValueError("landmarks are not two numbers per line") from None
  if array.shape != (NUM_LANDMARKS, 2) or not np.isfinite(array).all():
    raise ValueError(
      f"landmarks are {' x '.join(map(str, array.shape))} numbers: expected {NUM_LANDMARKS} x 2, finite"
    )
  return array


def _find_trees(source: Path, findings: Findings) -> dict[str, Path]:
  trees: dict[str, Path] = {}
  for folder in find_folders(
    source, lambda children: any(_SUBJECT.fullmatch(child.name) for child in children)
  ):
    files = (_FILE.fullmatch(path.name) for _, paths in _walk(folder) for path in paths)
    match = next((match for match in files if match), None)
    if match is None:
      findings.odd.append(
        Problem(str(folder), "it has folders of people, but they hold no files of CK+; left out")
      )
      continue
    kind = _KINDS[match[3].lower()]
    if kind in trees:
      findings.odd.append(Problem(str(folder), f"a second tree of {kind}, beside {trees[kind]}; left out"))
    trees.setdefault(kind, folder)
  return trees


def _walk(folder: Path) -> Iterator[tuple[str, list[Path]]]:
  """Yields each S005/001 under a tree as its key and its visible entries."""
  for subject in visible(folder):
    if _SUBJECT.fullmatch(subject.name) and subject.is_dir():
      for sequence in visible(subject):
        if re.fullmatch(r"\d{3}", sequence.name) and sequence.is_dir():
          yield f"{subject.name.upper()}_{sequence.name}", visible(sequence)


def _list_files(folder: Path, kind: str, findings: Findings) -> Files:
  listed: Files = {}
  for key, paths in _walk(folder):
    listed[key] = []
    for path in paths:
      match = _FILE.fullmatch(path.name)
      if match and match[1].upper() == key and _KINDS[match[3].lower()] == kind:
        listed[key].append(path)
      else:
        findings.odd.append(Problem(str(path), f"its name is not that of the {kind} of {key}; left out"))
  return listed


def _read_labels(files: Files, frames: Files, findings: Findings) -> dict[str, int]:
  labels = {}
  for key, paths in files.items():
    if not paths:
      continue  # The distributor leaves the folder of an unlabelled sequence empty.
    try:
      if len(paths) > 1:
        raise ValueError(f"one of {len(paths)} labels of sequence {key}: expected one")
      label = read_label(paths[0])
      if key not in frames:
        raise ValueError(f"a label, but sequence {key} has no frames")
    except (OSError, ValueError) as error:
      findings.bad.append(Problem(str(paths[0]), str(error)))
      continue
    labels[key] = label
    if frame_number(paths[0]) != frame_number(frames[key][-1]):
      findings.odd.append(
        Problem(str(paths[0]), f"labels another frame than the last, {frames[key][-1].name}")
      )
  return labels


def _count(frames: Files, labels: dict[str, int], files: dict[str, Files], findings: Findings) -> None:
  by_class = Counter(labels.values())
  num_frames = sum(map(len, frames.values()))
  findings.counts += [
    Count("sequences", len(frames), NUM_SEQUENCES),
    Count("subjects", len({key[:4] for key in frames}), 123),
    Count("labelled sequences", len(labels), NUM_LABELLED),
    Count("labelled subjects", len({key[:4] for key in labels}), 118),
    *(Count(f"  {name}", by_class[i], CLASS_COUNTS[i]) for i, name in enumerate(LABELS)),
    Count("frames", num_frames),
    Count("landmark files", sum(map(len, files.get("landmarks", {}).values())), num_frames),
    Count("FACS files", sum(map(len, files.get("facs", {}).values())), len(frames)),
  ]
  findings.beliefs.append(Belief("10708 frames in all", num_frames == 10708, f"{num_frames}"))
  without = [key for key in frames if not files["labels"].get(key)]
  empty = sum(key in files["labels"] for key in without)
  findings.notes.append(
    f"{len(without)} sequences have no label, {empty} with an empty label folder, "
    f"{len(without) - empty} with none: unlabelled=true of ckplus_stills writes them"
  )
  for key, paths in files["frames"].items():
    if not paths:
      findings.odd.append(Problem(key.replace("_", "/"), "a sequence folder without frames"))


def _check_facs(files: Files, frames: Files, findings: Findings) -> None:
  """Checks the FACS codes, which are not used otherwise, to find incomplete copies."""
  intensities = set()
  for key in frames:
    if not files.get(key):
      if files:
        findings.odd.append(Problem(str(frames[key][0].parent), "no FACS codes"))
      continue
    for path in files[key]:
      try:
        rows = [[float(word) for word in line.split()] for line in read_text(path).splitlines()]
        intensities |= {intensity for _, intensity in filter(None, rows)}
      except (OSError, ValueError):
        findings.odd.append(Problem(str(path), "expected an action unit and its intensity on each line"))
  if intensities:
    low, high = min(intensities), max(intensities)
    holds = low >= 0 and high <= 5
    findings.beliefs.append(Belief("FACS intensities are 0 (not graded) to 5", holds, f"{low:g} to {high:g}"))
