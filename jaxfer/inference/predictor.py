"""`Predictor`, the interface of every loaded model, and the preparation of its input images."""

import dataclasses
import itertools
import pathlib
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from PIL import Image

from jaxfer.data import flow as optical_flow
from jaxfer.errors import UserError
from jaxfer.systems.explanation import Explanation
from jaxfer.train.stage import Batch

Path = str | pathlib.Path
_FIX = {
  "image": "give RGB images, uint8 [n, height, width, 3]",
  "sequence": "give RGB clips, uint8 [n, frames, height, width, 3]",
}


@dataclasses.dataclass(frozen=True)
class InputSpec:
  """The inputs of a model. Images are always given as RGB; a model that reads BGR or grey converts them itself.

  Attributes:
    kind: "image", or "sequence" for models that read clips.
    shape: shape of one input: (size, size, channels), or (frames, size, size, 3). Other sizes are resized to it.
    crop: how faces are cut out of photographs; see `jaxfer.data.stills`.
    landmarks: number of landmarks per face that the model needs in addition to the image; 0 for none.
    flow: whether the model reads optical flow. The flow is computed from the frames unless it is given.
    resample: filter used to resize images of other sizes: "bicubic" or "bilinear".
    colour_order: "RGB".
    dtype: "uint8".
  """

  kind: Literal["image", "sequence"]
  shape: tuple[int, ...]
  crop: str = "auto"
  landmarks: int = 0
  flow: bool = False
  resample: Literal["bicubic", "bilinear"] = "bicubic"
  colour_order: str = "RGB"
  dtype: str = "uint8"

  @property
  def size(self) -> int:
    """Height and width in pixels."""
    return self.shape[-2]

  @property
  def frames(self) -> int:
    """Number of frames of a clip; 1 for an image."""
    return self.shape[0] if self.kind == "sequence" else 1


class Predictor:
  """A model that classifies faces. `jaxfer.load` returns one.

  Its methods accept:

  - an array of faces that are already cut out: uint8 RGB [n, height, width, 3], or [n, frames, height, width, 3] for a
    model that reads clips. Faces of other sizes are resized to `input_spec.shape`.
  - the path of a photograph, or a list of paths. The largest face of each photograph is cut out in the same way as by
    `jaxfer prepare`. A model that reads clips takes paths of videos, and reads equally spaced frames of each.
  - a list of arrays, each with one face [height, width, 3] or one clip [frames, height, width, 3].
  - an iterator over paths or over such single arrays. The result is then an iterator that yields one array per batch,
    and memory use does not grow with the number of images.

  The prediction for an image never depends on the other images. For an image of the data set that is cut out in the
  same way, it equals the prediction of `jaxfer evaluate` up to rounding.

  Attributes:
    label_names: names of the classes, in the order of the columns of `predict_proba`; None if the source of converted
      weights does not name them.
    input_spec: inputs of the model.
    batch: number of images per batch.
  """

  label_names: tuple[str, ...] | None
  input_spec: InputSpec
  batch: int = 64

  def predict_proba(self, images: Any, *, landmarks: Any = None, flow: Any = None) -> Any:
    """Returns the probabilities of the classes.

    Args:
      images: see the class.
      landmarks: float [n, K, 2] (x right, y down) in pixels of `images`, for a model whose `input_spec.landmarks` is
        K. All values are NaN for a face without landmarks. Accepted only with an array of images.
      flow: int16 [n, frames, size, size, 2], see `jaxfer.data.flow.quantize`; None computes it from the frames.
        Accepted only with an array of images.

    Returns:
      float32 [n, classes]; each row sums to 1. If `images` is an iterator, an iterator over such arrays.

    Raises:
      UserError: the images have another type or layout, a file cannot be read, or landmarks are missing.
    """
    if isinstance(images, np.ndarray):
      parts = self._of_array(images, landmarks, flow)
      return np.concatenate([np.zeros((0, self.num_classes), np.float32), *parts])
    if landmarks is not None or flow is not None:
      raise UserError(
        "landmarks and flow can only be given with images in one numpy array: give the images in that form"
      )
    if isinstance(images, Path):
      images = [images]
    if not isinstance(images, Iterable):
      raise UserError(f"images is a {type(images).__name__}: {_FIX[self.input_spec.kind]} in one numpy array")
    parts = (self._finite(self._prepared(batch)) for batch in batched(images, self.batch))
    if isinstance(images, Iterator):
      return parts
    return np.concatenate([np.zeros((0, self.num_classes), np.float32), *parts])

  def predict(self, images: Any, *, landmarks: Any = None, flow: Any = None) -> Any:
    """Returns the classes, as the classifiers of scikit-learn do.

    Arguments, iterators and errors are those of `predict_proba`.

    Returns:
      [n] names of the classes, or int [n] columns of `predict_proba` if `label_names` is None. Ties go to the lower
      column.
    """
    found = self.predict_proba(images, landmarks=landmarks, flow=flow)
    return self._classes(found) if isinstance(found, np.ndarray) else map(self._classes, found)

  @property
  def num_classes(self) -> int:
    """Number of columns of `predict_proba`."""
    raise NotImplementedError

  def probabilities(self, arrays: dict[str, np.ndarray]) -> np.ndarray:
    """Returns the probabilities [n, classes] of at most `batch` prepared inputs.

    Args:
      arrays: "image" or "frames", uint8 [n, *input_spec.shape]; also "flow" and "landmarks" if the model reads them.
    """
    raise NotImplementedError

  def explanation(self, layer: str | None = None) -> Explanation:
    """Returns what `jaxfer explain` draws of the model.

    Args:
      layer: name of a layer, or None for the default.

    Raises:
      UserError: the model cannot be explained, or has no such layer.
    """
    raise NotImplementedError

  def eval_batch(self, arrays: Mapping[str, Any]) -> Batch:
    """Returns the batch that `explanation` reads, from arrays as for `probabilities`; landmarks may be left out."""
    raise NotImplementedError

  def prepared(self, images: np.ndarray, landmarks: Any = None, flow: Any = None) -> dict[str, np.ndarray]:
    """Checks the arguments of `predict_proba`, resizes the images, and returns the argument of `probabilities`."""
    spec = self.input_spec
    check_images(images, spec)
    size, height, width = spec.size, *images.shape[-3:-1]
    resized = resize(images, spec)
    if spec.kind == "sequence":
      if not spec.flow:
        return {"frames": resized}
      return {"frames": resized, "flow": _flow(resized) if flow is None else _checked_flow(flow, resized)}
    if not spec.landmarks and landmarks is None:
      return {"image": resized}
    return {
      "image": resized,
      "landmarks": self._landmarks(landmarks, len(images), size / np.array([width, height])),
    }

  def _landmarks(self, landmarks: Any, count: int, scale: np.ndarray) -> np.ndarray:
    wanted = self.input_spec.landmarks
    if landmarks is None:
      raise UserError(
        f"this model needs {wanted} landmarks of each face: give them as landmarks=[n, {wanted}, 2] in pixels of the "
        "images, or train with model.answer=rgb, which needs none"
      )
    landmarks = np.asarray(landmarks, np.float32)
    if landmarks.shape != (count, wanted or landmarks.shape[1], 2):
      raise UserError(
        f"landmarks has shape {list(landmarks.shape)}: give [{count}, {wanted}, 2], x and y in pixels of the images"
      )
    return landmarks * scale.astype(np.float32)

  def _of_array(self, images: np.ndarray, landmarks: Any, flow: Any) -> Iterator[np.ndarray]:
    check_images(images, self.input_spec, warn=True)
    if not len(images):  # Check the other arguments even without images.
      self.prepared(images, landmarks, flow)
    for start in range(0, len(images), self.batch):
      part = slice(start, start + self.batch)
      given = [None if array is None else array[part] for array in (landmarks, flow)]
      yield self._finite(self.prepared(images[part], *given))

  def _prepared(self, items: Sequence[Any]) -> dict[str, np.ndarray]:
    """Reads or checks one batch of paths or single arrays."""
    from jaxfer.inference import faces

    spec, read = self.input_spec, []
    if spec.landmarks:
      self._landmarks(None, 0, np.ones(2))
    for item in items:
      if isinstance(item, Path):
        read.append(faces.read(pathlib.Path(item), spec))
      elif isinstance(item, np.ndarray):
        check_images(item[None], spec, warn=True)
        read.append(resize(item[None], spec)[0])
      else:
        raise UserError(f"images holds a {type(item).__name__}: give paths or arrays, {_FIX[spec.kind][5:]}")
    return self.prepared(np.stack(read))

  def _finite(self, arrays: dict[str, np.ndarray]) -> np.ndarray:
    found = self.probabilities(arrays)
    if not np.isfinite(found).all():
      raise UserError("the model's outputs are not finite: its training failed, or its weights are damaged")
    return found

  def _classes(self, probabilities: np.ndarray) -> np.ndarray:
    chosen = probabilities.argmax(-1)
    return chosen if self.label_names is None else np.asarray(self.label_names)[chosen]


def batched(items: Iterable[Any], count: int) -> Iterator[list[Any]]:
  """Yields lists of `count` items; the last one may be shorter. (`itertools.batched` needs Python 3.12.)"""
  items = iter(items)
  while batch := list(itertools.islice(items, count)):
    yield batch


def check_images(images: Any, spec: InputSpec, *, warn: bool = False) -> None:
  """Checks that images are uint8 [n, height, width, 3], or clips uint8 [n, frames, height, width, 3].

  A model of grey images also accepts [n, height, width, 1].

  Args:
    images: argument of the user.
    spec: inputs of the model.
    warn: whether to warn about images that are not square.

  Raises:
    UserError: the images have another type, dtype or shape.
  """
  fix, dims = _FIX[spec.kind], len(spec.shape) + 1
  if not isinstance(images, np.ndarray):
    raise UserError(f"images is a {type(images).__name__}: {fix} in one numpy array")
  if images.dtype != np.uint8:
    raise UserError(f"images is an array of {images.dtype}: {fix}, 0 to 255")
  channels = images.shape[-1] if images.ndim == dims else 0
  if images.ndim == dims and images.shape[-3] == 3 != channels:
    raise UserError(f"images has shape {list(images.shape)}, channels first: {fix}")
  if channels not in (3, spec.shape[-1]) or 0 in images.shape[1:]:
    raise UserError(f"images has shape {list(images.shape)}: {fix}; repeat a grey channel three times")
  if spec.kind == "sequence" and images.shape[1] != spec.frames:
    raise UserError(f"clips have {images.shape[1]} frames: the model reads {spec.frames}; choose as many")
  height, width = images.shape[-3:-1]
  if warn and len(images) and height != width:
    warnings.warn(
      f"images are of {height} x {width} pixels: they are distorted to {spec.size} x {spec.size}; crop them to squares",
      stacklevel=5,
    )


def resize(images: np.ndarray, spec: InputSpec) -> np.ndarray:
  """Converts checked images [n, ..., height, width, channels] to the size and channels of the model with Pillow."""
  size, channels = spec.size, spec.shape[-1]
  if images.shape[-3:] == (size, size, channels):
    return images
  resample = Image.Resampling[spec.resample.upper()]
  flat = images.reshape(-1, *images.shape[-3:])
  result = np.empty((len(flat), size, size, channels), np.uint8)
  for row, image in enumerate(flat):
    picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    if channels == 1 and picture.mode != "L":
      picture = picture.convert("L")
    if picture.size != (size, size):
      picture = picture.resize((size, size), resample)
    result[row] = np.asarray(picture).reshape(size, size, channels)
  return result.reshape(*images.shape[:-3], size, size, channels)


def _flow(frames: np.ndarray) -> np.ndarray:
  empty = np.zeros((0, *frames.shape[1:-1], 2), np.int16)
  return np.concatenate(
    [empty, *(optical_flow.quantize(optical_flow.farneback(clip))[None] for clip in frames)]
  )


def _checked_flow(flow: Any, frames: np.ndarray) -> np.ndarray:
  flow, shape = np.asarray(flow), (*frames.shape[:-1], 2)
  if flow.dtype != np.int16 or flow.shape != shape:
    raise UserError(f"flow is {flow.dtype} {list(flow.shape)}: give int16 {list(shape)}, or leave it out")
  return flow
