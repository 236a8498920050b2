"""How fast do batches come: data resident on the device, or handed over by the host for each batch?

All three end with the same augmented float32 batch on the device. `jaxfer_resident`: the device gathers the planned
rows of uint8 images. `host_uint8`: the host gathers, the device converts. `host_float32`: the host gathers and
converts, which sends four times the bytes.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import harness
from jaxfer.data.augment import random_affine
from jaxfer.kernels import warp


def augment(images: jax.Array, keys: jax.Array) -> jax.Array:
  """float32 images [batch, height, width, 3], mirrored, turned and shifted at random."""
  return warp.affine(
    images, random_affine(keys, (images.shape[1], images.shape[2]), rotation=10.0, shift=0.05)
  )


def scaled(images):
  """uint8 to [-1, 1], on the host or on the device."""
  return images.astype(np.float32) / np.float32(127.5) - np.float32(1)


def resident(data: np.ndarray, rows: np.ndarray, keys: jax.Array) -> harness.Program:
  """Gather, conversion and augmentation in one program; only the rows' numbers cross over."""
  run = jax.jit(lambda data, rows, keys: augment(scaled(data[rows]), keys))
  placed = jax.device_put(data)
  call = lambda: jax.block_until_ready(run(placed, rows, keys))  # noqa: E731
  return harness.Program(call, lambda: {"images": call()})


def from_host(data: np.ndarray, rows: np.ndarray, keys: jax.Array, *, convert: bool) -> harness.Program:
  """A batch is gathered on the host, converted there or not, and sent."""
  run = jax.jit(augment if convert else lambda images, keys: augment(scaled(images), keys))

  def call():
    batch = scaled(data[rows]) if convert else data[rows]
    return jax.block_until_ready(run(jax.device_put(batch), keys))

  return harness.Program(call, lambda: {"images": call()})


def main() -> None:
  session = harness.session("input_pipeline", harness.parser(__doc__).parse_args())
  n, size, batch = (64, 16, 8) if session.quick else (8192, 100, 256)
  rng = np.random.default_rng(0)
  data = rng.integers(0, 256, (n, size, size, 3), np.uint8)
  rows = rng.permutation(n)[:batch].astype(np.int32)
  keys = jax.random.split(jax.random.key(0), batch)
  arguments = data, rows, keys

  def reference():
    return {"images": augment(jnp.asarray(scaled(data[rows])), keys)}

  session.measure(
    harness.Case(
      name=f"n{n}-s{size}-b{batch}",
      settings={"images": n, "size": size, "batch": batch},
      work={"samples": batch},
      tolerance=1e-4 if session.platform == "cpu" else 1e-2,
    ),
    [
      harness.Contender("jaxfer_resident", functools.partial(resident, *arguments)),
      harness.Contender("host_uint8", functools.partial(from_host, *arguments, convert=False)),
      harness.Contender("host_float32", functools.partial(from_host, *arguments, convert=True)),
    ],
    reference,
    "the same, operation by operation",
  )
  harness.finish(session)


if __name__ == "__main__":
  main()
