"""Memory of devices: how much is free for data, and how much a program takes."""

import jax

from jaxfer.data.stream import host_memory

# The share of the free memory that resident data may take. The rest is for the training.
SHARE = 0.5


def bytes_needed(compiled: jax.stages.Compiled) -> int:
  """Bytes that a program takes on a device, arguments included, as the compiler reports."""
  memory = compiled.memory_analysis()
  assert memory is not None
  sizes = memory.argument_size_in_bytes, memory.output_size_in_bytes, memory.temp_size_in_bytes
  return sum(sizes) - memory.alias_size_in_bytes


def room(count: int | None = None) -> tuple[int | None, str]:
  """How much resident data may take on each of the first `count` devices (None: of all).

  Returns:
    Bytes, half of what is free where least is: of a device's memory where it tells, on CPU of the host's, divided among
    the devices; None where nothing could be measured. And what was measured, in words.
  """
  devices = jax.devices()[:count]
  if devices[0].platform == "cpu":
    host = host_memory()
    frees = [] if host is None else [host // len(devices)]
  else:
    stats = [device.memory_stats() or {} for device in devices]
    frees = [s["bytes_limit"] - s.get("bytes_in_use", 0) for s in stats if "bytes_limit" in s]
  if not frees:
    return None, "free memory unknown"
  return int(min(frees) * SHARE), f"limit {SHARE:.0%} of {min(frees) / 2**30:.3g} GiB free"
