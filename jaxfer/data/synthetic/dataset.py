"""Draws labelled sets of stills and sequences; people, expressions, timing and scenes all follow from one seed.

Subject s of seed k is the same person for any number of subjects and for every kind of set. Pose, light,
background, blur, noise, blinks and the order of classes within a subject do not depend on the label.

The arrays are equal on every machine. Processors and compilers round differently, so everything is computed in float64
on the host's processor and rounded once, at the end: pictures to 8 bits, flow to 16, landmarks to 1/1024 pixel, action
units to 2**-20. Before that, two machines differ in the last digits of float64, which is far less than one step.

The difficulty was measured on unseen people, with grey stills of 64 x 64 pixels of 100 people, 28 each: 65 people for
training, 10 for validation, 25 for testing; three sets (seeds 0, 1, 2). Logistic regression on standardised pixels,
with C chosen from 1e-3 to 1, reaches 51.3, 46.7 and 49.4 % on seven classes. A network of two 3 x 3 convolutions (32,
64), each with 2 x 2 pooling, dropout 0.5 and a dense layer of 128 reaches 80.7, 79.4 and 76.4 % (Adam 1e-3, 20 epochs,
best epoch by validation).
"""

import contextlib
import functools
import zlib
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxfer.data import heatmap
from jaxfer.data.synthetic import action_units, ageing, aligned_frame, render, timecourse
from jaxfer.data.synthetic.draws import Draws, normal
from jaxfer.data.synthetic.geometry import Face
from jaxfer.data.synthetic.identity import Identity, Pose, Scene, sample_identity, sample_pose, sample_scene
from jaxfer.data.synthetic.landmarks import landmarks
from jaxfer.errors import UserError

_SEQUENCES = 1 << 20  # Added to a take's number, so that sequences share no key with stills.
_STUDIO = _SEQUENCES - 1  # Key of the place where all stills of a person are taken.
_STUDIO_POSE = 0.25  # Range of head turns in the studio, as a share of the usual range.
_CHUNK = 32  # Pictures drawn at once, so that one compiled program draws sets of any size.
# Units that may move regardless of the label.
_STRAY = (1, 2, 4, 5, 6, 7, 9, 10, 12, 14, 15, 16, 17, 20, 23, 26)
_STRAYING = np.isin(action_units.ORDER, _STRAY).astype(np.float32)
_BLINK = action_units.ORDER.index(45)
_STEPS = {"landmarks": 2.0**10, "action_units": 2.0**20}  # Rounding of floats, in steps per unit.


@contextlib.contextmanager
def _precise() -> Iterator[None]:
  """Computes in float64 on the host's processor, regardless of the default type and device."""
  try:
    processor = jax.local_devices(backend="cpu")[0]
  except RuntimeError as error:
    raise UserError(
      f"embedded data are drawn on the CPU, which JAX may not use here ({error}): add it to JAX_PLATFORMS, such as "
      "JAX_PLATFORMS=cuda,cpu"
    ) from error
  with jax.enable_x64(True), jax.default_device(processor):
    yield


def _stored(name: str, array: np.ndarray) -> np.ndarray:
  """Returns an array as it is stored: floats are rounded to float32 multiples of a step far above rounding errors."""
  if name not in _STEPS:
    return array
  return (np.rint(array * _STEPS[name]) / _STEPS[name]).astype(np.float32)


def _two_sided(who: Identity, values: jax.Array) -> jax.Array:
  """Applies this person's gain and asymmetry to action units [..., 33]: [..., 2, 33], left and right of the picture."""
  tilt = 0.5 * who.asymmetry
  return jnp.stack([values * (1.0 + tilt), values * (1.0 - tilt)], -2)


def _expression(
  key: jax.Array, who: Identity, label: jax.Array, intensity: jax.Array, classes: str = "seven"
) -> jax.Array:
  """Returns the label's action units [33] at an intensity, scaled for this person and varied for this take."""
  table = jnp.asarray(action_units.emotion_table(classes))[label]
  draws = Draws(key, 3 * len(table))
  varied = jnp.exp(draws.normal(0.16, len(table)))
  stray = jnp.abs(draws.normal(1.0, len(table))) * (draws.uniform(0.0, 1.0, len(table)) < 0.4)
  stray = 0.09 * stray / action_units.GAINS * _STRAYING
  return jnp.clip(table * intensity * who.gain * varied + stray, 0.0, 1.0)


def _subject_key(seed: jax.Array, subject: jax.Array) -> jax.Array:
  return jax.random.fold_in(jax.random.key(seed), subject)


def _close_up(pose: Pose) -> Pose:
  """Frames a pose as the importers crop real sequences: the box from brows to chin, enlarged by a fifth."""
  return pose._replace(x=0.5 * pose.x, y=0.5 * (pose.y + 0.11) - 0.40, scale=0.88 / 0.60 * pose.scale)


def _labels(num_subjects: int, per_subject: int, seed: int, classes: str = "seven") -> np.ndarray:
  """Returns labels [subjects, per_subject]: all classes equally often, in a random order for each subject."""
  num = len(action_units.CLASSES[classes])
  return np.stack(
    [np.random.default_rng((seed, s)).permutation(np.arange(per_subject) % num) for s in range(num_subjects)]
  ).astype(np.int32)


def _bytes(picture: jax.Array, channels: int) -> jax.Array:
  if channels == 1:
    picture = (picture @ jnp.array(render.LUMA))[..., None]
  return jnp.round(picture * 255.0).astype(jnp.uint8)


@functools.partial(jax.jit, static_argnames=("studio", "classes"))
def _cast_stills(
  seed: jax.Array,
  subject: jax.Array,
  take: jax.Array,
  label: jax.Array,
  studio: bool = False,
  classes: str = "seven",
  age: jax.Array | None = None,
) -> tuple[Any, ...]:
  """Draws people, poses, scenes and expressions: (Face, Scene, action units), each batched."""

  def one(subject: jax.Array, take: jax.Array, label: jax.Array) -> tuple[Any, ...]:
    key = _subject_key(seed, subject)
    who = sample_identity(jax.random.fold_in(key, 0))
    if age is not None:
      who = ageing.aged(jax.random.fold_in(jax.random.fold_in(key, 0), 1), who, age)
    keys = jax.random.split(jax.random.fold_in(key, 1 + take), 4)
    intensity = Draws(keys[0], 1).uniform(0.5, 1.0)
    expression = _expression(keys[1], who, label, intensity, classes)
    shown = jnp.clip(_two_sided(who, expression + who.rest), 0.0, 1.0)
    pose, scene = sample_pose(keys[2], _STUDIO_POSE if studio else 1.0), sample_scene(keys[3])
    if studio:
      place = sample_scene(jax.random.fold_in(key, _STUDIO))
      scene = place._replace(gaze=scene.gaze, noise_key=scene.noise_key)
    return Face(who, action_units.controls(shown), pose), scene, shown.mean(0)

  return jax.vmap(one)(subject, take, label)


@functools.partial(jax.jit, static_argnames=("time_course", "num_frames"))
def _cast_sequences(
  seed: jax.Array, subject: jax.Array, take: jax.Array, label: jax.Array, time_course: str, num_frames: int
) -> tuple[Any, ...]:
  """Like `_cast_stills`, but pose, controls and action units have a time axis [T] after the batch axis."""

  def one(subject: jax.Array, take: jax.Array, label: jax.Array) -> tuple[Any, ...]:
    key = _subject_key(seed, subject)
    who = sample_identity(jax.random.fold_in(key, 0))
    keys = jax.random.split(jax.random.fold_in(key, _SEQUENCES + take), 5)
    draws = Draws(keys[0], 12)
    u = draws.uniform
    apex = _expression(keys[1], who, label, u(0.6, 1.0))
    time = jnp.linspace(0.0, 1.0, num_frames)
    duration = jnp.clip(0.55 / who.speed * u(0.85, 1.15), 0.3, 0.8)
    delay = u(0.0, 0.08) + who.lag
    active = timecourse.course(time[:, None], delay, jnp.minimum(duration, 1.0 - delay), time_course)
    activity = active * apex
    if time_course == "fleeting":
      # Subtle, and over before other movements of the face: part of an expression that does not depend on the label.
      draw = Draws(jax.random.fold_in(keys[0], 1), 2)
      another = jnp.minimum(draw.uniform(0.0, 7.0).astype(int), 6)
      motion = _expression(jax.random.fold_in(keys[1], 1), who, another, draw.uniform(0.25, 0.5))
      activity = 0.7 * activity + timecourse.distraction(time[:, None]) * motion
    # An occasional blink, which takes about a fifth of the course and ends before it.
    blink = jnp.maximum(1.0 - jnp.abs(time - u(0.15, 0.7)) / 0.10, 0.0) * draws.chance(0.25)
    values = (activity + who.rest).at[:, _BLINK].add(blink)
    shown = jnp.clip(_two_sided(who, values), 0.0, 1.0)
    # The head sways from its first pose towards another.
    start, other, centre = sample_pose(keys[2]), sample_pose(keys[3], 0.3), sample_pose(keys[3], 0.0)
    sway = jnp.sin(time * u(0.5, 2.5))
    pose = Pose(*(a + sway * (b - c) for a, b, c in zip(start, other, centre, strict=True)))
    face = Face(who, jax.vmap(action_units.controls)(shown), _close_up(pose))
    return face, sample_scene(keys[4]), shown.mean(1)

  return jax.vmap(one)(subject, take, label)


# Casting and drawing are compiled separately; otherwise the compiler recomputes people and light for every pixel.
@functools.partial(jax.jit, static_argnames=("size", "channels"))
def _draw_stills(faces: Face, scenes: Scene, size: int, channels: int) -> dict[str, jax.Array]:
  def one(face: Face, scene: Scene) -> dict[str, jax.Array]:
    picture, _ = render.render(face, scene, size)
    image = _bytes(render.sensor(picture, scene), channels)
    return {"image": image, "landmarks": landmarks(face, size)}

  return jax.vmap(one)(faces, scenes)


@functools.partial(jax.jit, static_argnames=("size", "channels"))
def _draw_framed(faces: Face, scenes: Scene, size: int, channels: int) -> dict[str, jax.Array]:
  larger = 3 * size // 2  # A frontal face is shrunk by a tenth in x and a third in y.

  def one(face: Face, scene: Scene) -> dict[str, jax.Array]:
    picture, _ = render.render(face, scene, larger)
    picture, points = aligned_frame.align(picture, landmarks(face, larger), size)
    return {"image": _bytes(render.sensor(picture, scene), channels), "landmarks": points}

  return jax.vmap(one)(faces, scenes)


def _draw_aligned(faces: Face, scenes: Scene, size: int, channels: int) -> dict[str, jax.Array]:
  return _draw_framed(aligned_frame.framed(faces), scenes, size, channels)


@jax.jit
def _misplaced(seed: jax.Array, subject: jax.Array, take: jax.Array, deviation: jax.Array) -> jax.Array:
  """Returns simulated errors of a landmark detector for pictures [n]: Gaussian, [n, 37, 2]."""

  def one(subject: jax.Array, take: jax.Array) -> jax.Array:
    key = jax.random.fold_in(_subject_key(seed, subject), 1 + take)
    return normal(jax.random.fold_in(key, zlib.crc32(b"landmarks")), (37, 2))

  return deviation * jax.vmap(one)(subject, take)


@functools.partial(jax.jit, static_argnames=("size",))
def _draw_sequences(faces: Face, scenes: Scene, size: int) -> dict[str, jax.Array]:
  def frame(face: Face, previous: Face, scene: Scene, number: jax.Array) -> dict[str, jax.Array]:
    picture, flow = render.render(face, scene, size, previous)
    return {
      "frames": _bytes(render.sensor(picture, scene, number), 3),
      "flow": quantize_flow(flow),
      "landmarks": landmarks(face, size),
    }

  def one(face: Face, scene: Scene) -> dict[str, jax.Array]:
    count = len(face.pose.x)
    earlier = jnp.maximum(jnp.arange(count) - 1, 0)
    moving = (face.controls, face.pose)
    before = jax.tree.map(lambda leaf: leaf[earlier], moving)
    return jax.vmap(
      lambda now, then, i: frame(Face(face.identity, *now), Face(face.identity, *then), scene, i)
    )(moving, before, jnp.arange(count))

  return jax.vmap(one)(faces, scenes)


def quantize_flow(flow: jax.Array) -> jax.Array:
  """Converts flow in pixels to the stored form: clipped to +-20 pixels, int16 = round(flow * 32767 / 20)."""
  return jnp.round(jnp.clip(flow, -20.0, 20.0) * (32767 / 20)).astype(jnp.int16)


def _chunks(cast: Any, draw: Any, labels: np.ndarray, chunk: int) -> dict[str, np.ndarray]:
  """Casts and draws all takes in chunks of one size, and concatenates the arrays."""
  num_subjects, takes = labels.shape
  subject, take = (grid.reshape(-1) for grid in np.indices((num_subjects, takes), np.int32))
  total = len(subject)
  parts = []
  for start in range(0, total, chunk):
    rows = np.arange(start, start + chunk) % total  # The last chunk is filled up, then cut off.
    faces, scenes, shown = cast(subject[rows], take[rows], labels.reshape(-1)[rows])
    parts.append(jax.device_get(draw(faces, scenes) | {"action_units": shown}))
  arrays = {name: _stored(name, np.concatenate([p[name] for p in parts])[:total]) for name in parts[0]}
  return arrays | {"subject": subject, "take": take, "label": labels.reshape(-1)}


def generate_stills(
  num_subjects: int = 60,
  images_per_subject: int = 21,
  image_size: int = 64,
  channels: int = 3,
  seed: int = 0,
  *,
  aligned: bool = False,
  landmark_noise: float = 0.0,
  studio: bool = False,
  age: float = 0.0,
  classes: str = "seven",
) -> dict[str, np.ndarray]:
  """Draws stills near the apex (intensity 0.5 to 1 of Table 4), with all classes equally often per subject.

  Args:
    num_subjects: Number of people.
    images_per_subject: Pictures per person; a multiple of the number of classes gives every class equally often.
    image_size: Edge in pixels.
    channels: 1 (grey, BT.601 luma) or 3 (RGB).
    seed: Seed of all random numbers.
    aligned: Whether the eyes and the middle of the mouth are placed as in RAF-DB's aligned pictures. The faces are the
      same otherwise, in front of another part of their background.
    landmark_noise: Standard deviation of Gaussian errors of the landmarks, which simulate a detector (our choice), in
      hundredths of the picture's edge, which are pixels of RAF-DB's aligned frame.
    studio: Whether all pictures of a person are taken in one place, under one light and with little head movement, as
      in data sets recorded in a laboratory.
    age: Mean age of the people, 0 (unchanged) to 1 (elderly); see `ageing`. People, places and takes of a seed are the
      same at every age.
    classes: A set of `action_units.CLASSES`: "seven" of paper 000, or "nine" of paper 004. We chose its excitement to
      be joy with high arousal (an open mouth, raised brows, wide eyes), and its relaxed to be a slight smile with eyes
      that close.

  Returns:
    A dict of arrays over n = num_subjects * images_per_subject pictures, ordered by subject: `image` [n, S, S,
    channels] uint8, `label` [n] int32 (index into the names of `classes`), `subject` and `take` [n] int32,
    `action_units` [n, 33] float32 in [0, 1] (the mean of both sides, including the resting face), `landmarks` [n, 37,
    2] float32 pixels.

  Raises:
    UserError: JAX may not use the CPU in this process.
  """
  old = {"age": np.float64(age)} if age else {}
  cast = functools.partial(_cast_stills, np.uint32(seed), studio=studio, classes=classes, **old)
  draw = functools.partial(_draw_aligned if aligned else _draw_stills, size=image_size, channels=channels)
  with _precise():
    arrays = _chunks(cast, draw, _labels(num_subjects, images_per_subject, seed, classes), _CHUNK)
    if landmark_noise:
      deviation = np.float64(landmark_noise * image_size / heatmap.FRAME)
      off = _misplaced(np.uint32(seed), arrays["subject"], arrays["take"], deviation)
      arrays["landmarks"] += _stored("landmarks", np.asarray(off))
  return arrays


def generate_sequences(
  num_subjects: int = 40,
  sequences_per_subject: int = 7,
  num_frames: int = 8,
  image_size: int = 64,
  time_course: str = "onset_apex",
  seed: int = 0,
) -> dict[str, np.ndarray]:
  """Draws RGB close-up sequences that start at the person's resting face, with exact optical flow.

  Args:
    num_subjects: Number of people.
    sequences_per_subject: Sequences per person; seven show every class once.
    num_frames: Number of frames T, equally spaced over the course.
    image_size: Edge in pixels.
    time_course: "onset_apex", "onset_apex_offset", or "fleeting": a subtle expression ends by the middle, and motion
      unrelated to the label follows.
    seed: Seed of all random numbers.

  Returns:
    A dict of arrays over n sequences, ordered by subject: `frames` [n, T, S, S, 3] uint8, `flow` [n, T, S, S, 2] int16
    from frame t - 1 to t at frame t's pixels (see `render.render`; the stored value 32767 means 20 pixels, and flow[:,
    0] is 0), `label`, `subject`, `take` [n] int32, `action_units` [n, T, 33] float32, `landmarks` [n, T, 37, 2] float32
    pixels.

  Raises:
    UserError: JAX may not use the CPU in this process.
  """
  cast = functools.partial(_cast_sequences, np.uint32(seed), time_course=time_course, num_frames=num_frames)
  draw = functools.partial(_draw_sequences, size=image_size)
  with _precise():
    return _chunks(
      cast, draw, _labels(num_subjects, sequences_per_subject, seed), max(1, _CHUNK // num_frames)
    )
