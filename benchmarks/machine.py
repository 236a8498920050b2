"""Describes the machine of a benchmark: versions, threads, device, and the measured peak rates of the device."""

import datetime
import functools
import importlib.metadata
import json
import os
import pathlib
import platform
import re
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "torch", "keras", "scikit-learn")
ROOT = pathlib.Path(__file__).resolve().parent.parent


def threads() -> int:
  """Returns the number of CPU threads for every contender: the cores that this process may use, as counted by XLA."""
  return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cpu() -> str:
  info = pathlib.Path("/proc/cpuinfo")
  if info.exists() and (match := re.search(r"^model name\s*: (.+)$", info.read_text(), re.MULTILINE)):
    return match[1]
  return platform.processor() or platform.machine()


def _git(*arguments: str) -> str | None:
  try:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
  except (OSError, subprocess.CalledProcessError):
    return None
  return done.stdout.strip()


def _versions() -> dict[str, str | None]:
  found: dict[str, str | None] = {}
  for package in _PACKAGES:
    try:
      found[package] = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
      found[package] = None
  return found


def environment() -> dict[str, Any]:
  """Returns device, threads, versions and commit. Without git, the commit is $JAXFER_COMMIT or "unknown"."""
  device = jax.devices()[0]
  changes = _git("status", "--porcelain", "--untracked-files=no")
  return {
    "platform": device.platform,
    "device_kind": device.device_kind,
    "device_count": jax.device_count(),
    "platform_version": device.client.platform_version,
    "cpu": _cpu(),
    "threads": threads(),
    "os": f"{platform.system()} {platform.machine()}",
    "python": platform.python_version(),
    "versions": _versions(),
    "commit": _git("rev-parse", "HEAD") or os.environ.get("JAXFER_COMMIT", "unknown"),
    "uncommitted_changes": None if changes is None else bool(changes),
    "xla_flags": os.environ.get("XLA_FLAGS", ""),
    "load_average": round(os.getloadavg()[0], 2),
    "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
  }


def slug(environment: Mapping[str, Any]) -> str:
  """Returns device and JAX version as part of a file name, such as "cpu-amd-epyc-2threads-jax0.10.2"."""
  device = environment["device_kind"]
  if environment["platform"] == "cpu":
    device = f"cpu {environment['cpu']} {environment['threads']}threads"
  words = re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")
  return f"{words}-jax{environment['versions']['jax']}"


def memory(compiled: jax.stages.Compiled) -> dict[str, int] | None:
  """Returns the bytes of a compiled program by purpose, as planned by the compiler; None if it does not report them."""
  if (plan := compiled.memory_analysis()) is None:
    return None
  names = ("argument", "output", "temp", "alias", "generated_code")
  sizes = {f"{name}_bytes": int(getattr(plan, f"{name}_size_in_bytes")) for name in names}
  peak = sizes["argument_bytes"] + sizes["output_bytes"] + sizes["temp_bytes"] - sizes["alias_bytes"]
  return {**sizes, "peak_bytes": peak}


def _median_seconds(call: Callable[[], Any], runs: int) -> float:
  for _ in range(2):
    jax.block_until_ready(call())
  taken = []
  for _ in range(runs):
    start = time.perf_counter()
    jax.block_until_ready(call())
    taken.append(time.perf_counter() - start)
  return statistics.median(taken)


@functools.cache
def ceilings(quick: bool) -> dict[str, Any]:
  """Measures the rates of the device for a large matrix product of random numbers, and for copying memory.

  Returns:
    "matmul": {"float32" (at the default precision, TF32 on some GPUs), "float32_highest", "bfloat16"} in FLOP/s;
    "copy": bytes/s, bytes read plus bytes written; "size": rows of the matrices; "copy_bytes": size of the array.
  """
  accelerator = jax.default_backend() != "cpu"
  runs = 3 if quick else 10
  size = 512 if quick else 8192 if accelerator else 2048
  copied = 2**24 if quick else 2**32 if accelerator else 2**28
  a, b = jax.random.normal(jax.random.key(0), (2, size, size), jnp.float32)
  matmul = {}
  for name, dtype, precision in (
    ("float32", jnp.float32, "default"),
    ("float32_highest", jnp.float32, "highest"),
    ("bfloat16", jnp.bfloat16, "default"),
  ):
    x, y = a.astype(dtype), b.astype(dtype)
    product = jax.jit(functools.partial(jnp.matmul, precision=precision))
    matmul[name] = 2 * size**3 / _median_seconds(functools.partial(product, x, y), runs)

  # The array is donated, so that no new pages are touched: every element is read and written in place.
  negate = jax.jit(jnp.negative, donate_argnums=0)
  held = [jax.random.normal(jax.random.key(1), (copied // 4,), jnp.float32)]

  def copy():
    held[0] = negate(held[0])
    return held[0]

  copy_rate = 2 * copied / _median_seconds(copy, runs)
  return {"matmul": matmul, "copy": copy_rate, "size": size, "copy_bytes": copied}


if __name__ == "__main__":
  print(json.dumps(environment()))
