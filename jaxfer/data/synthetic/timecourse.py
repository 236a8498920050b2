"""How an expression unfolds: courses in [0, 1] with a subject's own speed."""

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
    delay: When the onset begins, in [0, 0.2]; broadcasts with `time`.
    duration: How long the onset lasts, in [0.3, 0.75]; broadcasts with `time`.
    time_course: "onset_apex" (ends at the apex), "onset_apex_offset" (twice as fast, then relaxes to near rest) or
      "fleeting" (three times as fast, and at rest from the middle on).

  Returns:
    Activation in [0, 1], 0 at time 0; with delay + duration <= 1, "onset_apex" is 1 at time 1.
  """
  if time_course == "onset_apex":
    return ramp((time - delay) / duration)
  if time_course == "fleeting":
    return ramp((time - delay / 3.0) / (duration / 3.0)) * (1.0 - ramp((time - 0.25) / 0.2))
  rise = ramp((time - 0.5 * delay) / (0.5 * duration))
  fall = ramp((time - 0.62) / 0.36)
  return rise * (1.0 - 0.95 * fall)


def distraction(time: jax.Array) -> jax.Array:
  """The activation in [0, 1] of what moves after a fleeting expression is over: from the middle to the end."""
  return ramp((time - 0.5) / 0.25)
