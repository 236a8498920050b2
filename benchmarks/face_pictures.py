"""The pictures for `benchmarks.faces`, and the positions of the faces in them."""

import dataclasses
import importlib.util
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from jaxfer.data import align

# Faces by file: x, y and radius in pixels, marked by eye. A detection counts if its centre lies within the radius.
# Clips also have the number of leading frames that show the faces; None means all frames.
PHOTOGRAPHS = {
  "single_face.jpg": [(290, 280, 80)],
  "multi_face.jpg": [(262, 120, 45), (363, 295, 50), (478, 270, 45), (580, 370, 50), (738, 355, 55)],
}
CLIPS = {
  "WolfgangLanger_Pexels.mp4": (None, [(445, 205, 90)]),
  "single_face.mp4": (None, [(298, 212, 60)]),
  "face_noface.mov": (72, [(445, 318, 90)]),
  "no_face.mp4": (0, []),
}
# Pictures in other packages, which are in the public domain or CC0.
_PORTRAITS = {
  ("skimage", "data/astronaut.png"): [(225, 122, 40)],
  ("matplotlib", "mpl-data/sample_data/grace_hopper.jpg"): [(261, 228, 70)],
}
_FACELESS = [
  *(("skimage", f"data/{name}") for name in (
    "brick.png", "cell.png", "chelsea.png", "clock_motion.png", "coffee.png", "grass.png", "gravel.png",
    "horse.png", "hubble_deep_field.jpg", "ihc.png", "moon.png", "motorcycle_left.png", "page.png", "retina.jpg",
    "rocket.jpg", "text.png")),
  ("sklearn", "datasets/images/china.jpg"), ("sklearn", "datasets/images/flower.jpg"),
]  # fmt: skip
_SCENE = (480, 640)


@dataclasses.dataclass(frozen=True)
class Picture:
  """An RGB image, uint8 [H, W, 3], and its faces as x, y and radius in pixels."""

  image: np.ndarray
  faces: Sequence[tuple[float, float, float]]


def sets(media: Path, every: int, scenes: int) -> dict[str, list[Picture]]:
  """Returns the sets of pictures by name. Pictures of packages that are not installed are left out.

  Args:
    media: folder of `PHOTOGRAPHS` and `CLIPS`.
    every: distance between the frames that are taken from a clip.
    scenes: number of composed pictures.
  """
  photographs = [Picture(_open(media / name), faces) for name, faces in PHOTOGRAPHS.items()]
  portraits = [Picture(_open(path), faces) for part, faces in _PORTRAITS.items() if (path := _bundled(*part))]
  frames = [picture for name in CLIPS for picture in _frames(media / name, every, *CLIPS[name])]
  faceless = [Picture(_open(path), []) for part in _FACELESS if (path := _bundled(*part))]
  faceless += [picture for picture in frames if not picture.faces]
  frames = [picture for picture in frames if picture.faces]
  rng = np.random.default_rng(0)
  people = photographs + portraits + frames[:: max(1, len(frames) // 6)]
  grounds = [picture.image for picture in faceless]
  made = {
    "photographs": photographs + portraits,
    "frames": frames,
    "scenes": [_scene(rng, people[i % len(people)], grounds) for i in range(scenes)],
    "LFW": _lfw(rng, 256),
    "LFW, cut tight": _lfw(rng, 100),
    "no face": faceless,
  }
  return {name: pictures for name, pictures in made.items() if pictures}


def _open(path: Path) -> np.ndarray:
  return np.asarray(Image.open(path).convert("RGB"))


def _bundled(package: str, name: str) -> Path | None:
  found = importlib.util.find_spec(package)
  paths = [Path(folder) / name for folder in (found.submodule_search_locations if found else None) or ()]
  return next((path for path in paths if path.is_file()), None)


def _frames(path: Path, every: int, with_faces: int | None, faces: Sequence) -> list[Picture]:
  import av

  with av.open(str(path)) as container:
    return [
      Picture(frame.to_ndarray(format="rgb24"), faces if with_faces is None or i < with_faces else [])
      for i, frame in enumerate(container.decode(video=0))
      if i % every == 0
    ]


def _scene(rng: np.random.Generator, person: Picture, grounds: Sequence[np.ndarray]) -> Picture:
  """Pastes a rotated and scaled face onto another picture, then changes brightness, adds noise and compresses it."""
  x, y, radius = person.faces[int(rng.integers(len(person.faces)))]
  height, width = _SCENE
  edge = np.exp(rng.uniform(np.log(20), np.log(105)))  # Radius of the face in the scene.
  turn = np.clip(rng.normal(0, 15), -40, 40)
  reach = 2.2 * edge  # Radius of the pasted part, which shows the head.
  middle = np.array(
    [rng.uniform(reach, width - reach), rng.uniform(min(reach, 239), max(height - reach, 241))]
  )
  scale = edge / radius * np.exp(1j * np.deg2rad(turn))
  matrix = np.array([[scale.real, -scale.imag, 0], [scale.imag, scale.real, 0]])
  matrix[:, 2] = reach - matrix[:, :2] @ [x, y]
  head = align.warp(person.image, matrix, int(2 * reach))
  ground = Image.fromarray(grounds[int(rng.integers(len(grounds)))]).resize((width, height))
  rows, columns = np.mgrid[: head.shape[0], : head.shape[1]] + 0.5
  mask = np.clip((1 - np.hypot(rows - reach, columns - reach) / reach) * 8, 0, 1)
  left, top = (int(v) for v in middle - reach)
  ground.paste(Image.fromarray(head), (left, top), Image.fromarray((255 * mask).astype(np.uint8)))
  noise = rng.normal(0, rng.uniform(0, 12), (*_SCENE, 3))
  values = (np.asarray(ground) / 255) ** rng.uniform(0.6, 1.8) * 255 + noise
  image = _compressed(values, int(rng.integers(40, 96)))
  return Picture(image, [(left + reach, top + reach, edge)])


def _lfw(rng: np.random.Generator, edge: int) -> list[Picture]:
  """Enlarges scikit-image's 100 grey faces of 100 people from 25 to 100 pixels, on a background of `edge` pixels."""
  path = _bundled("skimage", "data/lfw_subset.npy")
  made = []
  for patch in np.load(path)[:100] if path else ():
    ground = np.full((edge, edge), float(np.median(patch)) * 255)
    large = Image.fromarray((patch * 255).astype(np.uint8)).resize((100, 100), Image.Resampling.BICUBIC)
    left, top = (int(v) for v in rng.integers(0, edge - 99, 2))
    ground[top : top + 100, left : left + 100] = np.asarray(large)
    image = np.repeat(ground.clip(0, 255).astype(np.uint8)[..., None], 3, axis=-1)
    made.append(Picture(image, [(left + 50, top + 50, 30)]))
  return made


def _compressed(values: np.ndarray, quality: int) -> np.ndarray:
  stream = io.BytesIO()
  Image.fromarray(values.clip(0, 255).astype(np.uint8)).save(stream, "JPEG", quality=quality)
  return _open(stream)  # type: ignore[arg-type]
