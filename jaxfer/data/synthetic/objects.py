"""Drawn objects in place of ImageNet: a textured shape in front of a background, partly hidden.

A class is a pair of shape and texture. Colours, size, place, rotation, proportions, light, background and occlusion do
not depend on the class. Class k has shape k mod 10 and texture (k + k // 10) mod 10, so the first ten classes differ in
both, and all hundred pairs occur once. Everything is our choice.

The code is plain NumPy and draws many pictures at once: 10,000 of 48 x 48 pixels take less than 20 seconds on one core.
Random numbers are exact, everything is computed in float64, and the pictures are rounded once, to 8 bits, so they are
equal on every machine.
"""

from collections.abc import Callable

import numpy as np

_Planes = np.ndarray  # [n, S, S] or anything that broadcasts with it
_NUM_DRAWS = 80  # Random numbers drawn per picture.
_TABLE = np.random.default_rng(0).random(1024, np.float32)  # Values of the grain, looked up by cell.


def _polygon(x: _Planes, y: _Planes, corners: int) -> _Planes:
  half = np.pi / corners
  return np.cos(half) - np.hypot(x, y) * np.cos(np.arctan2(y, x) % (2 * half) - half)


def _star(x: _Planes, y: _Planes) -> _Planes:
  radius, angle = np.hypot(x, y), np.abs(np.arctan2(y, x) % (0.4 * np.pi) - 0.2 * np.pi)
  angle = 0.2 * np.pi - angle  # 0 at a tip, 36 degrees between two.
  inner_x, inner_y = 0.42 * np.cos(0.2 * np.pi), 0.42 * np.sin(0.2 * np.pi)
  px, py = radius * np.cos(angle) - 1.0, radius * np.sin(angle)
  return -(inner_y * px + (1.0 - inner_x) * py) / np.hypot(inner_y, 1.0 - inner_x)


def _cross(x: _Planes, y: _Planes) -> _Planes:
  x, y = np.abs(x), np.abs(y)
  return np.minimum(1.0 - np.maximum(x, y), 0.32 - np.minimum(x, y))


def _heart(x: _Planes, y: _Planes) -> _Planes:
  return 0.90 - np.hypot(x, -1.1 * y + 0.22 - 0.75 * np.sqrt(np.abs(x)))


def _arrow(x: _Planes, y: _Planes) -> _Planes:
  y = np.abs(y)
  head = np.minimum(x - 0.05, (0.85 * (1.0 - x) - 0.95 * y) / np.hypot(0.85, 0.95))
  return np.maximum(head, np.minimum(0.27 - y, np.minimum(x + 1.0, 0.2 - x)))


# Signed distance of a point into the shape, which has a radius of about 1; negative outside.
SHAPES: dict[str, Callable[[_Planes, _Planes], _Planes]] = {
  "disc": lambda x, y: 0.95 - np.hypot(x, y),
  "ring": lambda x, y: 0.24 - np.abs(np.hypot(x, y) - 0.74),
  "triangle": lambda x, y: _polygon(x, y, 3),
  "square": lambda x, y: _polygon(x, y, 4),
  "star": _star,
  "cross": _cross,
  "crescent": lambda x, y: np.minimum(1.0 - np.hypot(x, y), np.hypot(x - 0.5, y) - 0.72),
  "heart": _heart,
  "arrow": _arrow,
  "flower": lambda x, y: 0.70 + 0.30 * np.cos(5.0 * np.arctan2(y, x)) - np.hypot(x, y),
}


def _wave(at: _Planes, sharpness: float = 3.0) -> _Planes:
  """A sine between 0 and 1 with steep flanks."""
  return np.clip(0.5 + sharpness * np.sin(at), 0.0, 1.0)


def _clouds(x: _Planes, y: _Planes) -> _Planes:
  waves = np.sin(0.40 * x + 1.7 * np.sin(0.31 * y)) + np.sin(0.47 * y + 1.9 * np.sin(0.26 * x))
  return np.clip(0.5 + 0.36 * waves, 0.0, 1.0)


def _grain(x: _Planes, y: _Planes) -> _Planes:
  column, row = (np.floor(0.65 * p).astype(np.int64) for p in (x, y))
  return _TABLE[(column * 7919 + row * 104729) & 1023]


# Share of the second colour, from 0 to 1, at coordinates in which a stripe and its gap are 2 pi wide. `radius` is the
# distance from the centre of the object, 1 at its edge.
TEXTURES: dict[str, Callable[[_Planes, _Planes, _Planes, _Planes], _Planes]] = {
  "plain": lambda x, y, radius, along: np.zeros_like(x),
  "striped": lambda x, y, radius, along: _wave(x),
  "checked": lambda x, y, radius, along: np.clip(0.5 + 4.0 * np.sin(0.8 * x) * np.sin(0.8 * y), 0.0, 1.0),
  "dotted": lambda x, y, radius, along: np.clip(3.0 * (np.cos(x) + np.cos(y)) - 1.5, 0.0, 1.0),
  "shaded": lambda x, y, radius, along: np.clip(0.5 + 0.62 * along, 0.0, 1.0),
  "ringed": lambda x, y, radius, along: _wave(13.0 * radius),
  "grainy": lambda x, y, radius, along: _grain(x, y),
  "cloudy": lambda x, y, radius, along: _clouds(x, y),
  "wavy": lambda x, y, radius, along: _wave(x + 1.7 * np.sin(0.8 * y)),
  "netted": lambda x, y, radius, along: np.clip(3.0 * np.maximum(np.cos(x), np.cos(y)) - 2.0, 0.0, 1.0),
}

MAX_CLASSES = len(SHAPES) * len(TEXTURES)


def parts(label: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Returns the indices of the shape and of the texture of each class."""
  return label % len(SHAPES), (label + label // len(SHAPES)) % len(TEXTURES)


def class_names(num_classes: int) -> tuple[str, ...]:
  """Returns the names of the first classes, such as "striped disc"."""
  shapes, textures = list(SHAPES), list(TEXTURES)
  return tuple(f"{textures[t]} {shapes[s]}" for s, t in zip(*parts(np.arange(num_classes)), strict=True))


class _Draws:
  """Numbers in [0, 1), one row per picture, returned column by column as [n, 1, 1] or [n, 1, 1, k]."""

  def __init__(self, rows: np.ndarray):
    self._rows, self._at = rows, 0

  def __call__(self, low: float, high: float, *shape: int) -> np.ndarray:
    count = int(np.prod(shape))
    taken = self._rows[:, self._at : self._at + count]
    self._at += count
    return low + (high - low) * taken.reshape(-1, 1, 1, *shape)


def _normal(uniform: np.ndarray) -> np.ndarray:
  """Computes standard normal numbers [...] from uniform ones in [0, 1), [2, ...], by the Box-Muller transform.

  NumPy's generator rejects candidates by comparing rounded numbers, so a rounding difference would change all later
  numbers.
  """
  return np.sqrt(-2.0 * np.log1p(-uniform[0])) * np.cos(2.0 * np.pi * uniform[1])


def _colours(u: _Draws) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Returns colours [n, 1, 1, 3]: light and dark ones of the object, and for the background one unlike their mean."""
  first = u(0.05, 0.95, 3)
  step = u(0.40, 0.60) * np.where(first.mean(-1) > 0.5, -1.0, 1.0)
  second = np.clip(first + step[..., None] + u(-0.22, 0.22, 3), 0.02, 0.98)
  behind = u(0.05, 0.95, 3)
  near = np.abs(behind - 0.5 * (first + second)).mean(-1, keepdims=True) < 0.20
  return first, second, np.where(near, (behind + 0.5) % 1.0, behind)


def _background(u: _Draws, x: _Planes, y: _Planes, colour: np.ndarray) -> np.ndarray:
  """Draws backgrounds [n, S, S, 3]: a gradient with soft spots, clouds or bands of any strength."""
  angle, drift = u(0.0, 2 * np.pi), u(-0.3, 0.3, 3)
  along = x * np.cos(angle) + y * np.sin(angle)
  picture = colour + drift * along[..., None]
  pace, phase = u(4.0, 22.0), u(0.0, 6.28)
  clouds = _clouds(pace * x + phase, pace * y - phase) - 0.5
  bands = _wave(pace * (along + 0.15 * np.sin(3.0 * y)), 1.0) - 0.5
  kind = u(0.0, 1.0)
  pattern = np.where(kind < 0.45, clouds, np.where(kind < 0.75, bands, 0.0))
  picture = picture + (pattern * u(0.1, 0.5))[..., None] * (0.6 + u(-0.4, 0.4, 3))
  for _ in range(2):
    away = np.hypot(x - u(-1.0, 1.0), y - u(-1.0, 1.0)) / u(0.15, 0.6)
    spot = np.clip(4.0 * (1.0 - away), 0.0, 1.0) * u(0.0, 0.9)
    picture = picture + spot[..., None] * (u(0.0, 1.0, 3) - picture)
  return picture


def draw(label: np.ndarray, number: np.ndarray, image_size: int, channels: int, seed: int) -> np.ndarray:
  """Draws pictures.

  Args:
    label: [n], classes 0 to 99.
    number: [n], number of the picture in its class; the other pictures drawn do not change it.
    image_size: S, edge in pixels.
    channels: 1 (grey, the mean of the three) or 3 (RGB).
    seed: Seed of everything except the class.

  Returns:
    uint8 [n, S, S, channels].
  """
  rngs = [np.random.default_rng((seed, int(k), int(i))) for k, i in zip(label, number, strict=True)]
  u = _Draws(np.stack([rng.random(_NUM_DRAWS, np.float32) for rng in rngs]).astype(np.float64))
  line = (np.arange(image_size) + 0.5) * (2.0 / image_size) - 1.0
  x, y = line[None, None, :], line[None, :, None]
  first, second, behind = _colours(u)
  picture = _background(u, x + 0 * y, y + 0 * x, behind)

  # Coordinates of the object: moved, rotated, stretched.
  scale, stretch, angle = u(0.34, 0.80), u(-0.2, 0.2), u(0.0, 2 * np.pi)
  dx, dy = x - u(-0.35, 0.35), y - u(-0.35, 0.35)
  along, across = dx * np.cos(angle) + dy * np.sin(angle), dy * np.cos(angle) - dx * np.sin(angle)
  px, py = along / (scale * np.exp(stretch)), across / (scale * np.exp(-stretch))
  turn, pace = u(0.0, 2 * np.pi), u(9.0, 14.0)
  tx, ty = px * np.cos(turn) + py * np.sin(turn), py * np.cos(turn) - px * np.sin(turn)
  shift_x, shift_y, flip = u(0.0, 6.28), u(0.0, 6.28), u(0.0, 1.0)
  shape, texture = parts(label)
  inside, share = np.zeros_like(px), np.zeros_like(px)
  for k, form in enumerate(SHAPES.values()):
    if len(rows := np.flatnonzero(shape == k)):
      inside[rows] = form(px[rows], py[rows])
  for k, pattern in enumerate(TEXTURES.values()):
    if len(rows := np.flatnonzero(texture == k)):
      at = pace[rows] * tx[rows] + shift_x[rows], pace[rows] * ty[rows] + shift_y[rows]
      share[rows] = pattern(*at, np.hypot(px[rows], py[rows]), tx[rows])
  share = np.where(flip < 0.5, share, 1.0 - share)
  colour = first + share[..., None] * (second - first)
  lit = 1.0 + u(0.0, 0.22) * (x * np.cos(turn) + y * np.sin(turn))
  sharp = 0.5 * image_size * scale
  # A soft shadow beside the object, then the object, then an occluder.
  picture = picture * (1.0 - u(0.0, 0.5) * np.clip(0.5 + 3.0 * inside, 0.0, 1.0))[..., None]
  picture = picture + np.clip(0.5 + sharp * inside, 0.0, 1.0)[..., None] * (colour * lit[..., None] - picture)
  place, tilt = u(0.35, 0.75) * np.where(u(0.0, 1.0) < 0.5, -1.0, 1.0), u(0.0, 2 * np.pi)
  bar = u(0.06, 0.16) - np.abs(dx * np.cos(tilt) + dy * np.sin(tilt) - place * scale)
  bar = np.where(u(0.0, 1.0) < 0.4, np.clip(0.5 + 0.5 * image_size * bar, 0.0, 1.0), 0.0)
  picture = picture + bar[..., None] * (u(0.0, 1.0, 3) - picture)

  strength = 0.03 * u(0.0, 1.0, 1) ** 2
  noise = _normal(np.stack([rng.random((2, image_size, image_size, 3)) for rng in rngs], 1))
  picture = np.clip(picture * u(0.8, 1.1, 1) + strength * noise, 0.0, 1.0)
  if channels == 1:
    picture = picture.mean(-1, keepdims=True)
  return np.rint(255.0 * picture).astype(np.uint8)
