"""Finds the TPU for which a program is traced, if any."""

import functools

import jax


@functools.cache
def _machine() -> frozenset[str]:
  try:
    return frozenset(device.device_kind for device in jax.devices("tpu"))
  except RuntimeError:
    return frozenset()


def tpu_kinds() -> frozenset[str]:
  """Returns the kinds of TPUs that the program may be for, such as "TPU v5 lite"; empty if it is not for a TPU.

  A mesh in context (`jax.set_mesh`, `jax.sharding.use_abstract_mesh`) names the device, which this machine need not
  have. Without a mesh, the TPUs of this machine are returned.
  """
  device = jax.sharding.get_abstract_mesh().abstract_device
  if device is None:
    return _machine()
  return frozenset([device.device_kind] if device.device_kind.startswith("TPU") else [])
