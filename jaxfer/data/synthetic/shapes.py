"""The shapes that a face is drawn from: coverage of each pixel by features, depth of creases, height of the relief.

All functions take arrays of material coordinates (or others, as stated) of the same shape and return such arrays.
`foot` is the footprint of a pixel in face units. Edges are smoothed over it, so a face can be drawn at any size.
"""

import jax
import jax.numpy as jnp

from jaxfer.data.synthetic import geometry
from jaxfer.data.synthetic.geometry import Face, bump, hill, side
from jaxfer.data.synthetic.identity import Identity

_Size = jax.Array | float


def cover(inside: jax.Array, width: _Size) -> jax.Array:
  """Share of a pixel with the given footprint that a shape covers, from the signed distance into the shape."""
  t = jnp.clip(inside / width + 0.5, 0.0, 1.0)
  return t * t * (3.0 - 2.0 * t)


def stroke(distance: jax.Array, width: _Size, foot: jax.Array) -> jax.Array:
  """A soft line of half-width `width`; a line thinner than a pixel fades instead of breaking up."""
  wide = jnp.maximum(width, 0.7 * foot)
  return bump((distance / (1.8 * wide)) ** 2) * jnp.minimum(width / wide, 1.0)


def outline(who: Identity, x: jax.Array, y: jax.Array) -> jax.Array:
  """Distance from the centre of the head, divided by the radius of its outline in that direction: below 1 inside."""
  ax = jnp.abs(x) / who.head_width
  top = (jnp.maximum(ax, 1e-4) ** 2.3 + jnp.abs(y / who.head_top) ** 2.3) ** (1.0 / 2.3)
  low_y = jnp.maximum(y, 0.0) / who.chin
  low = (ax * (1.0 + 0.16 * low_y * low_y)) ** who.jaw + low_y**who.jaw + 1e-9
  return jnp.where(y < 0.0, top, low ** (1.0 / who.jaw))


def dome(radius: jax.Array) -> jax.Array:
  """Height of a rounded head, or of the hair around it, at `radius` as a share of its outline."""
  return 0.80 * jnp.sqrt(jnp.maximum(1.0 - radius * radius, 0.0) + 0.015)


def relief(face: Face, x: jax.Array, y: jax.Array, radius: jax.Array) -> jax.Array:
  """The lit relief in face units, more detailed than the one that the pose rotates; `radius` is from `outline`."""
  who, c = face.identity, face.controls
  ax = jnp.abs(x)
  s = lambda pair: side(pair, x)  # noqa: E731
  n, m = who.nose_length, who.mouth_y
  upper, lower = geometry.lip_thickness(face, x)
  slit = geometry.mouth_edges(face, x).slit
  z = dome(radius)
  # The nose: a ridge that widens downwards, the ball of its tip, its wings.
  down = jnp.clip(y / n, 0.0, 1.0)
  ridge = jnp.maximum(1.0 - (x / (0.15 + 0.05 * down)) ** 2, 0.0) ** 2
  ends = cover(y + 0.08, 0.40) * cover(n - 0.01 - y, 0.14)
  z += who.nose_relief * (
    ridge * ends * (0.050 + 0.085 * down)
    + 0.085 * hill(x, y - (n - 0.09), 0.18, 0.17)
    + 0.050 * hill(ax - 0.60 * who.nose_width, y - (n - 0.06), 0.13, 0.12)
  )
  # Brow ridge, sockets, eyeballs under the lids, cheekbones, chin and the hollow above it.
  z += 0.045 * hill(ax - 0.34, y - who.brow_y - 0.03, 0.36, 0.19) - 0.075 * hill(
    ax - 0.31, y + 0.02, 0.34, 0.26
  )
  z += 0.050 * hill(ax - who.eye_x, y, 0.27, 0.18)
  z += 0.055 * hill(ax - 0.52, y - 0.38, 0.40, 0.36)
  z += (0.075 * s(c.cheek_raise) + 0.03 * jnp.maximum(s(c.corner_up), 0.0)) * hill(
    ax - 0.48, y - 0.40, 0.40, 0.34
  )
  z += 0.10 * s(c.puff) * hill(ax - 0.58, y - m + 0.02, 0.36, 0.40)
  z += 0.05 * hill(x, y - (who.chin - 0.16), 0.30, 0.24) - 0.040 * hill(x, y - (m + 0.20), 0.28, 0.12)
  z += 0.06 * s(c.jaw_thrust) * hill(x, y - (who.chin - 0.2), 0.4, 0.4)
  # Lips and the groove above them.
  z += 0.40 * upper * bump(((y - slit + 0.35 * upper) / (upper + 0.05)) ** 2)
  z += 0.60 * lower * bump(((y - slit - 0.5 * lower) / (0.75 * lower + 0.03)) ** 2)
  return z - 0.015 * hill(x, y - 0.5 * (n + m) + 0.03, 0.06, 0.13)


def creases(face: Face, x: jax.Array, y: jax.Array, foot: jax.Array) -> jax.Array:
  """Share of the light absorbed by wrinkles: those of age, and those that action units cause."""
  who, c = face.identity, face.controls
  ax = jnp.abs(x)
  s = lambda pair: side(pair, x)  # noqa: E731
  brow, n, m = who.brow_y, who.nose_length, who.mouth_y
  # Vertical frown lines between the brows, and horizontal ones at the root of the nose.
  frown = stroke(ax - 0.070 - 0.10 * (y - brow - 0.1) ** 2, 0.016, foot) * bump(
    ((y - brow + 0.01) / 0.20) ** 2
  )
  dark = 0.80 * s(c.brow_knit) * frown
  dark += (
    s(c.nose_wrinkle)
    * hill(x, y - 0.04, 0.17, 0.17)
    * (0.35 + 0.35 * jnp.cos((y - 0.04 + 0.9 * x * x) * 70.0))
  )
  # Lines of the forehead, caused by raised brows.
  lift = 0.5 * s(c.brow_inner) * bump((x / 0.6) ** 2) + 0.5 * s(c.brow_outer) * bump(((ax - 0.5) / 0.45) ** 2)
  wave = y - (brow - 0.30) + 0.05 * x * x + 0.012 * jnp.sin(9.0 * x + who.texture[0])
  lines = jnp.maximum(jnp.cos(wave * 46.0), 0.0) ** 3 * bump((wave / 0.24) ** 2) * bump((x / 0.8) ** 2)
  dark += (lift * (0.6 + 0.6 * who.age) + 0.15 * who.age) * lines
  # Crow's feet and the fold under the eye.
  outer = ax - who.eye_x - who.eye_width
  feet = (
    (0.9 * s(c.cheek_raise) + 0.25 * who.age) * bump(((outer - 0.10) / 0.11) ** 2) * bump((y / 0.15) ** 2)
  )
  dark += feet * jnp.maximum(jnp.cos(y / (outer + 0.16) * 13.0), 0.0) ** 4
  under = y - who.eye_lower - 0.075 + 0.96 * (ax - who.eye_x) ** 2
  pouch = 0.10 + 0.25 * who.age + 0.60 * s(c.cheek_raise) + 0.25 * s(c.lid_tight)
  dark += pouch * stroke(under, 0.020, foot) * bump(((ax - who.eye_x + 0.03) / 0.25) ** 2)
  # Nasolabial fold, from the wing of the nose round the corner of the mouth.
  along = jnp.clip((y - n + 0.08) / (m - n + 0.16), -0.4, 1.5)
  fold = (
    ax - who.nose_width - 0.035 - (who.mouth_width - who.nose_width + 0.075) * along * (0.55 + 0.45 * along)
  )
  depth = 0.05 + 0.25 * who.age + 0.65 * jnp.clip(s(c.fold), 0.0, 1.2)
  dark += depth * stroke(fold, 0.028, foot) * bump(((along - 0.40) / 0.75) ** 2)
  # Dimples, depressed corners, the furrow above the chin, and the chin.
  corner = ax - who.mouth_width
  dark += 0.7 * jnp.maximum(s(c.dimple), 0.0) * hill(corner - 0.07, y - m, 0.05, 0.11)
  pulled = stroke(corner - 0.02 - 0.35 * (y - m - 0.1), 0.020, foot) * bump(((y - m - 0.10) / 0.13) ** 2)
  dark += 0.55 * jnp.maximum(-s(c.corner_up), 0.0) * pulled
  raised = jnp.maximum(s(c.chin_raise), 0.0)
  dark += (0.08 + 0.5 * raised) * stroke(y - m - 0.205 - 0.5 * x * x, 0.024, foot) * bump((x / 0.26) ** 2)
  pits = jnp.sin(41.0 * x + who.texture[1]) * jnp.sin(37.0 * y + who.texture[2])
  dark += raised * hill(x, y - who.chin + 0.15, 0.24, 0.17) * (0.15 + 0.15 * pits)
  dark += 0.4 * jnp.maximum(-s(c.puff), 0.0) * hill(ax - 0.56, y - m + 0.02, 0.24, 0.34)
  return jnp.clip(dark, 0.0, 0.85)


def hollows(who: Identity, x: jax.Array, y: jax.Array, radius: jax.Array) -> jax.Array:
  """Share of the light that is blocked: in the eye sockets, under the nose and the lower lip, at the face's rim."""
  ax = jnp.abs(x)
  dark = 0.26 * hill(ax - 0.215, y - 0.02, 0.20, 0.22) + 0.15 * hill(ax - who.eye_x, y + 0.115, 0.30, 0.13)
  dark += 0.30 * hill(x, y - who.nose_length - 0.045, 0.20, 0.08) + 0.18 * hill(
    x, y - who.mouth_y - 0.19, 0.26, 0.09
  )
  dark += 0.30 * jnp.clip((radius - 0.72) / 0.28, 0.0, 1.0) ** 2
  return jnp.clip(dark, 0.0, 0.6)


def nose_lines(who: Identity, x: jax.Array, y: jax.Array, foot: jax.Array) -> jax.Array:
  """Darkness of the nostrils and of the groove behind the wings."""
  ax = jnp.abs(x)
  wing = who.nose_width
  nostril = hill(ax - 0.48 * wing, y - who.nose_length + 0.012, 0.080, 0.046)
  ring = jnp.sqrt((ax - 0.50 * wing) ** 2 + (y - who.nose_length + 0.06) ** 2 + 1e-9)
  groove = (
    stroke(ring - 0.52 * wing, 0.020, foot) * cover(ax - 0.80 * wing, 0.08) * cover(who.nose_length - y, 0.08)
  )
  return jnp.clip(0.90 * jnp.clip(1.3 * nostril, 0.0, 1.0) + 0.35 * groove, 0.0, 0.9)


def brows(who: Identity, x: jax.Array, y: jax.Array, foot: jax.Array) -> jax.Array:
  """Coverage of the brows, thick inside and tapering outwards, with hairs."""
  t = (jnp.abs(x) - who.eye_x - 0.025) / geometry.BROW_REACH
  _, centre = geometry.brow_curve(who, t)
  half = who.brow_thickness * (0.90 - 0.35 * t) * jnp.clip((1.05 - jnp.abs(t)) * 3.0, 0.0, 1.0)
  hairs = 0.90 + 0.10 * jnp.sin(120.0 * jnp.abs(x) + 60.0 * (y - centre) + who.texture[3])
  return cover(half - jnp.abs(y - centre), 1.6 * foot + 0.03) * hairs * (jnp.abs(t) < 1.06)


def lips(face: Face, x: jax.Array, y: jax.Array, foot: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Coverage of the upper and of the lower lip, and the height below the slit."""
  upper, lower = geometry.lip_thickness(face, x)
  mouth = geometry.mouth_edges(face, x)
  over = y - mouth.slit
  soft = 1.6 * foot + 0.015
  within = jnp.abs(mouth.t) < 1.0
  return (
    cover(upper + over, soft) * (over < 0) * within,
    cover(lower - over, soft) * (over >= 0) * within,
    over,
  )


def beard(who: Identity, x: jax.Array, y: jax.Array) -> jax.Array:
  """Coverage of moustache and beard."""
  ax = jnp.abs(x)
  jawline = cover(y - 0.60 - 0.45 * (0.85 - ax), 0.22) * jnp.clip(
    (ax - 0.10) * 3 + (y - who.mouth_y) * 6, 0.0, 1.0
  )
  jawline *= 1.0 - hill(x, y - who.mouth_y, 0.42, 0.16)
  moustache = hill(x, y - 0.5 * (who.nose_length + who.mouth_y) - 0.02, 0.40, 0.15)
  hairs = 0.90 + 0.10 * jnp.sin(123.0 * x + 5.0 * jnp.sin(17.0 * y)) * jnp.sin(
    111.0 * y + 4.0 * jnp.sin(13.0 * x)
  )
  return jnp.clip(jnp.clip(jnp.maximum(jawline, 1.6 * moustache), 0.0, 1.0) * hairs * who.beard, 0.0, 0.88)


def hair(
  who: Identity, x: jax.Array, y: jax.Array, radius: jax.Array, foot: jax.Array
) -> tuple[jax.Array, ...]:
  """Coverage of the hair behind the head and in front, its shadow on the face, and the strands' brightness (mean 1)."""
  ax = jnp.abs(x)
  across = x - who.parting
  angle = across / (jnp.abs(y + 2.1) + 0.4)
  strands = 0.6 * jnp.sin(46.0 * angle + 1.5 * jnp.sin(2.0 * y + who.texture[0]) + who.texture[1])
  strands += 0.4 * jnp.sin(97.0 * angle + 2.0 * jnp.sin(3.0 * y + who.texture[2]))
  present = (who.hairline > -1.5).astype(x.dtype)
  long = cover(who.hair_length - 0.6, 0.2)
  # The outer boundary: a shell around the skull that hangs down from the ears' height.
  taper = 1.0 - (1.0 - long) * cover(y + 0.25, 0.9)  # short hair is close to the head at the ears
  shell = (1.0 + who.hair_volume * taper - radius) * 0.9
  width = who.head_width * (1.0 + who.hair_volume) + 0.12 * jnp.sin(1.7 * jnp.maximum(y, 0.0)) - ax
  hang = jnp.minimum(jnp.where(long > 0.5, width, shell), who.hair_length - y + 0.04 * strands)
  around = jnp.where(y < 0.0, shell, hang)
  # The face's opening: below a hairline over the forehead (a fringe falls on one side), between the side strands.
  sweep = cover(-across * jnp.where(who.parting < 0.0, -1.0, 1.0), 0.9)
  arch = 0.10 * ax * ax + 0.42 * (ax / 0.85) ** 4
  edge = who.hairline + who.fringe * (0.35 + 0.65 * sweep) + arch + 0.02 * strands * (0.4 + 2.5 * who.fringe)
  strip = who.head_width * (0.93 - 0.07 * long - 0.10 * cover(-0.15 - y, 0.8))
  edge_distance = jnp.maximum(edge - y, jnp.minimum(ax - strip - 0.015 * strands, who.hair_length - y))
  front = jnp.minimum(edge_distance, around)
  shadow = jnp.clip(1.0 + edge_distance / 0.13, 0.0, 1.0) ** 2
  return (
    cover(around, 2.0 * foot + 0.02) * present,
    cover(front, 2.0 * foot + 0.03) * present,
    shadow * present,
    1.0 + 0.16 * strands,
  )


def glasses(who: Identity, x: jax.Array, y: jax.Array, foot: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Coverage of rims, bridge and temples, and of the lenses, in head coordinates (skin does not move them)."""
  p = who.glasses_shape
  ax = jnp.abs(x)
  u, w = jnp.abs(ax - who.eye_x - 0.01) / 0.275, jnp.abs(y - 0.035) / 0.22
  r = (u**p + w**p + 1e-9) ** (1.0 / p)
  rim = stroke((r - 1.0) * 0.25, 0.018, foot)
  bridge = stroke(y + 0.03 - 0.4 * x * x, 0.016, foot) * (ax < who.eye_x - 0.26)
  temple = stroke(y + 0.04, 0.018, foot) * (ax > who.eye_x + 0.28) * (ax < who.head_width)
  return who.glasses * jnp.maximum(jnp.maximum(rim, bridge), temple), who.glasses * cover(1.0 - r, 4 * foot)
