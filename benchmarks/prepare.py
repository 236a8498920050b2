"""Compares the speed of `jaxfer prepare` with plain Pillow on the same files with as many processes.

`jaxfer_prepare` does everything that `jaxfer prepare manifest` does with JPEGs in a folder: it reads and checks the
table, decodes, checks for damage and duplicates, crops the face by five points, encodes as PNG, writes array_record and
reads it back. `pillow_decode` decodes the files to RGB arrays and drops them; `pillow_decode_resize_encode` also
resizes and encodes. Each call starts new processes. Peak memory is the increase for this process and its children
(proportional set size). Each child imports this script, including JAX, which `jaxfer` does not.

The last line is the speed of an import as a share of plain decoding, in images per second.
"""

import argparse
import concurrent.futures
import functools
import io
import multiprocessing
import pathlib
import shutil
import tempfile
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

from benchmarks import harness
from jaxfer.data import align, reading, records
from jaxfer.data.prepare import prepare

_CHECKED = 16  # Number of pictures of each import that are compared pixel by pixel.
_BETWEEN = 0.05  # Seconds between two checks of the memory.


def draw(folder: pathlib.Path, count: int, size: int) -> None:
  """Writes `count` JPEGs of blurred noise and manifest.csv with five points each, in folders of 1,000."""
  rng = np.random.default_rng(0)
  rows = ["path,label,subject,landmarks"]
  points = align.TEMPLATE_112 * (size / 2 / 112) + size / 4
  for i in range(count):
    path = folder / f"{i // 1000:03d}" / f"{i:06d}.jpg"
    path.parent.mkdir(exist_ok=True)
    noise = Image.fromarray(rng.integers(0, 256, (size // 8, size // 8, 3), np.uint8))
    noise.resize((size, size), Image.Resampling.BICUBIC).save(path, quality=90)
    text = " ".join(f"{value:.2f}" for value in (points + rng.uniform(-2, 2, (5, 2))).ravel())
    rows.append(f"{path.relative_to(folder)},class{i % 7},person{i // 7},{text}")
  (folder / "manifest.csv").write_text("\n".join(rows) + "\n")


def plain(path: str, size: int) -> int:
  """Decodes a JPEG; with a size, also resizes and encodes it. Returns the number of resulting bytes."""
  with Image.open(path) as file:
    image = file.convert("RGB")
    if not size:
      return np.asarray(image).nbytes
    stream = io.BytesIO()
    image.resize((size, size), Image.Resampling.BICUBIC).save(stream, "png", compress_level=1)
    return len(stream.getvalue())


def watched(call: Callable[[], Any]) -> tuple[Any, dict[str, int] | None]:
  """Returns the result of `call`, and the peak memory of this process and its children during the call."""
  before, peak, done = _memory(), 0, threading.Event()

  def watch() -> None:
    nonlocal peak
    while not done.wait(_BETWEEN):
      peak = max(peak, _memory())

  thread = threading.Thread(target=watch)
  thread.start()
  try:
    result = call()
  finally:
    done.set()
    thread.join()
  return result, {"peak_bytes": max(peak - before, 0)} if before else None


def _memory() -> int:
  """Returns the bytes of this process and its children, with shared pages counted once; 0 if unknown."""
  parents, total = {}, 0
  for path in pathlib.Path("/proc").glob("[0-9]*/stat"):
    try:
      parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
    except OSError:
      continue  # It has ended.
  ours = {multiprocessing.current_process().pid}
  while more := {process for process, parent in parents.items() if parent in ours} - ours:
    ours |= more
  for process in ours:
    try:
      lines = pathlib.Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    except OSError:
      continue
    total += next((1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)
  return total


def prepared(folder: pathlib.Path, size: int, data_dir: pathlib.Path) -> harness.Program:
  """Runs `jaxfer prepare manifest`."""

  def call():
    return prepare("manifest", folder, data_dir, image_size=size)

  facts: dict[str, Any] = {}

  def result():
    _, facts["memory"] = watched(call)
    loaded = records.load("manifest", data_dir, image_size=size)
    return {"images": np.array([len(loaded)]), "first": loaded.arrays["image"][:_CHECKED]}

  return harness.Program(call, result, facts)


def decoded(folder: pathlib.Path, size: int) -> harness.Program:
  """Runs Pillow only; resizes and encodes if `size` is not 0."""
  paths = sorted(map(str, folder.rglob("*.jpg")))

  def call():
    context = multiprocessing.get_context("forkserver")
    with concurrent.futures.ProcessPoolExecutor(reading.workers(), mp_context=context) as pool:
      return sum(1 for taken in pool.map(plain, paths, [size] * len(paths), chunksize=32) if taken)

  facts: dict[str, Any] = {}

  def result():
    count, facts["memory"] = watched(call)
    return {"images": np.array([count])}

  return harness.Program(call, result, facts)


def measure(session: harness.Session, arguments: argparse.Namespace, folder: pathlib.Path) -> None:
  count = 300 if session.quick else arguments.images
  source, size = folder / "source", 64
  source.mkdir()
  draw(source, count, arguments.size)

  def reference():
    """Returns the first pictures, cropped one by one."""
    cut = []
    for row in (source / "manifest.csv").read_text().splitlines()[1 : _CHECKED + 1]:
      path, _, _, text = row.split(",")
      square = align.points_square(np.array(text.split(), float).reshape(5, 2))
      cut.append(align.crop(np.asarray(Image.open(source / path)), square, size))
    return {"images": np.array([count]), "first": np.stack(cut)}

  done = session.measure(
    harness.Case(
      name=f"n{count}-s{arguments.size}",
      settings={"images": count, "size": arguments.size, "processes": reading.workers(), "image_size": size},
      work={"samples": count},
      tolerance=0.0,
      dtype="uint8",
      budget=120.0,
    ),
    [
      harness.Contender("jaxfer_prepare", functools.partial(prepared, source, size, folder / "data")),
      harness.Contender("pillow_decode", functools.partial(decoded, source, 0)),
      harness.Contender("pillow_decode_resize_encode", functools.partial(decoded, source, size)),
    ],
    reference,
    "the first pictures cut out one by one",
  )
  rates = {record["implementation"]: record["rates"].get("samples_per_second") for record in done}
  if all(rates.values()):
    ours, plain_decoding, all_of_it = rates.values()
    print(
      f"  {ours:.0f} images/s imported, {plain_decoding:.0f} decoded, {all_of_it:.0f} decoded, resized and encoded: "
      f"{ours / plain_decoding:.0%} of plain decoding, with {reading.workers()} processes"
    )


def main() -> None:
  flags = harness.parser(__doc__)
  flags.add_argument("--images", type=int, default=5000, help="JPEGs to import (default 5000)")
  flags.add_argument("--size", type=int, default=256, help="edge of each in pixels (default 256)")
  arguments = flags.parse_args()
  session = harness.session("prepare", arguments)
  folder = pathlib.Path(tempfile.mkdtemp(prefix="jaxfer-prepare-"))
  try:
    measure(session, arguments, folder)
  finally:
    shutil.rmtree(folder)
  harness.finish(session)


if __name__ == "__main__":
  main()
