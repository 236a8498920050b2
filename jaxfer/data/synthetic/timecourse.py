"""Time courses of expressions in [0, 1], with a different speed for each subject."""

import jax
import jax.numpy as jnp

TIME_COURSES = ("onset_apex", "onset_apex_offset", "fleeting")


def ramp(x: jax.Array) -> jax.Array:
  """Rises from 0 at x <= 0 to 1 at x >= 1 with zero speed at both ends."""
  x = jnp.clip(x, 0.0, 1.0)
  return x * x * (3.0 - 2.0 * x)


def course(time: jax.Array, delay: jax.Array, duration: jax.Array, time_course: str) -> jax.Array:
  """The activation of a movement over time.

  Args:
    time: In [0, 1] over the sequence, any shape.
    delay: Start of the onset, in [0, 0.2]; broadcasts with `time`.
    duration: Duration of the onset, in [0.3, 0.75]; broadcasts with `time`.
    time_course: "onset_apex" (ends at the apex), "onset_apex_offset" (onset twice as fast, then a return to near
      rest) or "fleeting" (three times as fast, and at rest from the middle on).

  Returns:
    Activation in [0, 1], 0 at time 0; for "onset_apex" it is 1 at time 1 if delay + duration <= 1.
  """
  if time_course == "onset_apex":
    return ramp((time - delay) / duration)
  if time_course == "fleeting":
    return ramp((time - delay / 3.0) / (duration / 3.0)) * (1.0 - ramp((time - 0.25) / 0.2))
  rise = ramp((time - 0.5 * delay) / (0.5 * duration))
  fall = ramp((time - 0.62) / 0.36)
  return rise * (1.0 - 0.95 * fall)


def distraction(time: jax.Array) -> jax.Array:
  """The activation in [0, 1] of movements after a fleeting expression, from the middle to the end."""
  return ramp((time - 0.5) / 0.25)
