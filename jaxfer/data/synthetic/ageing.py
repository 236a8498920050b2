"""Makes a drawn person decades older in traits, wrinkles and expressiveness (everything here is our choice).

The following is added or changed: lines of forehead, glabella, eyes, lips, cheeks and neck; deep folds from nose to
mouth and from mouth to jaw; brows, lids, corners of the mouth, cheeks and jowls that hang; thinner lips, lashes and
hair, a higher hairline, greyer hair and brows, paler and spotted skin. Expressions are weaker (times 0.6 at age 1) and
differ more between people: how strongly a unit moves, how unequal its sides are, and how much of it the resting face
shows.
"""

import jax
import jax.numpy as jnp
import numpy as np

from jaxfer.data.synthetic import action_units
from jaxfer.data.synthetic.draws import Draws
from jaxfer.data.synthetic.geometry import Face, bump, hill, side
from jaxfer.data.synthetic.identity import Identity, Wear
from jaxfer.data.synthetic.shapes import stroke

# Units that resting faces show with age: lowered brows, tight lids, low corners, a raised chin, pressed lips.
_SETTLING = np.isin(action_units.ORDER, (4, 7, 15, 17, 24)).astype(np.float32)


def aged(key: jax.Array, who: Identity, age: jax.Array) -> Identity:
  """Returns the same person at a given age.

  Args:
    key: A typed key that determines how this person ages.
    who: A person from `identity.sample_identity`, whose age hardly shows.
    age: Mean age of the people, 0 (as `who`) to 1 (elderly); a person's age is 0.75 to 1.25 times this value.
  """
  draws = Draws(key, 160)
  u, n, chance = draws.uniform, draws.normal, draws.chance
  num_units = len(action_units.ORDER)
  w = age * u(0.75, 1.25)
  own = age * n(0.25, num_units) + age * n(0.15)
  white = jnp.array([0.80, 0.79, 0.77]) * u(0.75, 1.05)
  grey = jnp.clip(w * u(0.55, 1.15), 0.0, 0.95)
  pale = jnp.array([0.70, 0.50, 0.46]) * (0.4 + 0.6 * who.skin[0] / 0.95)
  return who._replace(
    jaw=who.jaw + 0.30 * w,
    eye_upper=who.eye_upper * (1.0 - w * u(0.12, 0.38)),
    eye_tilt=who.eye_tilt - 0.024 * w,
    lid_crease=who.lid_crease + 0.4 * w * (1.0 - who.lid_crease),
    lashes=who.lashes * (1.0 - 0.45 * w),
    brow_y=who.brow_y + 0.045 * w,
    brow_slope=who.brow_slope + w * u(0.0, 0.05),
    brow_arch=who.brow_arch * (1.0 - 0.4 * w),
    brow_thickness=who.brow_thickness * (1.0 - w * u(0.0, 0.3)),
    nose_length=who.nose_length + 0.020 * w,
    nose_width=who.nose_width + 0.014 * w,
    mouth_curve=who.mouth_curve + w * u(0.008, 0.034),
    lip_upper=who.lip_upper * (1.0 - 0.40 * w),
    lip_lower=who.lip_lower * (1.0 - 0.30 * w),
    lip_color=who.lip_color + (pale - who.lip_color) * 0.6 * jnp.minimum(w, 1.0),
    skin=who.skin * (1.0 + w * jnp.array([-0.05, -0.06, -0.09])),
    blush=who.blush * (1.0 - 0.6 * w),
    age=jnp.maximum(who.age, jnp.minimum(w, 1.0)),
    hair=who.hair + (white - who.hair) * grey,
    hairline=who.hairline - w * u(0.0, 0.20),
    fringe=who.fringe * (1.0 - 0.5 * w * chance(0.7)),
    hair_volume=who.hair_volume * (1.0 - 0.35 * w),
    gain=who.gain * (1.0 - 0.4 * age) * jnp.exp(own),
    rest=who.rest + age * jnp.abs(n(0.07, num_units)) * chance(0.8) / action_units.GAINS * _SETTLING,
    asymmetry=who.asymmetry + age * n(0.08, num_units),
    wear=Wear(
      lines=w * u(0.7, 1.3),
      folds=w * u(0.7, 1.3),
      sag=w * u(0.6, 1.4),
      spots=jnp.concatenate(
        [u(-0.8, 0.8, 6, 1), u(-0.7, 0.9, 6, 1), u(0.03, 0.075, 6, 1), w * u(-0.15, 0.28, 6, 1)], -1
      ),
      phase=u(0.0, 6.28, 3),
    ),
  )


def wrinkles(face: Face, wear: Wear, x: jax.Array, y: jax.Array, foot: jax.Array) -> jax.Array:
  """Share of the light absorbed by lines and folds at material coordinates, in addition to `shapes.creases`."""
  who, c = face.identity, face.controls
  ax = jnp.abs(x)
  s = lambda pair: side(pair, x)  # noqa: E731
  brow, n, m = who.brow_y, who.nose_length, who.mouth_y
  lines, folds = wear.lines, wear.folds
  # Three lines across the forehead, broken and waved; they deepen as the brows rise.
  lift = jnp.clip(0.5 * s(c.brow_inner) + 0.5 * s(c.brow_outer), 0.0, 1.0)
  dark = jnp.zeros_like(x)
  for i in range(3):
    wave = 0.018 * jnp.sin(5.0 * x + wear.phase[i]) + 0.05 * x * x
    broken = 0.75 + 0.25 * jnp.sin(6.0 * x + 2.0 * wear.phase[2 - i])
    line = stroke(y - brow + 0.19 + 0.13 * i + wave, 0.019, foot) * bump((x / (0.72 - 0.06 * i)) ** 2)
    dark += (0.62 + 0.35 * lift) * lines * broken * line
  # Two lines between the brows.
  frown = stroke(ax - 0.068, 0.017, foot) * bump(((y - brow) / 0.19) ** 2)
  dark += 0.45 * lines * frown
  # Crow's feet: three rays from the outer corner.
  out, eye_y = ax - who.eye_x - who.eye_width, y + who.eye_tilt
  for slope in (-0.55, 0.05, 0.6):
    ray = stroke(eye_y - slope * out, 0.015, foot) * bump(((out - 0.14) / 0.16) ** 2) * (out > 0.0)
    dark += (0.55 + 0.4 * s(c.cheek_raise)) * lines * ray
  # The pouch under the eye and a second fold below it.
  dip = 0.9 * (ax - who.eye_x + 0.02) ** 2
  for i, depth in enumerate((0.50, 0.40)):
    under = y - who.eye_lower - 0.085 - 0.085 * i * wear.sag + dip
    dark += depth * wear.sag * stroke(under, 0.022, foot) * bump(((ax - who.eye_x + 0.03) / 0.24) ** 2)
  # The upper lid's skin hangs over its outer half.
  hood = stroke(y + who.eye_upper + 0.035 - 0.16 * (ax - who.eye_x), 0.026, foot)
  dark += 0.50 * wear.sag * hood * bump(((ax - who.eye_x - 0.05) / 0.25) ** 2)
  # From the wing of the nose round the corner of the mouth, then from the corner down to the jaw.
  along = jnp.clip((y - n + 0.10) / (m - n + 0.22), -0.3, 1.3)
  fold = ax - who.nose_width - 0.04 - (who.mouth_width - who.nose_width + 0.10) * along * (0.5 + 0.5 * along)
  dark += 0.75 * folds * stroke(fold, 0.026, foot) * bump(((along - 0.5) / 0.70) ** 2)
  down = y - m - 0.03
  mouth = stroke(ax - who.mouth_width - 0.035 - 0.10 * down, 0.024, foot)
  dark += 0.62 * folds * mouth * bump(((down - 0.12) / 0.17) ** 2)
  # Short upright lines into the upper lip, and the hollow of the cheek.
  pleats = jnp.maximum(jnp.cos(62.0 * x + wear.phase[0]), 0.0) ** 2 * bump((x / 0.26) ** 2)
  dark += 0.35 * lines * pleats * bump(((y - m + who.lip_upper + 0.05) / 0.075) ** 2)
  dark += 0.22 * folds * hill(ax - 0.60, y - 0.62, 0.20, 0.30)
  return jnp.clip(dark, 0.0, 0.85)


def hanging(who: Identity, wear: Wear, x: jax.Array, y: jax.Array) -> jax.Array:
  """Additions to the relief: pouches under the eyes, cheeks that hang over the folds, jowls, sunken temples."""
  ax = jnp.abs(x)
  m = who.mouth_y
  z = 0.035 * hill(ax - who.eye_x + 0.02, y - who.eye_lower - 0.075, 0.20, 0.085)
  z += 0.055 * hill(ax - who.mouth_width - 0.16, y - m + 0.13, 0.22, 0.27)
  z += 0.060 * hill(ax - who.mouth_width - 0.16, y - m - 0.24, 0.20, 0.20)
  z -= 0.050 * hill(ax - 0.80, y + 0.22, 0.20, 0.30) + 0.045 * hill(ax - 0.66, y - 0.52, 0.20, 0.24)
  return wear.sag * z


def spots(wear: Wear, x: jax.Array, y: jax.Array) -> jax.Array:
  """Share of the light absorbed by spots in the skin and by its coarser grain."""
  dark = 0.022 * wear.lines * jnp.sin(23.0 * x + 7.0 * y + wear.phase[0]) * jnp.sin(19.0 * y - 9.0 * x)
  for spot in wear.spots:
    dark += jnp.maximum(spot[3], 0.0) * hill(x - spot[0], y - spot[1], 1.6 * spot[2], 1.3 * spot[2])
  return dark
