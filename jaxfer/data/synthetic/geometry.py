"""The map from points of the resting face to the picture, and its inverse; landmarks and exact flow follow from it.

A material point m (face units, on the frontal resting face) reaches the picture in three steps:

    v = part(m)               lids and lips part: vertical shifts, discontinuous at the eye and mouth slits, piecewise
                              linear in y, so the inverse has a closed form;
    h = v + bend(v)           brows, cheeks, nose, lip corners and chin move: a sum of smooth compact bumps;
    X = project(h, depth(v))  yaw and pitch of a shallow relief, orthographic, then roll, scale and shift.

The bumps and the pose are inverted together by fixed-point iterations. Coordinates x and y are separate arrays of the
same shape, so the compiler fuses the whole map into a few loops.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxfer.data.synthetic.action_units import Controls
from jaxfer.data.synthetic.identity import Identity, Pose

_Size = jax.Array | float

_ITERATIONS = 7
BROW_REACH = 0.26  # half-length of a brow
_LID_REACH = 0.24  # height over which the skin follows a lid's edge


class Face(NamedTuple):
  """A face's geometry at one moment."""

  identity: Identity
  controls: Controls
  pose: Pose


def bump(r2: jax.Array) -> jax.Array:
  """A smooth bump as a function of the squared radius: 1 at 0, and 0 from 1 on."""
  rest = jnp.maximum(1.0 - r2, 0.0)
  return rest * rest * rest


def hill(x: jax.Array, y: jax.Array, radius_x: _Size, radius_y: _Size) -> jax.Array:
  """A bump at the origin with the given radii."""
  return bump((x / radius_x) ** 2 + (y / radius_y) ** 2)


def side(pair: jax.Array, x: jax.Array) -> jax.Array:
  """Blends a two-sided value [2] (left, right) across the midline, at x."""
  t = jnp.clip(x * 1.6 + 0.5, 0.0, 1.0)
  return pair[0] + (pair[1] - pair[0]) * (t * t * (3.0 - 2.0 * t))


class EyeEdges(NamedTuple):
  """Curves of the nearer eye at x: line through its corners, profile of the opening, lid edges now and at rest."""

  t: jax.Array  # -1 at the inner corner, 1 at the outer
  profile: jax.Array
  upper: jax.Array
  lower: jax.Array
  upper_rest: jax.Array
  lower_rest: jax.Array


def eye_edges(face: Face, x: jax.Array) -> EyeEdges:
  """Lid edges of the eye on x's side (y of face units, in v coordinates); outside an eye both meet on its line."""
  who, c = face.identity, face.controls
  t = (jnp.abs(x) - who.eye_x) / who.eye_width
  inside = jnp.maximum(1.0 - t * t, 0.0)
  profile = inside * (1.15 - 0.12 * t)
  line = -who.eye_tilt * jnp.clip(t, -1.6, 1.6)
  close = jnp.clip(side(c.lid_close, x), 0.0, 1.0)
  raised = side(c.lid_raise, x)
  tight = jnp.clip(side(c.lid_tight, x), 0.0, 1.2)
  brow = side(c.brow_knit, x)
  lower_now = who.eye_lower * (1.0 - 0.75 * tight + 0.35 * raised)
  upper_open = who.eye_upper * (1.0 + 0.8 * raised - 0.30 * tight - 0.16 * brow)
  upper_now = upper_open + close * (-0.9 * lower_now - upper_open)
  return EyeEdges(
    t,
    profile,
    line - upper_now * profile,
    line + lower_now * profile,
    line - who.eye_upper * profile,
    line + who.eye_lower * profile,
  )


class MouthEdges(NamedTuple):
  """Curves of the mouth at x: the resting slit, the profile of the opening, and the distances of lips and jaw."""

  t: jax.Array  # -1 and 1 at the corners
  profile: jax.Array
  slit: jax.Array
  up: jax.Array
  down: jax.Array
  jaw: jax.Array


def mouth_edges(face: Face, x: jax.Array) -> MouthEdges:
  """The mouth's opening at x; the cavity lies between slit - up and slit + down (y of face units, v coordinates)."""
  who, c = face.identity, face.controls
  t = x / who.mouth_width
  inside = jnp.maximum(1.0 - t * t, 0.0)
  profile = inside * (1.0 + 0.45 * t * t)
  slit = (
    who.mouth_y + who.mouth_curve * jnp.minimum(t * t, 2.0) + 0.012 * inside * (1.0 - 3.0 * inside * t * t)
  )
  jaw = 0.40 * jnp.maximum(side(c.jaw_drop, x), 0.0)
  up = (0.075 * jnp.maximum(side(c.upper_lip, x), 0.0)) * profile
  drop = (0.13 * jnp.maximum(side(c.lower_lip, x), 0.0)) * profile
  return MouthEdges(t, profile, slit, up, drop + jaw * profile, jaw)


def _mouth_heights(who: Identity) -> tuple[jax.Array, jax.Array]:
  """Returns the heights over which the movements of the upper lip and of the jaw fade."""
  return who.mouth_y - who.nose_length + 0.10, who.chin - who.mouth_y - 0.04


def part(face: Face, x: jax.Array, y: jax.Array) -> jax.Array:
  """Returns y in v coordinates for material points: the skin of lids and lips moves, and x does not change."""
  eye = eye_edges(face, x)
  above = jnp.clip(1.0 - (eye.upper_rest - y) / _LID_REACH, 0.0, 1.0)
  below = jnp.clip(1.0 - (y - eye.lower_rest) / _LID_REACH, 0.0, 1.0)
  lid = jnp.where(
    y < 0.5 * (eye.upper_rest + eye.lower_rest),
    (eye.upper - eye.upper_rest) * above,
    (eye.lower - eye.lower_rest) * below,
  )
  mouth = mouth_edges(face, x)
  reach_up, reach_down = _mouth_heights(face.identity)
  up = -mouth.up * jnp.clip(1.0 - (mouth.slit - y) / reach_up, 0.0, 1.0)
  share = jnp.clip((y - mouth.slit) / reach_down, 0.0, 1.0)
  down = mouth.jaw - (mouth.jaw - mouth.down) * (1.0 - share)
  return y + lid + jnp.where(y < mouth.slit, up, down)


class Parted(NamedTuple):
  """The inverse of `part` at points of v coordinates."""

  y: jax.Array  # material y; for points in an opening, that of the nearest lid or lip edge
  eye: jax.Array  # how far inside the eye's opening, negative outside
  mouth: jax.Array  # how far inside the mouth's opening, negative outside
  eye_edges: EyeEdges
  mouth_edges: MouthEdges


def unpart(face: Face, x: jax.Array, y: jax.Array) -> Parted:
  """Inverts `part` in closed form, and returns how deep each point is inside the opening of the eye or mouth."""
  eye, mouth = eye_edges(face, x), mouth_edges(face, x)
  reach_up, reach_down = _mouth_heights(face.identity)

  def shrink(distance: jax.Array, shift: jax.Array, reach: _Size) -> jax.Array:
    # Inverts d -> d + shift (1 - d / reach): points at distance d from an edge move away by a shift that fades with d.
    near = (distance - shift) / (1.0 - shift / reach)
    return jnp.where(near < reach, jnp.maximum(near, 0.0), distance)

  upper = eye.upper_rest - shrink(eye.upper_rest - y, eye.upper_rest - eye.upper, _LID_REACH)
  lower = eye.lower_rest + shrink(y - eye.lower_rest, eye.lower - eye.lower_rest, _LID_REACH)
  lids = jnp.where(y < 0.5 * (eye.upper + eye.lower), upper, lower)

  top = mouth.slit - shrink(mouth.slit - y, mouth.up, reach_up)
  near = jnp.maximum((y - mouth.slit - mouth.down) / (1.0 + (mouth.jaw - mouth.down) / reach_down), 0.0)
  bottom = jnp.where(near < reach_down, mouth.slit + near, y - mouth.jaw)
  lips = jnp.where(y < mouth.slit + 0.5 * (mouth.down - mouth.up), top, bottom)

  return Parted(
    jnp.where(y < 0.34, lids, lips),
    jnp.where(jnp.abs(eye.t) < 1.0, jnp.minimum(y - eye.upper, eye.lower - y), -1.0),
    jnp.where(
      jnp.abs(mouth.t) < 1.0, jnp.minimum(y - mouth.slit + mouth.up, mouth.slit + mouth.down - y), -1.0
    ),
    eye,
    mouth,
  )


def _bumps(face: Face) -> list[tuple[_Size, _Size, _Size, _Size, jax.Array, jax.Array]]:
  """Returns the smooth movements of both sides: centre (x, y), radii (x, y), and the shifts [2] outward and down."""
  who, c = face.identity, face.controls
  brow, mouth = who.brow_y, who.mouth_y
  still = jnp.zeros(2)
  # lowered and raised at the same time, the brow turns oblique
  knit = c.brow_knit * (1.0 - 0.8 * c.brow_inner)
  outer = -0.16 * c.brow_outer + 0.03 * c.brow_knit + 0.025 * c.cheek_raise
  corner = 0.14 * c.corner_out - 0.17 * c.pucker - 0.14 * c.jaw_drop + 0.04 * c.dimple
  return [
    (0.16, brow - 0.02, 0.42, 0.42, -0.055 * c.brow_knit, 0.11 * knit),
    (0.18, brow - 0.06, 0.46, 0.44, still, -0.17 * c.brow_inner),
    (who.eye_x + 0.20, brow - 0.05, 0.44, 0.42, still, outer),
    (who.eye_x + 0.10, 0.36, 0.48, 0.44, 0.03 * c.cheek_raise, -0.11 * c.cheek_raise),
    (who.nose_width, who.nose_length - 0.03, 0.36, 0.40, 0.03 * c.nose_wrinkle, -0.075 * c.nose_wrinkle),
    (0.15, mouth - 0.06, 0.42, 0.26, still, -0.045 * c.upper_lip - 0.03 * c.nose_wrinkle),
    (who.mouth_width + 0.04, mouth, 0.40, 0.46, corner, -0.17 * c.corner_up + 0.03 * c.jaw_drop),
    (0.0, mouth + 0.12, 0.40, 0.34, still, -0.075 * c.chin_raise + 0.02 * c.corner_up),
    (0.0, who.chin - 0.08, 0.50, 0.30, still, -0.05 * c.chin_raise + 0.09 * c.jaw_thrust),
    (0.66, mouth - 0.02, 0.44, 0.50, 0.10 * c.puff, still),
  ]


def bend(face: Face, x: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array]:
  """The smooth displacement at points of v coordinates."""
  t = jnp.clip(x * 1.6 + 0.5, 0.0, 1.0)
  right = t * t * (3.0 - 2.0 * t)
  outward = jnp.clip(x / 0.12, -1.0, 1.0)  # horizontal shifts vanish at the midline
  dx, dy = jnp.zeros_like(x), jnp.zeros_like(y)
  for cx, cy, rx, ry, out, down in _bumps(face):
    weight = bump(((jnp.abs(x) - cx) / rx) ** 2 + ((y - cy) / ry) ** 2)
    dx += weight * (out[0] + (out[1] - out[0]) * right)
    dy += weight * (down[0] + (down[1] - down[0]) * right)
  who = face.identity
  swing = 0.12 * jnp.mean(face.controls.jaw_side)
  dx = dx * outward + swing * jnp.clip((y - who.nose_length) / 0.5, 0.0, 1.0)
  return dx, dy


def depth(who: Identity, x: jax.Array, y: jax.Array) -> jax.Array:
  """Depth that the pose rotates, in face units towards the camera, 0 at the head's centre of rotation."""
  r2 = jnp.minimum((x / 1.05) ** 2 + (y / 1.4) ** 2, 1.6)
  nose = hill(x, y - 0.36, 0.30, 0.46)
  return 0.58 * (1.0 - r2) + 0.20 * who.nose_relief * nose - 0.30


def _turn(pose: Pose, x: jax.Array, y: jax.Array, z: jax.Array) -> tuple[jax.Array, jax.Array]:
  cy, sy, cp, sp = jnp.cos(pose.yaw), jnp.sin(pose.yaw), jnp.cos(pose.pitch), jnp.sin(pose.pitch)
  return cy * x + sy * z, cp * y + sp * (cy * z - sy * x)


def project(pose: Pose, x: jax.Array, y: jax.Array, z: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Maps head coordinates to picture coordinates in half-sides: -1 and 1 are the edges."""
  x, y = _turn(pose, x, y, z)
  c, s = jnp.cos(pose.roll), jnp.sin(pose.roll)
  return pose.scale * (c * x - s * y) + pose.x, pose.scale * (s * x + c * y) + pose.y


def place(face: Face, x: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Maps v coordinates to picture coordinates: `bend`, then `project`."""
  dx, dy = bend(face, x, y)
  return project(face.pose, x + dx, y + dy, depth(face.identity, x, y))


def to_picture(face: Face, x: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Maps material points to picture coordinates in half-sides: -1 and 1 are the edges."""
  return place(face, x, part(face, x, y))


def unplace(face: Face, px: jax.Array, py: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Inverts `place` by fixed-point iterations (the error is below 1e-3 face units for this package's poses)."""
  pose = face.pose
  c, s = jnp.cos(pose.roll), jnp.sin(pose.roll)
  ux, uy = (px - pose.x) / pose.scale, (py - pose.y) / pose.scale
  ux, uy = c * ux + s * uy, c * uy - s * ux

  def closer(_: int, v: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
    x, y = v
    dx, dy = bend(face, x, y)
    hx, hy = _turn(pose, x + dx, y + dy, depth(face.identity, x, y))
    return x + (ux - hx), y + (uy - hy)

  return jax.lax.fori_loop(0, _ITERATIONS, closer, (ux, uy))


def brow_curve(who: Identity, t: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Centre line of the right brow in material coordinates, t from -1 (inner end) to 1."""
  x = who.eye_x + 0.025 + BROW_REACH * t
  return x, who.brow_y - who.brow_arch * (1.0 - (t - 0.25) ** 2) + who.brow_arch * 0.4 + who.brow_slope * t


def lip_thickness(face: Face, x: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Returns the thickness of the upper and lower lip's red at x, from the slit, in material coordinates."""
  who, c = face.identity, face.controls
  t = x / who.mouth_width
  inside = jnp.maximum(1.0 - t * t, 0.0)
  roll = jnp.clip(side(c.lip_roll, x), 0.0, 1.1)
  bite = jnp.clip(side(c.lip_bite, x), 0.0, 1.0)
  pucker = jnp.maximum(side(c.pucker, x), 0.0)
  bow = 1.0 - 0.22 * bump((x / 0.09) ** 2) + 0.10 * bump(((jnp.abs(x) - 0.10) / 0.12) ** 2)
  upper = who.lip_upper * (1.0 - 0.72 * roll + 0.35 * pucker) * bow * inside**0.8
  lower = who.lip_lower * (1.0 - 0.68 * roll - 0.85 * bite + 0.3 * pucker) * inside**0.65
  return upper, lower
