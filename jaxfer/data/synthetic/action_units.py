"""Facial action units, the emotions they make up (paper 000, Tables 4 and 5), and the facial rig that they drive.

The tables give an action unit's value as a share of its range of motion (0 to 100). Their numbers are kept as
printed, though the ranges differ widely: happiness has the lip corner puller at 10 and is still a smile. So each
unit has a gain g (ours): a value a in [0, 1] moves the face by g a / (1 + (g - 1) a) of its full motion, which is
linear for g = 1, rises g times as steeply from rest otherwise, and is the full motion at a = 1 for every g.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

# Table 5, in the order of every action-unit vector of this package.
ACTION_UNITS: dict[int, str] = {
  1: "inner brow raiser",
  2: "outer brow raiser",
  4: "brow lowerer",
  5: "upper lid raiser",
  6: "cheek raiser",
  7: "lid tightener",
  8: "lips toward each other",
  9: "nose wrinkler",
  10: "upper lip raiser",
  11: "nasolabial deepener",
  12: "lip corner puller",
  13: "cheek puffer",
  14: "dimpler",
  15: "lip corner depressor",
  16: "lower lip depressor",
  17: "chin raiser",
  18: "lip pucker",
  20: "lip stretcher",
  23: "lip tightener",
  24: "lip pressor",
  25: "lips part (jaw closed)",
  26: "jaw drop",
  27: "mouth stretch",
  28: "lip suck",
  29: "jaw thrust",
  30: "jaw sideways",
  32: "lip bite",
  35: "cheek suck",
  41: "lid droop",
  43: "eyes closed",
  44: "squint",
  45: "blink",
  46: "wink",
}

# Table 4 (values out of 100), in the order of the class labels.
EMOTIONS: dict[str, dict[int, int]] = {
  "anger": {2: 30, 4: 60, 7: 50, 9: 20, 10: 10, 20: 15, 26: 30},
  "disgust": {2: 60, 4: 40, 9: 20, 15: 60, 17: 30},
  "fear": {1: 50, 2: 10, 4: 80, 5: 60, 15: 30, 20: 10, 26: 30},
  "happiness": {1: 65, 6: 70, 12: 10, 14: 10},
  "neutral": {},
  "sadness": {1: 40, 4: 50, 15: 40, 23: 20},
  "surprise": {1: 40, 2: 30, 5: 60, 15: 20, 16: 25, 20: 10, 26: 60},
}

# Paper 004's nine classes in the order of its tables, with the values of Table 4. The paper gives no values for the two
# classes that Table 4 lacks. They are our choice: excitement is joy with high arousal (an open mouth, raised brows,
# wide eyes), relaxed is a slight smile with eyes that close.
_NINE = {
  "joy": EMOTIONS["happiness"],
  **{name: EMOTIONS[name] for name in ("sadness", "fear", "surprise", "anger", "disgust")},
  "excitement": {1: 40, 2: 50, 5: 60, 12: 14, 25: 50, 26: 45},
  "relaxed": {12: 4, 43: 75},
  "neutral": EMOTIONS["neutral"],
}
CLASSES: dict[str, dict[str, dict[int, int]]] = {"seven": EMOTIONS, "nine": _NINE}

ORDER: tuple[int, ...] = tuple(ACTION_UNITS)
LABELS: tuple[str, ...] = tuple(EMOTIONS)


class Controls(NamedTuple):
  """Movements of the drawn face, each [2] (left and right in the picture), 0 at rest and about 1 at full motion."""

  brow_inner: jax.Array
  brow_outer: jax.Array
  brow_knit: jax.Array
  lid_raise: jax.Array
  lid_close: jax.Array
  lid_tight: jax.Array
  cheek_raise: jax.Array
  nose_wrinkle: jax.Array
  upper_lip: jax.Array
  lower_lip: jax.Array
  corner_out: jax.Array
  corner_up: jax.Array
  lip_roll: jax.Array
  lip_bite: jax.Array
  pucker: jax.Array
  fold: jax.Array
  dimple: jax.Array
  puff: jax.Array
  chin_raise: jax.Array
  jaw_drop: jax.Array
  jaw_thrust: jax.Array
  jaw_side: jax.Array


# Unit -> (gain, share of each control at full motion).
RIG: dict[int, tuple[float, dict[str, float]]] = {
  1: (2.0, {"brow_inner": 1.0}),
  2: (1.5, {"brow_outer": 1.0}),
  4: (1.5, {"brow_knit": 1.0}),
  5: (1.5, {"lid_raise": 1.0}),
  6: (1.0, {"cheek_raise": 1.0, "lid_tight": 0.5}),
  7: (1.5, {"lid_tight": 1.0}),
  8: (1.0, {"pucker": 0.5, "lip_roll": 0.4}),
  9: (5.0, {"nose_wrinkle": 1.0, "upper_lip": 0.35, "fold": 0.5, "lid_tight": 0.25, "brow_knit": 0.2}),
  10: (3.0, {"upper_lip": 1.0, "fold": 0.5}),
  11: (1.0, {"fold": 1.2}),
  12: (14.0, {"corner_up": 1.05, "corner_out": 0.75, "fold": 0.7, "cheek_raise": 0.3, "upper_lip": 0.15}),
  13: (1.0, {"puff": 1.0, "corner_up": 0.4}),
  14: (3.0, {"dimple": 1.0, "corner_out": 0.3, "lip_roll": 0.2}),
  15: (2.5, {"corner_up": -0.8, "corner_out": 0.05}),
  16: (1.5, {"lower_lip": 1.0}),
  17: (1.5, {"chin_raise": 1.0}),
  18: (1.0, {"pucker": 1.0}),
  20: (2.5, {"corner_out": 1.0, "corner_up": -0.15}),
  23: (2.5, {"lip_roll": 0.7, "pucker": 0.25}),
  24: (1.0, {"lip_roll": 0.9}),
  25: (1.0, {"lower_lip": 0.45, "upper_lip": 0.3}),
  26: (1.5, {"jaw_drop": 0.75}),
  27: (1.0, {"jaw_drop": 1.1}),
  28: (1.0, {"lip_roll": 1.25}),
  29: (1.0, {"jaw_thrust": 1.0}),
  30: (1.0, {"jaw_side": 1.0}),
  32: (1.0, {"lip_bite": 1.0, "upper_lip": 0.25}),
  35: (1.0, {"puff": -1.0}),
  41: (1.0, {"lid_close": 0.45}),
  43: (1.0, {"lid_close": 1.0}),
  44: (1.0, {"lid_tight": 0.9, "lid_close": 0.25, "cheek_raise": 0.3}),
  45: (1.0, {"lid_close": 1.0}),
  46: (1.0, {"lid_close": 1.0, "cheek_raise": 0.4}),
}

GAINS = np.array([RIG[unit][0] for unit in ORDER], np.float32)
_WEIGHTS = np.array([[RIG[unit][1].get(c, 0.0) for c in Controls._fields] for unit in ORDER], np.float32)
# A wink is the only unit that moves only one side.
_SIDES = np.array([[1.0, 1.0 if unit != 46 else 0.0] for unit in ORDER], np.float32).T


def emotion_table(classes: str = "seven") -> np.ndarray:
  """Returns the action units of a set of `CLASSES`, float32 [labels, 33] in [0, 1], with columns in `ORDER`."""
  rows = CLASSES[classes].values()
  return np.array([[units.get(unit, 0) / 100 for unit in ORDER] for units in rows], np.float32)


def controls(action_units: jax.Array) -> Controls:
  """Turns action units [2 sides, 33] in [0, 1] into the rig's controls, each [2]."""
  value = jnp.clip(action_units, 0.0, 1.0) * _SIDES
  moved = GAINS * value / (1.0 + (GAINS - 1.0) * value)
  return Controls(*jnp.moveaxis(moved @ _WEIGHTS, -1, 0))
