"""Scans ImageNet (ILSVRC 2012) as distributed: folders, or tar archives, which are read without unpacking.

train/ holds files such as n01440764/n01440764_10026.JPEG. val/ is flat with a file of labels, or has folders of
classes. Layout: data/README.md, section 11; Russakovsky et al. (2015).
"""

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from jaxfer.data import tars
from jaxfer.data.prepare import Count, Findings, Problem
from jaxfer.data.stills import Bytes, File, Span, Still
from jaxfer.data.tree import read_text, walk
from jaxfer.errors import UserError

NUM_CLASSES, NUM_TRAIN, NUM_VALIDATION = 1000, 1_281_167, 50_000

_CLASS = re.compile(r"n\d{8}")
_IMAGE = re.compile(r".+\.jpe?g", re.IGNORECASE)
_FLAT = re.compile(r"ILSVRC2012_val_(\d{8})\.jpe?g", re.IGNORECASE)
_TEST = re.compile(r"ILSVRC2012_test_\d{8}\.jpe?g", re.IGNORECASE)
_VALIDATION = {
  "val",
  "validation",
  "valid",
  "ilsvrc2012_img_val",
}  # Folders; any other holds training pictures.
# Files of labels by class name: one id per line in the order of the pictures, or the picture's name and the id.
_LABEL_FILES = (
  "imagenet_2012_validation_synsets.txt",
  "synset_labels.txt",
  "loc_val_solution.csv",
  "val.txt",
)
_NUMBERS = "ilsvrc2012_validation_ground_truth.txt"


def scan(source: Path, labels_file: str, findings: Findings) -> tuple[list[Still], list[str]]:
  """Lists the pictures; a label is the index of the class among the sorted WordNet ids.

  Args:
    source: the folder of train and val, or of ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar, or one above it.
    labels_file: file with the labels of a flat val folder; "" searches for one of the usual names below `source`.
    findings: counts and problems are added to it.

  Returns:
    The stills and the WordNet ids by label.

  Raises:
    UserError: there are no pictures of a known class below `source`.
  """
  found: dict[tuple[str, str], tuple[str, Bytes]] = {}  # By split and name: class and place.
  flat: dict[int, tuple[str, Bytes]] = {}
  texts: dict[str, Path] = {}
  if labels_file:
    texts["given"] = Path(labels_file)
  tests = again = 0
  for parts, place in _places(source, texts, findings):
    name, folders = parts[-1], parts[:-1]
    number = _FLAT.fullmatch(name)
    class_id = next((part for part in reversed(folders) if _CLASS.fullmatch(part)), "")
    sides = {part.lower() for part in folders}
    split = "validation" if number or sides & _VALIDATION else "train"
    stem = name.rsplit(".", 1)[0]
    if number and not class_id:
      again += flat.setdefault(int(number[1]), (stem, place))[1] is not place
    elif not class_id and _TEST.fullmatch(name):
      tests += 1
    elif not class_id:
      findings.odd.append(Problem(str(place), "not in the folder of a class, such as n01440764; left out"))
    else:
      if found.get((split, stem), (class_id,))[0] != class_id:
        # The name is that of another class: it is another picture, or its label is doubtful.
        stem = f"{class_id}_{stem}"
      again += found.setdefault((split, stem), (class_id, place))[1] is not place
  if tests:
    findings.notes.append(f"{tests} test pictures, whose classes are not public: left out")
  if again:
    findings.notes.append(f"{again} pictures occur a second time, in an archive or another folder: left out")
  if flat:
    found |= _label_flat(flat, texts, findings)
  if not found:
    findings.finish(skip_bad=False)  # An archive that cannot be read explains more.
    raise UserError(
      f"source {source} holds no pictures of ImageNet: expected train/n01440764/*.JPEG in it or a few folders further "
      "down, or ILSVRC2012_img_train.tar"
    )
  classes = sorted({class_id for class_id, _ in found.values()})
  label = {class_id: i for i, class_id in enumerate(classes)}
  stills = []
  for (split, stem), (class_id, place) in sorted(found.items(), key=lambda item: item[0]):
    stills.append(Still(f"{split}_{stem}", f"{split}_{stem}", label[class_id], place, split=split))
  by_split = Counter(still.split for still in stills)
  findings.counts += [
    Count("classes", len(classes), NUM_CLASSES),
    Count("training pictures", by_split["train"], NUM_TRAIN),
    Count("validation pictures", by_split["validation"], NUM_VALIDATION),
  ]
  if len(classes) != NUM_CLASSES:
    findings.notes.append(
      f"labels count the {len(classes)} classes of this copy, not the {NUM_CLASSES} of the whole"
    )
  return stills, classes


def _places(
  source: Path, texts: dict[str, Path], findings: Findings
) -> Iterator[tuple[tuple[str, ...], Bytes]]:
  """Yields pictures as the parts of their path, archives included, and the place of their bytes; fills `texts`."""
  for path in walk(source):
    parts = (source.name, *path.relative_to(source).parts)
    if _IMAGE.fullmatch(path.name):
      yield parts, File(path)
    elif path.suffix.lower() == ".tar":
      try:
        yield from _packed(path, (*parts[:-1], path.stem))
      except (OSError, ValueError) as error:
        findings.bad.append(Problem(str(path), str(error)))
    elif path.suffix.lower() in (".txt", ".csv"):
      texts.setdefault(path.name.lower(), path)


def _packed(
  archive: Path, parts: tuple[str, ...], within: Span | None = None
) -> Iterator[tuple[tuple[str, ...], Bytes]]:
  for span in tars.members(archive, within):
    inside = (*parts, *span.name.split("/"))
    if within is None and span.name.lower().endswith(".tar"):
      # Such as n01440764.tar, with the pictures of one class.
      yield from _packed(archive, (*inside[:-1], inside[-1][:-4]), span)
    elif _IMAGE.fullmatch(inside[-1]) and not inside[-1].startswith("."):
      yield inside, span


def _label_flat(
  flat: dict[int, tuple[str, Bytes]], texts: dict[str, Path], findings: Findings
) -> dict[tuple[str, str], tuple[str, Bytes]]:
  named = next((texts[name] for name in ("given", *_LABEL_FILES) if name in texts), None)
  if named is None:
    why = "there is no file of labels beside them"
    if _NUMBERS in texts:
      why = f"{texts[_NUMBERS].name} has the contest's own numbers, which only its devkit translates"
    findings.notes.append(
      f"{len(flat)} validation pictures left out: {why}; give val_labels=FILE with one WordNet id per line"
    )
    return {}
  try:
    classes = read_labels(named)
  except (OSError, ValueError) as error:
    raise UserError(f"labels of the validation pictures, {named}: {error}") from None
  findings.notes.append(f"validation pictures labelled by {named.name}")
  found = {}
  for number, (stem, place) in sorted(flat.items()):
    if number in classes:
      found["validation", stem] = (classes[number], place)
    else:
      findings.odd.append(Problem(str(place), f"{named.name} has no label for it; left out"))
  return found


def read_labels(path: Path) -> dict[int, str]:
  """Reads the classes of the validation pictures by their numbers, from 1.

  Each line is a WordNet id, in the order of the pictures, or begins with the picture's name and its id, as in
  `ILSVRC2012_val_00000001,n01751748 111 108 475 370`.

  Raises:
    ValueError: a line has another form, a picture is named twice, or there are numbers instead of ids, which the
      file does not explain.
  """
  classes: dict[int, str] = {}
  for i, line in enumerate(filter(str.strip, read_text(path).splitlines()), 1):
    words = line.replace(",", " ").split()
    picture = _FLAT.fullmatch(f"{words[0].removesuffix('.JPEG')}.JPEG") if words else None
    class_id = (words[1:2] or [""])[0] if picture else words[0] if words else ""
    number = int(picture[1]) if picture else i
    if i == 1 and words[:1] == ["ImageId"]:
      continue
    if not _CLASS.fullmatch(class_id):
      raise ValueError(f"line {i} is '{line[:40]}': expected a WordNet id such as n01751748")
    if number in classes:
      raise ValueError(f"line {i} labels picture {number} again")
    classes[number] = class_id
  return classes
