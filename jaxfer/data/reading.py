"""Reads, checks, crops and encodes stills in parallel processes; results are in order, and memory is bounded."""

import collections
import concurrent.futures
import contextlib
import dataclasses
import hashlib
import multiprocessing
import os
import signal
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from multiprocessing import forkserver, resource_tracker
from pathlib import PurePath

import numpy as np
from PIL import Image

from jaxfer.data import align, detect, duplicates
from jaxfer.data.decode import Decoded, decode
from jaxfer.data.encode import png
from jaxfer.data.prepare import Findings, Problem, progress
from jaxfer.data.stills import Still
from jaxfer.errors import UserError

CROPS = ("auto", "detector", "template", "middle", "whole")
_NO_FACE = "no face found: the middle square was used"
_NO_FACE_BUT_PLACE = "no face found: the distributor's face position was used"
_CHUNK = 32  # Stills per task of a process.
_AHEAD = 2  # Finished chunks per process that may wait for the writer.
# Up to this many stills are read in this process. Starting two processes takes 0.3 to 0.5 s (2 busy cores); a picture
# of 256 pixels takes 2 ms, and one with face detection at least 20 ms.
_FEW, _FEW_DETECTED = 256, 32
_SUFFIXES = {
  "jpg": "JPEG",
  "jpeg": "JPEG",
  "jpe": "JPEG",
  "png": "PNG",
  "tif": "TIFF",
  "tiff": "TIFF",
  "bmp": "BMP",
}


@dataclasses.dataclass(frozen=True)
class Cut:
  """Options for cropping faces.

  Attributes:
    size: edge of the result in pixels.
    channels: 3 (RGB) or 1 (grey, ITU-R 601 luma).
    crop: one of `CROPS`, see `jaxfer.data.stills`.
    detector: name for `detect.get`; "" for the best installed detector.
  """

  size: int
  channels: int = 3
  crop: str = "auto"
  detector: str = ""


@dataclasses.dataclass(frozen=True)
class Result:
  """The result of reading a still.

  Attributes:
    image: PNG [size, size, channels]; None if the still cannot be used.
    landmarks: landmarks of the still, in pixels of the result.
    problem: why the still cannot be used, or what is odd about it; "" if there is no problem.
    how: how the face was placed.
    kind: kind of the file, `Decoded.kind`.
    size: size of the picture, such as "640x490".
    digest: digest of the decoded pixels; None if decoding failed.
  """

  image: bytes | None = None
  landmarks: np.ndarray | None = None
  problem: str = ""
  how: str = ""
  kind: str = ""
  size: str = ""
  digest: bytes | None = None


def workers() -> int:
  """Returns the number of parallel processes: the number of cores this process may use."""
  return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def read(
  stills: Sequence[Still],
  cut: Cut,
  findings: Findings,
  label_names: Sequence[str] = (),
  *,
  skip_bad: bool = False,
) -> Iterator[tuple[Still, Result]]:
  """Yields each usable still with its picture, in order; adds problems and counts to `findings`.

  Copies of a picture that contradict each other or leak between splits (`duplicates.judge`) are bad. Which ones to
  leave out is known only after all pictures have been read, so with `skip_bad` all are decoded once beforehand.

  Args:
    stills: stills to read.
    cut: options for cropping faces.
    findings: counts and problems are added to it; complete after the last still.
    label_names: class names by label, for messages.
    skip_bad: whether to leave out contradictions and leaks, instead of only reporting them.

  Raises:
    UserError: a detector is needed but not available, or a reading process died.
  """
  few, sought = _FEW, any(_needs_detector(still, cut) for still in stills)
  if sought:
    cut = dataclasses.replace(cut, detector=detect.get(cut.detector).name)
    few = _FEW_DETECTED
  hows: Counter[str] = Counter()
  kinds: Counter[str] = Counter()
  sizes: Counter[str] = Counter()
  faces_apart = cut.crop in ("auto", "template")
  verdict = duplicates.Verdict()
  if skip_bad:
    seen = progress(_results(stills, None, _FEW), len(stills), "comparing pictures")
    verdict = duplicates.judge(stills, [result.digest for result in seen], label_names, faces_apart)
  digests: list[bytes | None] = []
  for i, result in enumerate(progress(_results(stills, cut, few), len(stills), "reading pictures")):
    still = stills[i]
    digests.append(result.digest if result.image is not None else None)
    if result.image is None:
      findings.bad.append(Problem(str(still.source), result.problem))
      continue
    if i in verdict.dropped:
      continue
    if result.problem:
      findings.odd.append(Problem(str(still.source), result.problem))
    hows[result.how] += 1
    kinds[result.kind] += 1
    sizes[result.size] += 1
    yield still, result
  if not skip_bad:
    verdict = duplicates.judge(stills, digests, label_names, faces_apart)
  for problems, found in ((findings.bad, verdict.dropped), (findings.odd, verdict.repeats)):
    usable = ((i, what) for i, what in sorted(found.items()) if digests[i] is not None)
    problems += [Problem(str(stills[i].source), what) for i, what in usable]
  for title, counter in (("faces cut out", hows), ("kinds of pictures", kinds), ("sizes", sizes)):
    if counter:
      most = ", ".join(f"{count} {what}" for what, count in counter.most_common(8))
      others = len(counter) - 8
      findings.notes.append(f"{title}: {most}" + (f" and {others} more" if others > 0 else ""))
  if sought:
    with_face = hows[_found_by(cut)]
    findings.notes.append(f"the detector, {cut.detector}, found a face in {with_face} pictures")
  if faceless := sum(problem.what == _NO_FACE for problem in findings.odd):
    findings.notes.append(f"no face found in {faceless} pictures: crop=whole would use whole pictures")
  findings.notes += verdict.notes


def _needs_detector(still: Still, cut: Cut) -> bool:
  if cut.crop in ("template", "auto"):
    return still.points is None and (cut.crop == "template" or still.square is None)
  return cut.crop == "detector"


def _results(stills: Sequence[Still], cut: Cut | None, few: int) -> Iterator[Result]:
  """Yields one result per still; without `cut`, results hold only digests."""
  if len(stills) <= few:
    for still in stills:
      yield read_one(still, cut)
    return
  # Processes are not forked from this one, because threads and locks of JAX, TFDS and gRPC do not survive a fork.
  context = multiprocessing.get_context("forkserver")
  context.set_forkserver_preload([__name__])
  _start_server()
  count = workers()
  pool = concurrent.futures.ProcessPoolExecutor(count, mp_context=context, initializer=_start)
  chunks = (stills[start : start + _CHUNK] for start in range(0, len(stills), _CHUNK))
  waiting: collections.deque[concurrent.futures.Future[list[Result]]] = collections.deque()
  try:
    for chunk in chunks:
      waiting.append(pool.submit(_read_chunk, chunk, cut))
      if len(waiting) > _AHEAD * count:
        yield from waiting.popleft().result()
    while waiting:
      yield from waiting.popleft().result()
  except concurrent.futures.process.BrokenProcessPool as error:
    raise UserError(
      "a process that reads pictures died (out of memory?); in your own script, call prepare under "
      "`if __name__ == '__main__':`"
    ) from error
  finally:
    # If the command is interrupted, Python may close this generator only at its end: after the pool's own thread has
    # closed the pool's queues (OSError), or in that thread, which cannot wait for itself (RuntimeError).
    with contextlib.suppress(OSError, RuntimeError):
      pool.shutdown(cancel_futures=True)


def _start_server() -> None:
  """Starts the server that forks the reading processes, with Ctrl-C blocked in all of them from the start."""
  resource_tracker.ensure_running()  # Must come first, because it unblocks the signal.
  blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
  try:
    forkserver.ensure_running()
  finally:
    signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def _start() -> None:
  """Initializes a reading process: it ignores Ctrl-C, and ends with its parent."""
  signal.signal(signal.SIGINT, signal.SIG_IGN)
  os.environ["OPENCV_FOR_THREADS_NUM"] = "1"  # Each process has one core.
  parent = multiprocessing.parent_process()
  assert parent is not None

  def watch() -> None:
    parent.join()
    os._exit(1)

  threading.Thread(target=watch, daemon=True).start()


def _read_chunk(stills: Sequence[Still], cut: Cut | None) -> list[Result]:
  return [read_one(still, cut) for still in stills]


def read_one(still: Still, cut: Cut | None) -> Result:
  """Reads a still; problems are in the result. Without `cut`, the result holds only the digest."""
  digest = None
  try:
    decoded = decode(still.source.read())
    digest = _digest(decoded.pixels)
    if cut is None:
      return Result(digest=digest)
    picture, landmarks, how, problem = _cut(still, decoded, cut)
  except (OSError, ValueError, UserError) as error:
    return Result(problem=str(error), digest=digest)
  claimed = _SUFFIXES.get(PurePath(str(still.source).split(" (")[0]).suffix.lower().lstrip("."))
  if claimed and claimed != decoded.format:
    problem = problem or f"its name says {claimed}, but it is {decoded.format}"
  size = "x".join(str(round(n * s)) for n, s in zip(decoded.pixels.shape[1::-1], decoded.scale, strict=True))
  return Result(png(picture, grey=cut.channels == 1), landmarks, problem, how, decoded.kind, size, digest)


def _cut(still: Still, decoded: Decoded, cut: Cut) -> tuple[np.ndarray, np.ndarray | None, str, str]:
  """Returns the face [size, size, 3], its landmarks, how it was placed, and a problem or ""."""
  pixels, size, scale = decoded.pixels, cut.size, np.array(decoded.scale)
  height, width = pixels.shape[:2]
  _check_places(still, cut.crop, *np.rint(np.array([width, height]) * scale).astype(int))
  points = None if still.points is None else still.points / scale
  how, problem = "distributor's points", ""
  if cut.crop == "whole":
    matrix = np.array([[size / width, 0, 0], [0, size / height, 0]])
    picture = np.asarray(Image.fromarray(pixels).resize((size, size), Image.Resampling.BICUBIC))
    how = "the whole picture"
    if width != height:
      problem = f"not square ({width} x {height}): its aspect was changed"
  elif cut.crop == "template":
    if points is None:
      points, how = _found_points(pixels, cut.detector), _found_by(cut)
    matrix = align.similarity(points, align.template_points(len(points))) * (size / 112)
    picture = align.warp(pixels, matrix, size)
  else:
    square, how, problem = _square(still, decoded, cut)
    matrix, picture = align.square_matrix(square, size), align.crop(pixels, square, size)
  landmarks = None if still.landmarks is None else align.transform(still.landmarks / scale, matrix)
  return picture, landmarks, how, problem


def _square(still: Still, decoded: Decoded, cut: Cut) -> tuple[align.Square, str, str]:
  """Returns the square for the crops "auto", "detector" and "middle", how it was placed, and a problem or ""."""
  middle = align.centre_square(*decoded.pixels.shape[1::-1])
  if cut.crop == "middle":
    return middle, "the middle square", ""
  scale, given = np.array(decoded.scale), None
  if still.points is not None:
    given = align.points_square(still.points / scale), "distributor's points"
  elif still.square is not None:
    given = align.Square(*(np.array(dataclasses.astuple(still.square)) / scale[0])), "distributor's box"
  if given and cut.crop == "auto":
    return *given, ""
  if faces := detect.get(cut.detector).find([decoded.pixels])[0]:
    return faces[0].square, _found_by(cut), ""
  return (*given, _NO_FACE_BUT_PLACE) if given else (middle, "the middle square", _NO_FACE)


def _found_by(cut: Cut) -> str:
  return f"found by {cut.detector}"


def _found_points(pixels: np.ndarray, detector: str) -> np.ndarray:
  """Returns five points of the largest face. Raises ValueError if there is no face, or the detector gives no points."""
  faces = detect.get(detector).find([pixels])[0]
  if not faces:
    raise ValueError(f"the template needs points, and {detector} finds no face: choose crop=auto")
  if faces[0].points is None:
    raise ValueError(
      f"the template needs points, and {detector} gives none: `pip install 'jaxfer[faces]'`, or choose crop=auto"
    )
  return faces[0].points


def _check_places(still: Still, crop: str, width: int, height: int) -> None:
  """Raises ValueError if the distributor's face or landmarks are far outside the picture."""
  try:
    if still.landmarks is not None:
      align.check_points(still.landmarks, width, height)
    if crop not in ("middle", "whole") and still.points is not None:
      align.check_points(still.points, width, height)
    if crop not in ("middle", "whole") and still.square is not None:
      align.check_square(still.square, width, height)
  except UserError as error:
    raise ValueError(f"{still.where}: {error}" if still.where else str(error)) from None


def _digest(pixels: np.ndarray) -> bytes:
  digest = hashlib.blake2b(repr(pixels.shape).encode(), digest_size=16)
  digest.update(np.ascontiguousarray(pixels).data)
  return digest.digest()
