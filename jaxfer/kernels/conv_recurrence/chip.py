"""Which TPU a program is traced for, if any."""

import functools

import jax


@functools.cache
def _machine() -> frozenset[str]:
  try:
    return frozenset(device.device_kind for device in jax.devices("tpu"))
  except RuntimeError:
    return frozenset()


def tpu_kinds() -> frozenset[str]:
  """Kinds of the TPUs that the program may be for, such as "TPU v5 lite"; empty where it is not for a TPU.

  A mesh in context (`jax.set_mesh`, `jax.sharding.use_abstract_mesh`) names the device, also on a machine that does not
  have it. Without a mesh they are the TPUs of this machine.
  """
  device = jax.sharding.get_abstract_mesh().abstract_device
  if device is None:
    return _machine()
  return frozenset([device.device_kind] if device.device_kind.startswith("TPU") else [])
