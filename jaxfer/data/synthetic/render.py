"""Draws a face: shapes in material coordinates, painted over each other and lit by one lamp, at any square size.

All functions are pure functions of small pytrees and a static picture size, so `jax.vmap` and `jax.jit` apply to them.
"""

import jax
import jax.numpy as jnp

from jaxfer.data.synthetic import ageing, geometry, shapes
from jaxfer.data.synthetic.draws import normal
from jaxfer.data.synthetic.geometry import Face, bump, hill
from jaxfer.data.synthetic.identity import Identity, Scene
from jaxfer.data.synthetic.shapes import cover, stroke

LUMA = (0.299, 0.587, 0.114)  # BT.601, as OpenCV's grey


def pixel_grid(size: int) -> tuple[jax.Array, jax.Array]:
  """Returns the centres of the pixels of a square picture, x and y [size, size], in half-sides from -1 to 1."""
  line = (jnp.arange(size) + 0.5) * (2.0 / size) - 1.0
  x, y = jnp.meshgrid(line, line)
  return x, y


def render(face: Face, scene: Scene, size: int, previous: Face | None = None) -> tuple[jax.Array, jax.Array]:
  """Draws one picture and, given the face in the previous frame, the optical flow from that frame.

  Args:
    face: Geometry (identity, controls, pose).
    scene: Light, background, camera.
    size: Edge of the picture in pixels (static).
    previous: The same person one frame earlier.

  Returns:
    The picture [size, size, 3] sRGB in [0, 1], without noise of the sensor (`sensor` adds it), and the flow
    [size, size, 2] in pixels (right, down), zero where `previous` is None. The flow belongs to this frame's pixels:
    the point seen at pixel p was at p - flow[p] in the previous frame. It is exact for the material points of skin,
    brows, lids, lips and hair, and for glasses (they are drawn where the map puts them); eyeballs and the inside of the
    mouth move with the skin around them, neck and shoulders with the head's position; the background is static. Areas
    that have just been uncovered have no true flow. Changing shadows, highlights and wrinkles are not motion.
  """
  who, pose = face.identity, face.pose
  px, py = pixel_grid(size)
  foot = 2.0 / (size * pose.scale)
  x, v = geometry.unplace(face, px, py)
  parted = geometry.unpart(face, x, v)
  y = parted.y
  ax = jnp.abs(x)
  radius = shapes.outline(who, x, y)
  bent_x, bent_y = geometry.bend(face, x, v)
  hx, hy = x + bent_x, v + bent_y
  bx, by = (px - pose.x) / pose.scale, (py - pose.y) / pose.scale

  # Light.
  back, front, shadow, strands = shapes.hair(who, x, v, radius, foot)
  z = shapes.relief(face, x, y, jnp.minimum(radius, 1.0))
  if who.wear is not None:
    z += ageing.hanging(who, who.wear, x, y)
  diffuse, gloss = _light(face, scene, z, x, v, foot)
  strength = 1.25 * (1.0 - scene.ambient)
  lit = scene.ambient + strength * diffuse
  hair_radius = jnp.where(v < 0.0, radius, ax / who.head_width) / (1.12 + who.hair_volume)
  hair_diffuse, hair_gloss = _light(face, scene, shapes.dome(hair_radius), x, v, foot)
  hair_lit = scene.ambient + strength * hair_diffuse
  flat = scene.ambient + strength * 0.78 * scene.light[2]  # light on upright surfaces behind the face

  # Shapes behind the face.
  along = jnp.clip(
    0.5 + 0.45 * (px * scene.background_direction[0] + py * scene.background_direction[1]), 0.0, 1.0
  )
  spots = [0.5 * bump(((px - s[0]) ** 2 + (py - s[1]) ** 2) * s[2] ** 2) for s in scene.spots]
  frequency, phase, contrast = scene.stripes
  stripes = 1.0 + contrast * jnp.sin(frequency * (px * jnp.cos(phase) + py * jnp.sin(phase)) + phase)
  neck, shoulders, neck_light, cloth_light = _body(who, bx, by, foot)
  hanging = back * cover(by - 0.9, 0.5) * cover(jnp.abs(bx) - 0.60, 0.12) * (who.hair_length > 0.9)
  ear = 1.0 - jnp.sqrt(((ax - who.head_width) / 0.13) ** 2 + ((y - 0.20) / 0.27) ** 2)
  ears = cover(ear * 0.18, 1.5 * foot) * (1.0 - back * (who.hair_length > 0.5))
  ear_light = flat * (0.85 - 0.3 * stroke(ear - 0.45, 0.2, foot))
  head = cover((1.0 - radius) * 0.95, 2.0 * foot)

  # Skin and facial hair.
  mottle = jnp.sin(13.0 * x + 5.0 * y + who.texture[0]) * jnp.sin(11.0 * y - 4.0 * x + who.texture[1])
  mottle = 1.0 + 0.018 * (
    mottle + 0.8 * jnp.sin(29.0 * x + who.texture[2]) * jnp.sin(31.0 * y + who.texture[3])
  )
  blush = who.blush * (0.5 * hill(ax - 0.52, y - 0.40, 0.36, 0.30) + 0.25 * hill(x, y - 0.42, 0.2, 0.16))
  hollow = shapes.hollows(who, x, y, radius)
  beard = shapes.beard(who, x, y)
  dark = 1.0 - (1.0 - shapes.nose_lines(who, x, y, foot)) * (1.0 - 0.62 * shapes.creases(face, x, y, foot))
  if who.wear is not None:
    dark = 1.0 - (1.0 - dark) * (1.0 - 0.62 * ageing.wrinkles(face, who.wear, x, y, foot))
    mottle *= 1.0 - ageing.spots(who.wear, x, y)
  upper_lip, lower_lip, over = shapes.lips(face, x, y, foot)
  seam = 0.70 * stroke(over, 0.015, foot) * cover(who.mouth_width * 1.03 - ax, 0.03) * (parted.mouth < 0.02)
  brow = 0.92 * shapes.brows(who, x, y, foot)
  eye = parted.eye_edges
  near_eye = cover(1.04 - jnp.abs(eye.t), 0.15)
  fold = stroke(v - eye.upper + 0.050 * jnp.clip(eye.profile, 0.0, 1.0) + 0.008, 0.011, foot)
  lash = (0.55 + 0.35 * who.lashes) * stroke(v - eye.upper, 0.016 + 0.010 * who.lashes, foot)
  lash = jnp.maximum(lash, 0.38 * stroke(v - eye.lower, 0.011, foot)) * near_eye
  dark = 1.0 - (1.0 - dark) * (1.0 - seam) * (1.0 - 0.5 * who.lid_crease * fold * near_eye)
  shine = (1.0 - scene.ambient) * gloss * (0.10 * (1.0 - 0.8 * brow) * (1.0 - beard) + 0.20 * lower_lip)

  # Openings.
  eye_open, mouth_open = cover(parted.eye, 1.4 * foot), cover(parted.mouth, 1.4 * foot)
  iris, pupil, iris_light, eye_light, glint = _eyeball(face, scene, x, v, eye, foot)
  teeth, tongue, mouth_light = _cavity(face, x, v, parted.mouth_edges, foot)
  eye_light = eye_light * (0.40 + 0.60 * lit)
  mouth_light = mouth_light * (0.45 + 0.55 * flat)
  rims, lenses = shapes.glasses(who, hx, hy, foot)
  rim_light = 0.4 + 0.6 * lit
  hair_shine = 0.12 * hair_gloss

  # The channels are painted one after another, so that the arrays above are computed once and shared.
  def channel(c: dict[str, jax.Array]) -> jax.Array:
    def paint(below: jax.Array, color: jax.Array | float, share: jax.Array) -> jax.Array:
      return below + (color - below) * share

    color = paint(c["background"][0], c["background"][1], along)
    for i, spot in enumerate(spots):
      color = paint(color, c["spots"][i], spot)
    color = color * stripes
    hair = c["hair"] * strands + hair_shine
    color = paint(color, hair * 0.72 * hair_lit * c["light"], back)
    color = paint(color, c["skin"] * flat * neck_light, neck)
    color = paint(color, c["clothes"] * flat * cloth_light, shoulders)
    color = paint(color, hair * 0.9 * hair_lit * c["light"], hanging)
    color = paint(color, c["skin"] * c["warm"] * ear_light, ears)
    skin = c["skin"] * mottle * (1.0 - blush * c["blush"]) * (1.0 - hollow * c["hollow"])
    skin = paint(skin, 0.8 * c["hair"] + 0.03, beard)
    skin = paint(skin, 0.84 * c["lip"], 0.92 * upper_lip)
    skin = paint(skin, c["lip"], 0.92 * lower_lip)
    skin = skin * (1.0 - dark * c["dark"]) * (1.0 - 0.35 * shadow)
    skin = paint(skin, 0.52 * c["hair"] + 0.02, brow)
    skin = skin * lit * c["light"] + shine
    ball = paint(c["white"], c["iris"] * iris_light, iris)
    ball = paint(paint(ball, 0.02, pupil) * eye_light, 1.0, glint)
    skin = paint(skin, ball, eye_open) * (1.0 - lash)
    inside = paint(paint(c["mouth"], c["tongue"], tongue), c["enamel"], teeth) * mouth_light
    skin = paint(skin, inside, mouth_open)
    color = paint(color, skin, head)
    color = paint(color, hair * hair_lit * c["light"], front)
    color = paint(paint(color, 1.0, 0.05 * lenses), c["rim"] * rim_light, rims)
    color = color * scene.exposure
    return jnp.where(
      color < 0.7, color, 1.0 - 0.3 * jnp.exp((0.7 - color) / 0.3)
    )  # highlights burn out softly

  rgb = lambda *values: jnp.array(values)  # noqa: E731
  picture = jax.lax.map(
    channel,
    {
      "background": scene.background.T,
      "spots": scene.spots[:, 3:].T,
      "skin": who.skin,
      "hair": who.hair,
      "clothes": who.clothes,
      "lip": who.lip_color,
      "iris": who.iris,
      "rim": who.glasses_color,
      "light": scene.light_color,
      "warm": rgb(0.95, 0.86, 0.84),
      "blush": rgb(0.03, 0.20, 0.18),
      "hollow": rgb(0.85, 1.0, 1.05),
      "dark": rgb(0.85, 1.0, 1.0),
      "white": rgb(0.93, 0.91, 0.89),
      "mouth": rgb(0.20, 0.06, 0.06),
      "tongue": rgb(0.66, 0.30, 0.30),
      "enamel": rgb(0.93, 0.90, 0.84),
    },
  )
  picture = jnp.moveaxis(_blur(picture, scene.blur * size), 0, -1)
  if previous is None:
    return picture, jnp.zeros((size, size, 2))

  # Flow: where each material point is now, minus where it was.
  hairy = jnp.maximum(front, back * (1.0 - head)) > 0.5
  unparted = (jnp.maximum(eye_open, mouth_open) > 0.5) | hairy  # drawn at v, independent of lids and jaw
  covered = jnp.maximum(neck, shoulders) * (1.0 - jnp.maximum(head, hanging)) > 0.5
  on_head = (jnp.maximum(jnp.maximum(head, front), jnp.maximum(ears, back)) > 0.5) & ~covered
  still = ~on_head & ~covered

  def position(state: Face) -> list[jax.Array]:
    skin = geometry.place(state, x, jnp.where(unparted, v, geometry.part(state, x, y)))
    stiff = geometry.project(state.pose, hx, hy, geometry.depth(who, x, v))
    trunk = (bx * state.pose.scale + state.pose.x, by * state.pose.scale + state.pose.y)
    return [
      jnp.where(still, 0.0, jnp.where(rims > 0.5, stiff[i], jnp.where(on_head, skin[i], trunk[i])))
      for i in (0, 1)
    ]

  places = jax.lax.map(position, jax.tree.map(lambda a, b: jnp.stack([a, b]), face, previous))
  return picture, jnp.stack([now - then for now, then in places], -1) * (size / 2)


def sensor(picture: jax.Array, scene: Scene, frame: jax.Array | int = 0) -> jax.Array:
  """Adds noise of the sensor to a picture [S, S, 3], different for each frame number; clips to [0, 1]."""
  key = jax.random.fold_in(scene.noise_key, frame)
  return jnp.clip(picture + scene.noise * normal(key, picture.shape), 0.0, 1.0)


def _light(
  face: Face, scene: Scene, z: jax.Array, x: jax.Array, y: jax.Array, step: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Computes diffuse and specular light on the relief z from differences between pixels (`step` face units apart)."""
  pose = face.pose
  toward = jnp.cos(pose.pitch) * (jnp.cos(pose.yaw) * z - jnp.sin(pose.yaw) * x) - jnp.sin(pose.pitch) * y
  # Central differences as a matrix product; with slices, the compiler would compute the relief once per slice.
  size = z.shape[0]
  difference = 0.5 * (jnp.eye(size, k=1) - jnp.eye(size, k=-1))
  difference = difference.at[0, 0].set(-0.5).at[-1, -1].set(0.5)
  dx = jnp.clip(toward @ difference.T / step, -2.2, 2.2)
  dy = jnp.clip(difference @ toward / step, -2.2, 2.2)
  norm = jax.lax.rsqrt(dx * dx + dy * dy + 1.0)
  diffuse = jnp.clip(
    0.12 + 0.88 * (scene.light[2] - scene.light[0] * dx - scene.light[1] * dy) * norm, 0.0, 1.0
  )
  half = scene.light + jnp.array([0.0, 0.0, 1.0])
  half = half / jnp.linalg.norm(half)
  gloss = jnp.clip((half[2] - half[0] * dx - half[1] * dy) * norm, 0.0, 1.0)
  return diffuse, gloss**24


def _body(who: Identity, x: jax.Array, y: jax.Array, foot: jax.Array) -> tuple[jax.Array, ...]:
  """Coverage of neck and shoulders and the light on each, in coordinates that follow only the head's position."""
  ax = jnp.abs(x)
  neck = jnp.minimum(0.50 * who.head_width + 0.9 * jnp.maximum(y - 1.35, 0.0) ** 2 - ax, y - 0.7)
  shoulder = y - 1.56 - 0.30 * jnp.maximum(ax - 0.45, 0.0) - 0.25 * bump((ax / 0.5) ** 2)
  neck_light = (0.52 + 0.45 * jnp.clip((y - 1.25) / 0.5, 0.0, 1.0)) * (0.75 + 0.25 * bump((x / 0.75) ** 2))
  cloth_light = (0.70 + 0.30 * bump((x / 1.6) ** 2)) * (1.0 - 0.25 * stroke(shoulder - 0.05, 0.02, foot))
  return cover(neck, 2 * foot), cover(shoulder, 2 * foot), neck_light, cloth_light


def _eyeball(
  face: Face, scene: Scene, x: jax.Array, v: jax.Array, edges: geometry.EyeEdges, foot: jax.Array
) -> tuple[jax.Array, ...]:
  """Coverage of iris and pupil, light on iris and eyeball, and the reflection of the lamp, at v coordinates."""
  ex = x - jnp.where(x < 0.0, -1.0, 1.0) * face.identity.eye_x - scene.gaze[0]
  ey = v - scene.gaze[1] + 0.012
  radius, size = jnp.sqrt(ex * ex + ey * ey + 1e-8), 0.102
  iris_light = (0.7 + 5.0 * radius) * (1.0 - 0.6 * stroke(radius - size + 0.008, 0.010, foot))
  ball = 1.0 - 0.25 * jnp.minimum(jnp.abs(edges.t), 1.0) ** 3
  ball *= 1.0 - 0.45 * jnp.clip(1.0 - (v - edges.upper) / 0.06, 0.0, 1.0)  # shadow of the upper lid
  spot = jnp.maximum(0.030, 1.1 * foot)
  glint = 0.9 * hill(ex - 0.036 * jnp.sign(scene.light[0]), ey + 0.036, spot, spot)
  return cover(size - radius, 1.2 * foot), cover(0.044 - radius, 1.2 * foot), iris_light, ball, glint


def _cavity(
  face: Face, x: jax.Array, v: jax.Array, edges: geometry.MouthEdges, foot: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Coverage of teeth and tongue and the light on both, at v coordinates; the upper teeth are fixed, the rest move."""
  lip = face.identity.mouth_y
  floor = lip + edges.jaw
  tongue = jnp.clip(1.6 * hill(x, v - floor, 0.24, 0.16), 0.0, 1.0) * (edges.jaw > 0.1)
  gaps = 1.0 - 0.20 * stroke(jnp.abs(x) % 0.085 - 0.0425, 0.004, foot)
  upper = cover(lip + 0.055 - 0.10 * x * x - v, 1.5 * foot)
  lower = 0.85 * cover(v - floor + 0.020 - 0.10 * x * x, 1.5 * foot)
  dim = (1.0 - 0.75 * jnp.minimum((x / 0.34) ** 2, 1.0)) * gaps
  shade = 0.55 + 0.45 * jnp.clip((v - edges.slit + edges.up) / 0.07, 0.0, 1.0)  # shadow of the upper lip
  return jnp.maximum(upper, lower) * dim, tongue, shade


def _blur(picture: jax.Array, sigma: jax.Array) -> jax.Array:
  """Gaussian blur of [..., S, S] with a standard deviation in pixels; edge pixels are repeated outside."""
  size = picture.shape[-1]
  place = jnp.arange(size)
  offset = place[:, None] - place
  kernel = jnp.exp(-0.5 * (offset / jnp.maximum(sigma, 0.05)) ** 2)
  kernel = kernel / kernel.sum(1, keepdims=True)
  return kernel @ picture @ kernel.T
