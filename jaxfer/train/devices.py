"""Chooses the devices of a training, and how they divide its members and batches."""

from collections.abc import Sequence

import jax

from jaxfer.errors import UserError


def divide(members: int, batch_size: int, devices: int) -> tuple[int, int]:
  """Chooses the shape of the device mesh.

  Args:
    members: number of members that train at once.
    batch_size: number of examples in a member's batch.
    devices: number of devices.

  Returns:
    (rows, shards) such that rows divides `members`, shards divides `batch_size`, and rows * shards is at most
    `devices`. Among these, the shape that uses the most devices is chosen. Ties go to the shape with the most rows,
    because members need not communicate.
  """
  found = [
    (rows, shards)
    for rows in range(1, min(devices, members) + 1)
    for shards in range(1, devices // rows + 1)
    if members % rows == 0 and batch_size % shards == 0
  ]
  return max(found, key=lambda division: (division[0] * division[1], division[0]))


def requested_devices(requested: int | None) -> list[jax.Device]:
  """Returns the first `requested` devices, or all devices if `requested` is None (`execution.devices`).

  Raises:
    UserError: `requested` is below 1, or above the number of devices.
  """
  devices = jax.devices()
  if requested is not None and not 1 <= requested <= len(devices):
    raise no_such_devices(requested, devices)
  return list(devices[:requested])


def no_such_devices(requested: int, devices: Sequence[jax.Device]) -> UserError:
  """Returns the error for a requested number of devices that is not available."""
  there = f"execution.devices={requested}: JAX sees {len(devices)} ({devices[0].device_kind}): take 1"
  there += f" to {len(devices)}" if len(devices) > 1 else ""
  if devices[0].platform != "cpu" or requested < 1:
    return UserError(there)
  return UserError(
    f"{there}, or set JAX_NUM_CPU_DEVICES={requested} in the environment for virtual CPU devices"
  )
