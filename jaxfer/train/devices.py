"""Chooses the devices of a training, and how they divide its members and batches."""

from collections.abc import Sequence

import jax

from jaxfer.errors import UserError


def divide(members: int, batch_size: int, devices: int, processes: int = 1) -> tuple[int, int]:
  """Chooses the shape of the device mesh.

  Args:
    members: number of members that train at once.
    batch_size: number of examples in a member's batch.
    devices: number of devices.
    processes: number of processes, each of which has equally many of the devices.

  Returns:
    (rows, shards) such that rows divides `members`, shards divides `batch_size`, and rows * shards is at most
    `devices`. All processes use equally many devices, and have whole rows or equal parts of one. Among these, the
    shape that uses the most devices is chosen. Ties go to the shape with the most rows, because members need not
    communicate.

  Raises:
    UserError: there is no such shape, which can happen with several processes only.
  """
  found = [
    (rows, shards)
    for rows in range(1, min(devices, members) + 1)
    for shards in range(1, devices // rows + 1)
    if members % rows == 0 and batch_size % shards == 0 and _even(rows, shards, processes)
  ]
  if not found:
    raise UserError(
      f"{processes} processes cannot share {'batches' if members == 1 else f'{members} trainings or batches'} of "
      f"{batch_size}: take batch_size={-(-batch_size // processes) * processes}, or other numbers of processes"
    )
  return max(found, key=lambda division: (division[0] * division[1], division[0]))


def _even(rows: int, shards: int, processes: int) -> bool:
  """Whether all processes have equal parts of a mesh: whole rows, or parts of one row."""
  own, rest = divmod(rows * shards, processes)
  return rest == 0 and own > 0 and (own % shards == 0 or shards % own == 0)


def first_of_each(devices: Sequence[jax.Device], number: int) -> tuple[jax.Device, ...]:
  """Returns `number` devices, equally many of each process, process by process."""
  processes = sorted({device.process_index for device in devices})
  each = number // len(processes)
  own = [[device for device in devices if device.process_index == process] for process in processes]
  return tuple(device for some in own for device in some[:each])


def requested_devices(requested: int | None) -> list[jax.Device]:
  """Returns the first `requested` devices of each process, or all if `requested` is None (`execution.devices`).

  Raises:
    UserError: `requested` is below 1, or above the number of a process's devices.
  """
  devices, own = jax.devices(), jax.local_devices()
  if requested is None:
    return list(devices)
  if not 1 <= requested <= len(own):
    raise no_such_devices(requested, own)
  return list(first_of_each(devices, requested * jax.process_count()))


def no_such_devices(requested: int, devices: Sequence[jax.Device]) -> UserError:
  """Returns the error for a requested number of devices that is not available."""
  there = f"execution.devices={requested}: JAX sees {len(devices)} ({devices[0].device_kind}): take 1"
  there += f" to {len(devices)}" if len(devices) > 1 else ""
  if devices[0].platform != "cpu" or requested < 1:
    return UserError(there)
  return UserError(
    f"{there}, or set JAX_NUM_CPU_DEVICES={requested} in the environment for virtual CPU devices"
  )
