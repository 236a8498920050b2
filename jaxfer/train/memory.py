"""Device memory: how much of it is free for data, and how much a program takes."""

import jax

from jaxfer.data.stream import host_memory
from jaxfer.train import processes

# Fraction of the free memory that resident data may take. The rest is for the training.
SHARE = 0.5


def bytes_needed(compiled: jax.stages.Compiled) -> int:
  """Returns the bytes that a program takes on each device, including its arguments, as reported by the compiler."""
  memory = compiled.memory_analysis()
  assert memory is not None
  sizes = memory.argument_size_in_bytes, memory.output_size_in_bytes, memory.temp_size_in_bytes
  return sum(sizes) - memory.alias_size_in_bytes


def room(count: int | None = None) -> tuple[int | None, str]:
  """Returns how much memory resident data may take on each device.

  On CPU, the free memory of a device is the host's free memory divided by the number of devices. With several
  processes, the one with the least memory decides.

  Args:
    count: uses the first `count` devices of each process; None uses all.

  Returns:
    (bytes, description). The bytes are the fraction `SHARE` of the free memory of the device that has the least, or
    None if the free memory is unknown. The description says what was measured.
  """
  devices = jax.local_devices()[:count]
  if devices[0].platform == "cpu":
    host = host_memory()
    frees = [] if host is None else [host // len(devices)]
  else:
    stats = [device.memory_stats() or {} for device in devices]
    frees = [s["bytes_limit"] - s.get("bytes_in_use", 0) for s in stats if "bytes_limit" in s]
  least = processes.smallest(min(frees, default=None))
  if least is None:
    return None, "free memory unknown"
  return int(least * SHARE), f"limit {SHARE:.0%} of {least / 2**30:.3g} GiB free"
