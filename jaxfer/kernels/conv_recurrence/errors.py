"""Errors of the implementations of a recurrence."""

from jaxfer.errors import UserError


class Unsuitable(UserError):
  """The images do not suit an implementation: they are too large for it, or cannot be folded."""
