import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfer.data.synthetic import action_units, geometry
from jaxfer.data.synthetic.geometry import Face
from jaxfer.data.synthetic.identity import sample_identity, sample_pose, sample_scene
from jaxfer.data.synthetic.landmarks import landmarks as eager_landmarks
from jaxfer.data.synthetic.render import pixel_grid, render, sensor

SIZE = 64
landmarks = jax.jit(eager_landmarks, static_argnums=1)


@pytest.fixture(scope="module")
def scene():
  scene = jax.jit(sample_scene)(jax.random.key(4))
  return scene._replace(blur=jnp.array(0.0), noise=jnp.array(0.0), ambient=jnp.array(0.9))


@pytest.fixture(scope="module")
def face():
  who = jax.jit(sample_identity)(jax.random.key(5))._replace(glasses=jnp.array(0.0))
  pose = jax.jit(sample_pose)(jax.random.key(6))
  return Face(who, action_units.controls(jnp.zeros((2, 33))), pose)


@functools.partial(jax.jit, static_argnums=3)
def draw(face, scene, previous, size):
  return render(face, scene, size, previous)


def showing(face, **units):
  values = np.zeros((2, 33), np.float32)
  for name, value in units.items():
    values[:, action_units.ORDER.index(int(name[2:]))] = value
  return face._replace(controls=action_units.controls(jnp.asarray(values)))


def warped(picture, flow):
  """Samples `picture` [S, S, 3] bilinearly at p - flow[p]."""
  rows, columns = np.indices(picture.shape[:2]).astype(np.float32)
  y = np.clip(rows - flow[..., 1], 0, picture.shape[0] - 1.001)
  x = np.clip(columns - flow[..., 0], 0, picture.shape[1] - 1.001)
  i, j, a, b = y.astype(int), x.astype(int), (y % 1)[..., None], (x % 1)[..., None]
  top = picture[i, j] * (1 - b) + picture[i, j + 1] * b
  return top * (1 - a) + (picture[i + 1, j] * (1 - b) + picture[i + 1, j + 1] * b) * a


def test_map_and_inverse_agree(face):
  face = showing(face, AU1=0.6, AU6=0.5, AU12=0.4, AU26=0.7, AU45=0.5)
  px, py = pixel_grid(32)

  @jax.jit
  def there_and_back(face, px, py):
    x, v = geometry.unplace(face, px, py)
    parted = geometry.unpart(face, x, v)
    return geometry.place(face, x, v), v, parted, geometry.part(face, x, parted.y)

  there, v, parted, back = jax.device_get(there_and_back(face, 0.8 * px, 0.8 * py))
  np.testing.assert_allclose(there, [0.8 * px, 0.8 * py], atol=2e-3)
  skin = (parted.eye < -1e-3) & (parted.mouth < -1e-3)
  assert 0.5 < skin.mean() < 1.0
  # The lids' and lips' reach ends where the two regions meet.
  np.testing.assert_allclose(back[skin], v[skin], atol=2e-3)


def test_same_face_has_zero_flow(face, scene):
  _, flow = draw(face, scene, face, SIZE)
  assert np.abs(flow).max() == 0.0


def test_translation_is_the_flow(face, scene):
  pose = face.pose
  before = face._replace(pose=pose._replace(x=pose.x - 0.0625, y=pose.y + 0.03125))  # 2 pixels, 1 pixel
  _, flow = draw(face, scene, before, SIZE)
  moved = np.abs(flow).sum(-1) > 0
  assert 0.3 < moved.mean() < 0.95
  np.testing.assert_allclose(flow[moved], np.broadcast_to([2.0, -1.0], flow[moved].shape), atol=1e-4)
  centre = flow[SIZE // 2, SIZE // 2]
  np.testing.assert_allclose(centre, [2.0, -1.0], atol=1e-4)


@pytest.mark.parametrize(
  "units",
  [{"AU26": 0.6, "AU1": 0.5, "AU2": 0.4}, {"AU12": 0.3, "AU6": 0.8}, {"AU4": 0.9, "AU9": 0.5, "AU7": 0.5}],
)
def test_warping_by_the_flow_explains_the_next_frame(face, scene, units):
  before, now = showing(face), showing(face, **units)
  now = now._replace(pose=now.pose._replace(yaw=now.pose.yaw + 0.06, x=now.pose.x + 0.03))
  first, _ = draw(before, scene, before, SIZE)
  second, flow = draw(now, scene, before, SIZE)
  head = np.abs(flow).sum(-1) > 0
  still = np.abs(np.asarray(second) - np.asarray(first))[head].mean()
  explained = np.abs(np.asarray(second) - warped(np.asarray(first), np.asarray(flow)))[head].mean()
  assert explained < 0.5 * still


def test_flow_is_the_motion_of_landmarks(face, scene):
  before = face
  now = showing(face, AU1=0.7, AU2=0.5, AU12=0.2)._replace(pose=face.pose._replace(yaw=face.pose.yaw + 0.05))
  _, flow = draw(now, scene, before, SIZE)
  flow, old, new = jax.device_get((flow, landmarks(before, SIZE), landmarks(now, SIZE)))
  for i in (0, 1, 2, 3, 4, 5, 6, 7):  # brows and the nose's ridge: visible skin away from openings and edges
    x, y = np.floor(np.asarray(new[i])).astype(int)
    np.testing.assert_allclose(flow[y, x], new[i] - old[i], atol=0.25)
  assert np.abs(new - old)[:6].max() > 1.0


def test_landmarks_lie_on_the_face_and_scale_with_the_picture(face):
  points = np.asarray(landmarks(face, SIZE))
  assert points.shape == (37, 2)
  assert ((points > 0) & (points < SIZE)).all()
  left, right, tip = points[13:19].mean(0), points[19:25].mean(0), points[8]
  assert left[0] < tip[0] < right[0]
  assert left[1] < tip[1] < points[[25, 31], 1].mean()
  assert points[25, 0] < points[31, 0]
  np.testing.assert_allclose(landmarks(face, 2 * SIZE), 2 * points, rtol=1e-5)


def test_open_mouth_and_closed_eyes_move_their_landmarks(face):
  rest, moved = (np.asarray(landmarks(f, SIZE)) for f in (face, showing(face, AU26=1.0, AU43=1.0)))
  height = lambda p: p[34, 1] - p[28, 1]  # noqa: E731
  opening = lambda p: p[17:19, 1].mean() - p[14:16, 1].mean()  # noqa: E731
  assert height(moved) > height(rest) + 4.0
  assert opening(rest) > 1.5
  assert opening(moved) < 0.35 * opening(rest)


def test_same_face_at_two_sizes(face, scene):
  small, _ = draw(face, scene, face, 32)
  large, _ = draw(face, scene, face, SIZE)
  reduced = np.asarray(large).reshape(32, 2, 32, 2, 3).mean((1, 3))
  assert np.abs(reduced - np.asarray(small)).mean() < 0.02
  assert np.corrcoef(reduced.ravel(), np.asarray(small).ravel())[0, 1] > 0.97


def test_every_action_unit_shows(face, scene):
  rest, _ = draw(face, scene, face, SIZE)
  pictures = [draw(showing(face, **{f"AU{unit}": 1.0}), scene, face, SIZE)[0] for unit in action_units.ORDER]
  change = np.abs(np.stack(pictures) - rest).max((1, 2, 3))
  assert [unit for unit, most in zip(action_units.ORDER, change, strict=True) if most < 0.05] == []


def test_sensor_noise_depends_on_the_frame(scene):
  noisy = scene._replace(noise=jnp.array(0.02))
  grey = jnp.full((8, 8, 3), 0.5)
  first, again, second = sensor(grey, noisy, 0), sensor(grey, noisy, 0), sensor(grey, noisy, 1)
  assert (first == again).all()
  assert not (first == second).all()
  assert 0.005 < np.std(first - grey) < 0.05
