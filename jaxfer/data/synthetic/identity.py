"""The identity of a face and the scene of its photograph: everything in a drawing that expressions do not change.

Lengths are in face units: the half-width of the head is about 1, x points right, y points down. The eyes are at y = 0,
the mouth near 0.83, the chin near 1.3. Colours are sRGB in [0, 1].
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxfer.data.synthetic import action_units
from jaxfer.data.synthetic.draws import Draws

_SKIN = (
  (0.95, 0.79, 0.69),
  (0.91, 0.71, 0.58),
  (0.83, 0.61, 0.46),
  (0.70, 0.49, 0.35),
  (0.52, 0.35, 0.25),
  (0.38, 0.25, 0.18),
)
_HAIR = (
  (0.07, 0.06, 0.06),
  (0.15, 0.10, 0.07),
  (0.30, 0.19, 0.11),
  (0.47, 0.30, 0.16),
  (0.72, 0.55, 0.33),
  (0.52, 0.24, 0.12),
)
_IRIS = (
  (0.20, 0.12, 0.07),
  (0.34, 0.21, 0.11),
  (0.42, 0.36, 0.18),
  (0.30, 0.42, 0.32),
  (0.35, 0.50, 0.63),
  (0.42, 0.46, 0.50),
)

# A resting face may show these units slightly, but not an open mouth, closed eyes or the rare units of Table 5.
_RESTING = np.isin(action_units.ORDER, (1, 2, 4, 6, 7, 12, 15, 17, 20, 23, 24)).astype(np.float32)


class Wear(NamedTuple):
  """Effects of age on a face (`ageing.aged`). Scalars unless a shape is given; 1 is typical at about 75 years."""

  lines: jax.Array  # depth of the wrinkles
  folds: jax.Array  # depth of the folds from nose to mouth and from mouth to jaw
  sag: jax.Array  # how far cheeks, pouches and jowls hang
  spots: jax.Array  # [6, 4] x, y, radius, darkness of spots in the skin
  phase: jax.Array  # [3] phases of the wrinkles' waves


class Identity(NamedTuple):
  """One person. Scalars unless a shape is given."""

  head_width: jax.Array  # half-width at the cheekbones
  head_top: jax.Array  # height of the skull above the eyes
  chin: jax.Array  # y of the chin
  jaw: jax.Array  # exponent of the lower outline: 1.9 pointed to 2.9 square
  eye_x: jax.Array  # half the distance between the eyes
  eye_width: jax.Array  # half-width of an eye
  eye_upper: jax.Array  # opening above the line through its corners
  eye_lower: jax.Array  # opening below that line
  eye_tilt: jax.Array  # how much higher the outer corner is
  lid_crease: jax.Array  # darkness of the fold above the eye
  lashes: jax.Array  # darkness and thickness of the lash line
  iris: jax.Array  # [3]
  brow_y: jax.Array
  brow_arch: jax.Array
  brow_slope: jax.Array
  brow_thickness: jax.Array
  nose_length: jax.Array  # y of the nose's base
  nose_width: jax.Array  # half-width across the wings
  nose_relief: jax.Array
  mouth_y: jax.Array
  mouth_width: jax.Array  # half-width
  lip_upper: jax.Array  # thickness
  lip_lower: jax.Array
  mouth_curve: jax.Array  # how much lower the corners are than the middle
  lip_color: jax.Array  # [3]
  skin: jax.Array  # [3]
  blush: jax.Array
  age: jax.Array  # 0 smooth to 1 lined
  beard: jax.Array  # 0 none, 0.3 shadow, 1 full
  texture: jax.Array  # [4] phases of the skin's and hair's patterns
  hair: jax.Array  # [3]
  hairline: jax.Array  # y of the hair's edge over the forehead, negative
  fringe: jax.Array  # how far strands fall below it
  parting: jax.Array  # x of the parting, in [-0.6, 0.6]
  hair_volume: jax.Array  # thickness around the skull
  hair_length: jax.Array  # y where the hair at the sides ends
  glasses: jax.Array  # 0 or 1
  glasses_shape: jax.Array  # exponent of the rim: 2 round to 5 square
  glasses_color: jax.Array  # [3]
  clothes: jax.Array  # [3]
  gain: jax.Array  # [33] how strongly this person shows each action unit
  rest: jax.Array  # [33] how much of it the resting face shows
  asymmetry: jax.Array  # [33] left minus right, as a share
  lag: jax.Array  # [33] when each unit begins, as a share of the course
  speed: jax.Array  # 1 is average
  wear: Wear | None = None  # effects of age; with None, they are neither drawn nor compiled


class Scene(NamedTuple):
  """What stays the same while one sequence is filmed."""

  light: jax.Array  # [3] unit vector towards the light: x right, y down, z towards the camera
  light_color: jax.Array  # [3]
  ambient: jax.Array  # share of light from all directions
  exposure: jax.Array
  background: jax.Array  # [2, 3] colours mixed over the picture
  background_direction: jax.Array  # [2]
  spots: jax.Array  # [3, 6] x, y, 1 / radius, r, g, b of soft shapes
  stripes: jax.Array  # [3] frequency, phase, strength
  gaze: jax.Array  # [2] shift of the irises, in face units
  blur: jax.Array  # standard deviation, as a share of the picture's edge
  noise: jax.Array  # standard deviation of the sensor's noise
  noise_key: jax.Array  # typed key


class Pose(NamedTuple):
  """Position of the head: angles in radians, x and y in half-sides of the picture, scale in half-sides per unit."""

  yaw: jax.Array
  pitch: jax.Array
  roll: jax.Array
  x: jax.Array
  y: jax.Array
  scale: jax.Array


def _palette(noise: jax.Array, colors: tuple[tuple[float, float, float], ...], at: jax.Array) -> jax.Array:
  """Interpolates a palette at `at` in [0, 1], and varies each channel by the given noise [3]."""
  table = jnp.array(colors)
  place = jnp.clip(at, 0.0, 0.999) * (len(colors) - 1)
  low = jnp.floor(place).astype(int)
  mixed = table[low] + (table[low + 1] - table[low]) * (place - low)
  return mixed * (1.0 + noise)


def sample_identity(key: jax.Array) -> Identity:
  """Draws a person from a typed key; a latent value (masculine to feminine) correlates traits for plausible faces."""
  draws = Draws(key, 320)
  u, n, chance = draws.uniform, draws.normal, draws.chance

  num_units = len(action_units.ORDER)
  fem = jax.nn.sigmoid(n(2.0))
  tone = u(0.0, 1.0)
  skin = _palette(n(0.015, 3), _SKIN, tone)
  # Dark skin usually goes with dark hair and eyes.
  hair_at = u(0.0, 1.0) * (1.0 - 0.75 * tone)
  iris_at = u(0.0, 1.0) * (1.0 - 0.7 * tone)
  age = u(0.0, 1.0) ** 1.5
  grey = jax.nn.sigmoid((age - 0.72) * 14.0) * u(0.3, 1.0)
  hair = _palette(n(0.04, 3), _HAIR, hair_at) * (1 - grey) + grey * u(0.45, 0.75)
  long = chance(0.08 + 0.72 * fem)
  bald = (1 - long) * chance(0.16 * (1 - fem) + 0.08)
  lip_tint = u(0.0, 0.5) + 0.35 * fem * chance(0.5)
  lip_red = jnp.array([0.72, 0.25, 0.27]) * (0.62 + 0.38 * skin[0] / 0.95)
  nose_length = 0.53 + n(0.028)
  mouth_y = nose_length + 0.285 + n(0.02)
  beard = (1 - fem) * chance(0.55 * (1 - fem)) * u(0.25, 1.0)
  return Identity(
    head_width=0.95 + n(0.035) - 0.02 * fem,
    head_top=1.32 + n(0.04),
    chin=mouth_y + 0.46 + n(0.03) - 0.03 * fem,
    jaw=2.45 + n(0.14) - 0.42 * fem,
    eye_x=0.392 + n(0.018),
    eye_width=0.205 + n(0.009) + 0.01 * fem,
    eye_upper=0.095 + n(0.009) + 0.012 * fem,
    eye_lower=0.046 + n(0.006),
    eye_tilt=0.012 + n(0.014),
    lid_crease=u(0.1, 0.8),
    lashes=u(0.25, 0.6) + 0.4 * fem,
    iris=_palette(n(0.04, 3), _IRIS, iris_at),
    brow_y=-0.30 + n(0.022) - 0.02 * fem,
    brow_arch=0.035 + n(0.012) + 0.02 * fem,
    brow_slope=0.0 + n(0.022),
    brow_thickness=0.046 + n(0.008) - 0.014 * fem,
    nose_length=nose_length,
    nose_width=0.185 + n(0.018) - 0.015 * fem + 0.03 * tone,
    nose_relief=1.0 + n(0.12) - 0.15 * tone,
    mouth_y=mouth_y,
    mouth_width=0.345 + n(0.022),
    lip_upper=0.070 + n(0.012) + 0.015 * fem + 0.025 * tone,
    lip_lower=0.098 + n(0.013) + 0.015 * fem + 0.02 * tone,
    mouth_curve=n(0.009) - 0.010,
    lip_color=skin * jnp.array([0.86, 0.66, 0.66]) * (1 - lip_tint) + lip_red * lip_tint,
    skin=skin,
    blush=u(0.1, 0.8),
    age=age,
    beard=beard,
    texture=u(0.0, 6.28, 4),
    hair=hair,
    hairline=-0.80 + n(0.05) - 1.2 * bald,
    fringe=u(0.0, 0.34) * chance(0.45) * (1 - bald),
    parting=u(-0.6, 0.6),
    hair_volume=(0.06 + 0.13 * u(0.0, 1.0) + 0.06 * long) * (1 - bald),
    hair_length=jnp.where(long > 0, u(0.7, 2.4), u(0.0, 0.32)) - 3.0 * bald,
    glasses=chance(0.2),
    glasses_shape=u(2.0, 4.5),
    glasses_color=u(0.02, 0.25, 3) + jnp.array([0.25, 0.12, 0.0]) * chance(0.3),
    clothes=u(0.08, 0.85, 3) * 0.7 + 0.3 * u(0.1, 0.8),
    gain=jnp.exp(n(0.12) + n(0.22, num_units)),
    rest=jnp.abs(n(0.05, num_units)) * chance(0.8) / action_units.GAINS * _RESTING,
    asymmetry=n(0.12, num_units),
    lag=u(0.0, 0.12, num_units),
    speed=jnp.exp(n(0.22)),
  )


def sample_scene(key: jax.Array) -> Scene:
  """Draws light, background, gaze, blur and noise from a typed key."""
  draws = Draws(key, 48)
  u, n = draws.uniform, draws.normal
  light = jnp.stack([u(-0.75, 0.75), u(-0.85, 0.15), jnp.array(0.9)])
  grey, tint = u(0.05, 0.9, 2, 1), u(-1.0, 1.0, 2, 3) * u(0.0, 0.35)
  angle = u(0.0, 6.28)
  spot_color = u(0.1, 0.9, 3, 1) + 0.15 * u(-1.0, 1.0, 3, 3)
  return Scene(
    light=light / jnp.linalg.norm(light),
    light_color=1.0 + jnp.array([0.06, 0.0, -0.08]) * u(-0.9, 1.1),
    ambient=u(0.30, 0.62),
    exposure=u(0.82, 1.12),
    background=jnp.clip(grey + tint, 0.02, 0.98),
    background_direction=jnp.stack([jnp.cos(angle), jnp.sin(angle)]),
    spots=jnp.concatenate([u(-1.1, 1.1, 3, 2), u(0.8, 3.0, 3, 1), jnp.clip(spot_color, 0.0, 1.0)], -1),
    stripes=jnp.stack([u(4.0, 14.0), angle, jnp.maximum(u(-0.12, 0.1), 0.0)]),
    gaze=n(1.0, 2) * jnp.array([0.016, 0.008]),
    blur=0.009 * u(0.0, 1.0) ** 2,
    noise=0.004 + 0.022 * u(0.0, 1.0) ** 2,
    noise_key=jax.random.fold_in(key, 2),
  )


def sample_pose(key: jax.Array, extent: float = 1.0) -> Pose:
  """Draws a head pose; `extent` scales its deviation from frontal and centred (with 1, up to 16, 11 and 9 degrees)."""
  n = extent * 0.5 * Draws(key, 6).normal(1.0, 6)
  return Pose(
    0.26 * n[0], 0.18 * n[1], 0.14 * n[2], 0.08 * n[3], 0.08 * n[4] - 0.11, 0.60 * (1.0 + 0.10 * n[5])
  )
