"""Scans CASIA-WebFace, in folders or as InsightFace's train.rec, train.idx, train.lst and property; decodes no image.

Layout and counts: data/README.md, section 10; Yi et al. (2014).
"""

import dataclasses
import functools
import io
import re
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image

from jaxfer.data import recordio
from jaxfer.data.datasets.casia_webface import verification
from jaxfer.data.decode import FORMATS, check_size
from jaxfer.data.prepare import Belief, Count, Findings, Problem, find_folders, progress, visible
from jaxfer.data.stills import Bytes, File, Still
from jaxfer.data.tree import read_text, walk
from jaxfer.errors import UserError

NUM_FOLDERS, NUM_FOLDER_IMAGES = 10_575, 494_414
NUM_IDENTITIES, NUM_IMAGES = 10_572, 490_623

_IDENTITY = re.compile(r"\d{1,7}")
_IMAGE = re.compile(r"\d{1,8}\.(jpe?g|png)", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class Swapped:
  """A picture whose red and blue were swapped before it was encoded; `read` returns it in RGB as a bitmap."""

  place: Bytes

  def read(self) -> bytes:
    """Returns the picture with the channels in the right order. Raises OSError or ValueError."""
    data = self.place.read()
    try:
      with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        check_size(*image.size)
        pixels = np.asarray(image.convert("RGB"))[..., ::-1]
    except (OSError, ValueError):
      raise
    except Exception as error:  # Pillow's decoders raise many kinds of exceptions.
      raise ValueError(f"cannot be decoded ({str(error) or type(error).__name__})") from None
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "ppm")
    return stream.getvalue()

  def __str__(self) -> str:
    return f"{self.place} (channels swapped)"


def scan_folders(source: Path, swapped: bool, findings: Findings) -> tuple[list[Still], list[str]]:
  """Lists <identity>/<number>.jpg; a label is the index of the identity's folder, in numeric order.

  Args:
    source: the folder of the identities' folders, or one above it.
    swapped: whether red and blue are swapped in the files.
    findings: counts and problems are added to it.

  Returns:
    The stills and the names of the identities.

  Raises:
    UserError: there are no such folders, or they hold no pictures.
  """
  roots = find_folders(source, lambda children: any(_IDENTITY.fullmatch(child.name) for child in children))
  if not roots:
    raise UserError(
      f"source {source} holds no folders of CASIA-WebFace: expected CASIA-WebFace/0000045/001.jpg in it or a few "
      "folders further down; for train.rec give form=records"
    )
  for other in roots[1:]:
    findings.odd.append(Problem(str(other), f"a second tree of identities, beside {roots[0]}; left out"))
  folders = sorted(
    (path for path in visible(roots[0]) if _IDENTITY.fullmatch(path.name) and path.is_dir()),
    key=lambda path: (int(path.name), path.name),
  )
  stills: list[Still] = []
  names: list[str] = []
  for folder in progress(folders, len(folders), "listing identities"):
    images = []
    for path in visible(folder):
      if _IMAGE.fullmatch(path.name):
        images.append(path)
      else:
        findings.odd.append(
          Problem(str(path), "its name is not that of a picture, such as 001.jpg; left out")
        )
    if not images:
      findings.odd.append(Problem(str(folder), "an identity without pictures; it gets no label"))
      continue
    for path in images:
      place: Bytes = Swapped(File(path)) if swapped else File(path)
      stills.append(Still(f"{folder.name}_{path.name}", folder.name, len(names), place))
    names.append(folder.name)
  if not stills:
    raise UserError(
      f"source {source}: its {len(folders)} folders of identities hold no pictures such as 001.jpg"
    )
  findings.counts += [
    Count("identities", len(names), NUM_FOLDERS),
    Count("pictures", len(stills), NUM_FOLDER_IMAGES),
  ]
  return stills, names


def scan_records(source: Path, swapped: bool, findings: Findings) -> tuple[list[Still], list[str]]:
  """Lists the images of train.rec, in the order of train.idx if it exists, else in the order of the records.

  Record 0 gives the number of images: their keys are 1 to label[0] - 1. Records about identities follow them.

  Args:
    source: the folder of train.rec, or one above it.
    swapped: whether red and blue are swapped in the records.
    findings: counts and problems are added to it.

  Returns:
    The stills and the names of the identities, which are consecutive numbers from 0.

  Raises:
    UserError: there is no train.rec, or it cannot be read at all.
  """
  # Keeps the first file of each name.
  files = {path.name.lower(): path for path in reversed(list(walk(source)))}
  if "train.rec" not in files:
    raise UserError(
      f"source {source} holds no train.rec: expected faces_webface_112x112/train.rec in it or a few folders further "
      "down; for folders of pictures give form=folders"
    )
  path = files["train.rec"]
  stills: list[Still] = []
  identities: Counter[int] = Counter()
  try:
    with recordio.Reader(path) as reader:
      offsets = _offsets(reader, files.get("train.idx"), findings)
      end = _image_end(reader, offsets, findings)
      keys = [key for key in sorted(offsets) if 0 < key < end]
      for key in progress(keys, len(keys), "listing records"):
        name = f"record {key}"
        try:
          header, _ = reader.header(offsets[key])
          label = header.labels[0]
          if not (label.is_integer() and 0 <= label < len(keys)):
            raise ValueError(
              f"label is {label:g}: expected the number of an identity, below {len(keys)}, the number of images"
            )
          if not header.size:
            raise ValueError("a record between images has no image")
        except ValueError as error:
          findings.bad.append(Problem(f"{path} ({name})", str(error)))
          continue
        identities[int(label)] += 1
        place: Bytes = recordio.Image(path, offsets[key], name)
        person = f"{int(label):07d}"
        stills.append(Still(f"{key:07d}", person, int(label), Swapped(place) if swapped else place))
  except (OSError, ValueError) as error:
    raise UserError(f"{path}: {error}; copy it again") from None
  if not stills:
    findings.finish(skip_bad=False)
    raise UserError(f"{path} holds no images in its {len(offsets)} records; copy it again")
  number = max(identities) + 1
  if absent := number - len(identities):
    findings.odd.append(Problem(str(path), f"{absent} of the identities 0 to {number - 1} have no image"))
  findings.counts += [
    Count("identities (largest label + 1)", number, NUM_IDENTITIES),
    Count("pictures", len(stills), NUM_IMAGES),
    Count("images that record 0 announces", end - 1, len(keys)),
  ]
  _check_beside(files, number, len(stills), findings)
  return stills, [f"{i:07d}" for i in range(number)]


def _offsets(reader: recordio.Reader, index: Path | None, findings: Findings) -> dict[int, int]:
  if index is not None:
    try:
      if offsets := recordio.read_index(index):
        return offsets
      raise ValueError("it is empty")
    except (OSError, ValueError) as error:
      findings.odd.append(Problem(str(index), f"{error}; records were taken in the order of the .rec"))
  else:
    findings.notes.append("no train.idx: records were taken in the order of the .rec")
  offsets = {}
  try:
    for key, offset in enumerate(reader.offsets()):
      offsets[key] = offset
  except ValueError as error:
    offsets.popitem()
    if not offsets:
      raise
    findings.bad.append(Problem(str(reader.path), str(error)))
  if not offsets:
    raise ValueError("the file is empty")
  return offsets


def _image_end(reader: recordio.Reader, offsets: dict[int, int], findings: Findings) -> int:
  """Returns the key after the last image, from record 0; without a header record, all records are images."""
  try:
    header, _ = reader.header(offsets[0])
    if len(header.labels) != 2 or header.size or not 1 < header.labels[0] < 1 << 30:
      raise ValueError("it is not a header record")
    return int(header.labels[0])
  except (KeyError, ValueError) as error:
    what = f"record 0 does not give the number of images ({error}): all records after it are read as images"
    findings.odd.append(Problem(str(reader.path), what))
    return max(offsets) + 1


def _check_beside(files: dict[str, Path], identities: int, images: int, findings: Findings) -> None:
  """Compares property, train.lst and the verification sets with the records."""
  if path := files.get("property"):
    try:
      said = read_text(path, 1000).strip()
      holds = said.split(",")[0].strip() == str(identities)
      findings.beliefs.append(Belief("property names the number of identities", holds, said[:60]))
    except (OSError, ValueError) as error:
      findings.odd.append(Problem(str(path), str(error)))
  if path := files.get("train.lst"):
    with path.open("rb") as stream:
      lines = sum(1 for line in iter(functools.partial(stream.readline, 1 << 16), b"") if line.strip())
    findings.beliefs.append(Belief("train.lst has one line per image", lines == images, f"{lines} lines"))
  for name in sorted(files):
    if name.endswith(".bin"):
      try:
        pairs = verification.read_pairs(files[name])
      except (OSError, ValueError) as error:
        findings.odd.append(Problem(str(files[name]), f"not a verification set: {error}"))
        continue
      expected = verification.NUM_PAIRS.get(name.removesuffix(".bin"))
      findings.counts.append(Count(f"pairs of {name}", len(pairs), expected))
