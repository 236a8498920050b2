import jax.numpy as jnp
import numpy as np

from jaxfer.data.synthetic import action_units


def test_tables_are_the_papers():
  table = dict(zip(action_units.LABELS, action_units.emotion_table(), strict=True))
  fear, sadness = action_units.EMOTIONS["fear"], action_units.EMOTIONS["sadness"]
  assert set(fear) & set(sadness) == {1, 4, 15}
  assert max(fear, key=fear.get) == max(sadness, key=sadness.get) == 4
  assert len(action_units.ACTION_UNITS) == 33
  assert table["happiness"][action_units.ORDER.index(12)] == np.float32(0.10)
  assert not table["neutral"].any()
  assert action_units.LABELS == ("anger", "disgust", "fear", "happiness", "neutral", "sadness", "surprise")


def test_controls_rest_at_zero_and_reach_their_full_motion_at_one():
  rest = action_units.controls(jnp.zeros((2, 33)))
  assert all(not np.any(c) for c in rest)
  for unit, (gain, shares) in action_units.RIG.items():
    at = np.zeros((2, 33), np.float32)
    at[:, action_units.ORDER.index(unit)] = 1.0
    full, half = action_units.controls(jnp.asarray(at)), action_units.controls(jnp.asarray(0.5 * at))
    for name, share in shares.items():
      np.testing.assert_allclose(getattr(full, name)[0], share, rtol=1e-6)
      np.testing.assert_allclose(getattr(half, name)[0], share * gain / (gain + 1.0), rtol=1e-5)


def test_only_a_wink_moves_one_side():
  at = np.eye(33, dtype=np.float32)
  one_sided = [
    unit
    for unit, values in zip(action_units.ORDER, at, strict=True)
    if any(c[0] != c[1] for c in action_units.controls(jnp.stack([jnp.asarray(values)] * 2)))
  ]
  assert one_sided == [46]
