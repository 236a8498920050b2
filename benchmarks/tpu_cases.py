"""What `benchmarks.tpu` compiles: cases, ours and the peer's program of each, and how their arguments are laid out."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from benchmarks import conv_rnn, conv_rnn_peers, conv_rnn_problem, harness
from benchmarks.conv_rnn_scan_peer import flax_scan

V5E, V6E, FOUR = "v5e:1x1", "v6e:1x1", "v5e:2x2"
HEADLINE = "conv_lstm/gradient/b8-t16-s32-c32-f32/bfloat16"


@dataclasses.dataclass(frozen=True)
class Program:
  """One implementation of a case.

  Attributes:
    make: traces nothing yet; holds the function and arguments of the whole batch, on the host.
    batched: index of the first argument whose arrays are split over the devices along their first axis.
  """

  make: Callable[[], harness.JaxProgram]
  batched: int = 1

  def lower(self, devices: tuple[jax.Device, ...]) -> Any:
    """The program lowered for devices, from shapes alone."""
    program = self.make()
    mesh = Mesh(np.array(devices), ("data",))
    whole = NamedSharding(mesh, PartitionSpec())
    parts = NamedSharding(mesh, PartitionSpec("data"))

    def shape(leaf, sharding):
      leaf = leaf if hasattr(leaf, "dtype") else np.asarray(leaf)
      place = sharding if leaf.ndim else whole
      return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place)

    placed = [
      jax.tree.map(functools.partial(shape, sharding=parts if k >= self.batched else whole), argument)
      for k, argument in enumerate(program.arguments)
    ]
    return program.jitted.lower(*placed)


@dataclasses.dataclass(frozen=True)
class Case:
  """One case: `programs` by implementation, ours first.

  Attributes:
    work: of one call, "samples" and where a formula counts them "flops" (see `conv_rnn_problem` and `convnets_problem`).
  """

  topology: str
  workload: str
  dtype: str
  settings: Mapping[str, Any]
  work: Mapping[str, float]
  programs: Mapping[str, Program]

  @property
  def name(self) -> str:
    """Unique in the benchmark."""
    return f"{self.topology}/{self.workload}"


def conv_rnn_case(problem: conv_rnn_problem.Problem, topology: str) -> Case:
  """A layer; the peer is stock Flax's, or the same cell of `nn.Conv` in `nn.scan` where Flax has none."""
  inputs = functools.cache(lambda: conv_rnn_problem.inputs_of(problem))
  peer, theirs = ("flax_scan", flax_scan) if problem.enhanced else ("flax", conv_rnn_peers.flax)
  programs = {"jaxfer": Program(lambda: conv_rnn.prepare(problem, inputs()))}
  for name, steps in ((peer, 1), (f"{peer}_unrolled", problem.time)):
    programs[name] = Program(lambda steps=steps: theirs(problem, inputs(), None, unroll=steps))
  settings = {**dataclasses.asdict(problem), "topology": topology}
  work = {"samples": problem.batch, "flops": problem.flops}
  return Case(topology, problem.name, problem.dtype, settings, work, programs)


def conv_rnn_cases() -> list[Case]:
  """ConvLSTM layers of four shapes, two of them enhanced too."""
  first = conv_rnn_problem.Problem(dtype="bfloat16")
  third = dataclasses.replace(first, batch=16, size=16, channels=64, features=(64,))
  shapes = [
    first,
    dataclasses.replace(first, batch=16, size=64, channels=16, features=(16,)),
    third,
    dataclasses.replace(first, batch=16, size=8, channels=128, features=(128,)),
  ]
  full = [dataclasses.replace(first, dtype="float32")]
  enhanced = [dataclasses.replace(p, enhanced=True) for p in (first, third)]

  def both(problems, topology):
    return [
      conv_rnn_case(dataclasses.replace(problem, operation=operation), topology)
      for problem in problems
      for operation in ("gradient", "forward")
    ]

  return both([*shapes[:1], *full, *shapes[1:], *enhanced], V5E) + both(shapes[:1], V6E)
