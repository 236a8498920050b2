"""The frames of CK+: reads their headers, and the labelled sequences as arrays."""

import contextlib
import csv
import dataclasses
import hashlib
import io
import struct
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Set
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from jaxfer.data import align, flow, tree
from jaxfer.data.datasets.ckplus.scan import LABELS, Files, Sequence
from jaxfer.data.decode import decode
from jaxfer.data.prepare import Belief, Findings, Problem, progress
from jaxfer.data.stills import File
from jaxfer.errors import UserError

# The landmarks reach from brow to chin and from ear to ear; the margin adds the forehead.
MARGIN = 0.2
_THREADS = 8  # Decoding and the flow release Python's global lock.
_LARGEST = 64 << 20  # Bytes; frames have about 300,000.
_SIGNATURE, _END = b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"


@dataclasses.dataclass(frozen=True)
class Header:
  """Properties from the header of a PNG.

  Attributes:
    width: pixels.
    height: pixels.
    depth: bits per channel.
    colour: whether the image is in colour.
    tail: file size and last bytes, which contain checksums of the pixels: files with different tails differ.
  """

  width: int
  height: int
  depth: int
  colour: bool
  tail: tuple[int, bytes]


def read_header(path: Path) -> Header:
  """Reads the start and the end of a PNG.

  Raises:
    ValueError: the file is not a PNG, was cut short, or is larger than any frame.
  """
  with path.open("rb") as stream:
    start = stream.read(26)
    size = stream.seek(0, io.SEEK_END)
    stream.seek(max(0, size - 20))
    tail = stream.read()
    if len(start) < 26 or start[:8] != _SIGNATURE:
      raise ValueError(f"not a PNG image ({size} bytes)")
    if size > _LARGEST:
      raise ValueError(f"the PNG image has {size} bytes: at most {_LARGEST} are read")
    if not tail.endswith(_END):
      stream.seek(0)
      if _END not in stream.read():  # Some writers append more after the end.
        raise ValueError(f"the PNG image is cut short, at {size} bytes")
  width, height, depth, colour = struct.unpack(">IIBB", start[16:26])
  return Header(width, height, depth, colour & 2 > 0, (size, tail))


def check_headers(frames: Files, labelled: Set[str], findings: Findings) -> set[str]:
  """Reads the header of every frame, and adds sizes, colours, damage and equal content to `findings`.

  Args:
    frames: all sequences.
    labelled: keys of the labelled sequences. A damaged frame of an unlabelled one is odd, not bad.
    findings: counts and problems are added to it.

  Returns:
    Keys of the sequences with a damaged frame.
  """
  damaged = set()
  sizes: Counter[str] = Counter()
  colour, deep = set(), 0
  alike: dict[tuple[int, bytes], list[tuple[str, Path]]] = defaultdict(list)

  def read(item: tuple[str, Path]) -> Header | ValueError:
    try:
      return read_header(item[1])
    except (ValueError, OSError) as error:
      return ValueError(str(error))

  paths = [(key, path) for key, paths in frames.items() for path in paths]
  with ThreadPoolExecutor(_THREADS) as pool:
    headers = list(progress(pool.map(read, paths), len(paths), "checking frames"))
  per_sequence: dict[str, set[str]] = defaultdict(set)
  for (key, path), header in zip(paths, headers, strict=True):
    if isinstance(header, ValueError):
      (findings.bad if key in labelled else findings.odd).append(Problem(str(path), str(header)))
      damaged.add(key)
      continue
    size = f"{header.width}x{header.height}"
    sizes[size] += 1
    per_sequence[key].add(size)
    deep += header.depth > 8
    if header.colour:
      colour.add(key)
    alike[header.tail].append((key, path))
  for key, found in per_sequence.items():
    if len(found) > 1:
      findings.odd.append(
        Problem(str(frames[key][0].parent), f"frames of several sizes: {', '.join(sorted(found))}")
      )
  _report_duplicates(alike.values(), findings)
  seen = ", ".join(f"{count} of {size}" for size, count in sizes.most_common(4))
  findings.beliefs += [
    Belief("frames are 640x490 or 640x480", set(sizes) <= {"640x490", "640x480"}, seen),
    Belief("frames have 8 bits per channel", not deep, f"{deep} have more"),
    Belief(
      "most sequences are grey, some in colour",
      0 < len(colour) < len(frames) / 2,
      f"{len(colour)} of {len(frames)} in colour; all are written as RGB",
    ),
  ]
  return damaged


def _report_duplicates(groups: Iterable[list[tuple[str, Path]]], findings: Findings) -> None:
  still = 0
  for group in groups:
    first: dict[bytes, tuple[str, Path]] = {}
    for key, path in group if len(group) > 1 else ():
      original, other = first.setdefault(path.read_bytes(), (key, path))
      if other == path:
        continue
      if original == key:
        still += 1
      else:
        findings.odd.append(Problem(str(path), f"same content as {other.name}"))
  if still:
    findings.notes.append(f"{still} frames equal an earlier frame of their own sequence")


def contradicting(sequences: Iterable[Sequence], findings: Findings) -> set[str]:
  """Returns the keys of labelled sequences with equal last frames but different labels or people; all are bad."""
  ends: dict[bytes, list[Sequence]] = defaultdict(list)
  for sequence in sequences:
    with contextlib.suppress(OSError, ValueError):  # A later read reports the error in more detail.
      ends[hashlib.blake2b(File(sequence.frames[-1]).read()).digest()].append(sequence)
  found = set()
  for same in ends.values():
    if len({(sequence.label, sequence.subject) for sequence in same}) == 1:
      continue
    for sequence in same:
      others = ", ".join(f"{other.key} ({LABELS[other.label]})" for other in same if other is not sequence)
      what = f"{sequence.key} ({LABELS[sequence.label]}) ends in the same frame as {others}"
      findings.bad.append(Problem(str(sequence.frames[-1]), what))
      found.add(sequence.key)
  return found


@dataclasses.dataclass(frozen=True)
class Example:
  """A sequence as written: frames [T, S, S, 3] uint8 and flow [T, S, S, 2] int16 (`flow.quantize`)."""

  sequence: Sequence
  frames: np.ndarray
  flow: np.ndarray


def read_sequences(
  sequences: list[Sequence], boxes: dict[str, align.Square], num_frames: int, size: int, findings: Findings
) -> Iterator[Example]:
  """Decodes, crops and resamples a few sequences ahead; unreadable files are added to `findings.bad`.

  All frames are cropped to one square: the given box, else the square around the first frame's landmarks, else the
  largest square in the middle of the image. The count of each kind is added to `findings.notes`.

  Args:
    sequences: the sequences to read.
    boxes: face squares by sequence key; any may be missing.
    num_frames: T.
    size: S in pixels.
    findings: problems and notes are added to it.
  """
  squares: Counter[str] = Counter()
  with ThreadPoolExecutor(_THREADS) as pool:
    # Executor.map would read far ahead of a slow consumer; reading in blocks limits the memory.
    def blocks() -> Iterator[tuple[Example | None, str, list[Problem]]]:
      for start in range(0, len(sequences), 4 * _THREADS):
        block = sequences[start : start + 4 * _THREADS]
        yield from pool.map(
          lambda sequence: _read(sequence, boxes.get(sequence.key), num_frames, size), block
        )

    for example, square, problems in progress(blocks(), len(sequences), "reading sequences"):
      findings.bad += problems
      if example:
        squares[square] += 1
        yield example
  parts = [f"{count} by {square}" for square, count in squares.most_common()]
  if parts:
    findings.notes.append("faces cut out: " + ", ".join(parts))


def _read(
  sequence: Sequence, box: align.Square | None, num_frames: int, size: int
) -> tuple[Example | None, str, list[Problem]]:
  problems, decoded = [], {}
  chosen = align.onset_to_peak(len(sequence.frames), num_frames)
  for i in np.union1d(chosen, [0]):  # The first frame determines the size of the middle square.
    try:
      decoded[i] = _decode(sequence.frames[i])
    except (OSError, ValueError) as error:
      problems.append(Problem(str(sequence.frames[i]), str(error)))
  if problems:
    return None, "", problems
  height, width = decoded[0].shape[:2]
  how = "middle of the image"
  try:
    if box is not None:
      square, how = box, "given box"
    elif sequence.landmarks is not None:
      how = "landmarks"
      align.check_points(sequence.landmarks, width, height)
      square = align.landmark_square(sequence.landmarks, MARGIN)
    else:
      square = align.centre_square(width, height)
    frames = np.stack([align.crop(decoded[i], square, size) for i in chosen])
  except UserError as error:
    return None, "", [Problem(str(sequence.frames[0]), f"{error}, by {how}")]
  return Example(sequence, frames, flow.quantize(flow.farneback(frames))), how, []


def _decode(path: Path) -> np.ndarray:
  """Decodes a frame as uint8 [H, W, 3] like `decode`, but refuses 16-bit grey, which no frame of CK+ has."""
  header = read_header(path)
  if header.depth > 8 and not header.colour:
    raise ValueError("image has mode I;16: expected 8 bits per channel")
  return decode(File(path).read()).pixels


def read_boxes(path: str) -> dict[str, align.Square]:
  """Reads face boxes: csv with the header `sequence,x,y,w,h`, e.g. `S005_001,210,90,240,300` in pixels.

  Raises:
    UserError: the file cannot be read, or a line has another form.
  """
  boxes: dict[str, align.Square] = {}
  try:
    stream = io.StringIO(tree.read_text(Path(path)), newline="")
    for row in csv.DictReader(stream, skipinitialspace=True):
      x, y, width, height = (float(row[column]) for column in "xywh")
      if not (np.isfinite([x, y]).all() and 0 < width < np.inf and 0 < height < np.inf):
        raise ValueError(f"box {x:g},{y:g},{width:g},{height:g}")
      boxes[row["sequence"].strip().upper()] = align.box_square(x, y, width, height)
  except OSError as error:
    raise UserError(f"boxes {path} cannot be read ({error.strerror})") from error
  except (KeyError, TypeError, ValueError, AttributeError, csv.Error) as error:
    raise UserError(
      f"boxes {path}, entry {len(boxes) + 1}: {str(error)[:80]}; expected a header sequence,x,y,w,h and pixels"
    ) from error
  return boxes
