"""The cases of `benchmarks.tpu`: our program and the peer's for each, and the layout of their arguments."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from benchmarks import (
  conv_rnn,
  conv_rnn_peers,
  conv_rnn_problem,
  convnets,
  convnets_peers,
  convnets_problem,
  harness,
  tpu_steps,
)
from benchmarks.conv_rnn_scan_peer import flax_scan

V5E, V6E, FOUR = "v5e:1x1", "v6e:1x1", "v5e:2x2"
OTHERS = "v5p:1x1x1", "v4:1x1x1"


@dataclasses.dataclass(frozen=True)
class Program:
  """One implementation of a case.

  Attributes:
    make: function that returns the program with its arguments for the whole batch on the host, without tracing it.
    batched: index of the first argument whose arrays are split over the devices along their first axis.
    manual: whether the program runs under `jax.shard_map` over the axis "data" and sums over it itself. Otherwise XLA
      partitions it, which is impossible with Pallas kernels.
  """

  make: Callable[[], harness.JaxProgram]
  batched: int = 1
  manual: bool = False

  def lower(self, devices: tuple[jax.Device, ...]) -> Any:
    """Lowers the program for devices, from shapes only."""
    mesh = Mesh(np.array(devices), ("data",))
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):  # The mesh tells the library the kind of chip.
      return self._lower(mesh)

  def _lower(self, mesh: Mesh) -> Any:
    program = self.make()
    whole = NamedSharding(mesh, PartitionSpec())
    parts = NamedSharding(mesh, PartitionSpec("data"))

    def shape(leaf, sharding):
      leaf = leaf if hasattr(leaf, "dtype") else np.asarray(leaf)
      place = sharding if leaf.ndim else whole
      return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place)

    split = [k >= self.batched for k in range(len(program.arguments))]
    placed = [
      jax.tree.map(functools.partial(shape, sharding=parts if s else whole), argument)
      for s, argument in zip(split, program.arguments, strict=True)
    ]
    if self.manual:
      specs = tuple(PartitionSpec("data") if s else PartitionSpec() for s in split)
      program.fn = jax.shard_map(
        program.fn, mesh=mesh, in_specs=specs, out_specs=PartitionSpec(), check_vma=False
      )
    return program.jitted.lower(*placed)


@dataclasses.dataclass(frozen=True)
class Case:
  """One case: `programs` by implementation, ours first.

  Attributes:
    samples: number of samples of one call.
    flops: FLOP of one call, if there is a formula (see `conv_rnn_problem` and `convnets_problem`).
  """

  topology: str
  workload: str
  dtype: str
  settings: Mapping[str, Any]
  samples: int
  flops: Callable[[], float] | None
  programs: Mapping[str, Program]

  @property
  def name(self) -> str:
    """Unique name in the benchmark."""
    return f"{self.topology}/{self.workload}"


def conv_rnn_case(problem: conv_rnn_problem.Problem, topology: str) -> Case:
  """Returns a layer with "auto", with every plausible implementation, and with kernels for packed input and output.

  The peer is stock Flax's layer, or the same cell of `nn.Conv` in `nn.scan` if Flax has none.
  """
  inputs = functools.cache(lambda: conv_rnn_problem.inputs_of(problem))
  peer, theirs = ("flax_scan", flax_scan) if problem.enhanced else ("flax", conv_rnn_peers.flax)
  programs = {"jaxfer": Program(lambda: conv_rnn.prepare(problem, inputs()))}
  for one in conv_rnn.implementations(problem.features, problem.size):
    programs[f"jaxfer_{one}"] = Program(lambda one=one: conv_rnn.prepare(problem, inputs(), one))  # type: ignore[misc]
  programs["jaxfer_pallas_packed"] = Program(lambda: conv_rnn.prepare_packed(problem, inputs()))
  for name, steps in ((peer, 1), (f"{peer}_unrolled", problem.time)):
    make = functools.partial(theirs, unroll=steps)
    programs[name] = Program(lambda make=make: make(problem, inputs(), None))  # type: ignore[misc]
  settings = {**dataclasses.asdict(problem), "topology": topology}
  return Case(topology, problem.name, problem.dtype, settings, problem.batch, lambda: problem.flops, programs)


def convnet_case(problem: convnets_problem.Problem, topology: str) -> Case:
  """Returns a training step of a convolutional net as in `benchmarks.convnets`; the peer is stock Flax."""
  inputs = functools.cache(lambda: convnets_problem.inputs_of(problem))
  programs = {
    "jaxfer": Program(lambda: convnets.prepare(problem, inputs()), batched=2),
    "flax": Program(lambda: convnets_peers.flax(problem, inputs(), None)),
  }
  settings = {**dataclasses.asdict(problem), "topology": topology}
  flops = lambda: convnets_problem.flops(problem, inputs())  # noqa: E731
  return Case(topology, problem.name, problem.dtype, settings, problem.batch, flops, programs)


def two_stream_case(
  batch: int, topology: str, time: int = 16, size: int = 64, features=tpu_steps.FEATURES
) -> Case:
  """Returns a training step of the two-stream conv-RNN in bfloat16."""
  several = topology == FOUR
  makes = tpu_steps.two_stream(batch, time, size, features, "bfloat16", axis_name="data" if several else None)
  programs = {
    name: Program(make, batched=2, manual=several and name in ("jaxfer", "jaxfer_pallas"))
    for name, make in makes.items()
  }
  workload = (
    f"two_stream_conv_rnn/train_step/b{batch}-t{time}-s{size}-f{'-'.join(map(str, features))}/bfloat16"
  )
  settings = {"batch": batch, "time": time, "size": size, "features": list(features), "topology": topology}
  streams = [
    conv_rnn_problem.Problem(
      "train_step", "conv_lstm", False, batch, time, size, channels, features, "bfloat16"
    )
    for channels in (3, 2)
  ]
  flops = lambda: sum(stream.flops for stream in streams)  # noqa: E731
  return Case(topology, workload, "bfloat16", settings, batch, flops, programs)


def vae_case(stage: str, batch: int, topology: str, size: int = 64, width: float = 1.0) -> Case:
  """Returns a training step of a stage of paper 003 in bfloat16."""
  makes = tpu_steps.vae(stage, batch, size, width, "bfloat16")
  programs = {name: Program(make, batched=2) for name, make in makes.items()}
  workload = f"identity_expression_vae/{stage}_step/b{batch}-s{size}/bfloat16"
  settings = {"stage": stage, "batch": batch, "size": size, "width": width, "topology": topology}
  return Case(topology, workload, "bfloat16", settings, batch, None, programs)


def conv_rnn_cases() -> list[Case]:
  """Returns ConvLSTM layers of four shapes, plain and enhanced."""
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

  # The choice table needs only the gradient.
  skips = [
    conv_rnn_case(dataclasses.replace(problem, enhanced=True), V5E) for problem in (shapes[1], shapes[3])
  ]
  elsewhere = [conv_rnn_case(first, topology) for topology in OTHERS]
  return both([*shapes[:1], *full, *shapes[1:], *enhanced], V5E) + both(shapes[:1], V6E) + skips + elsewhere


def step_cases() -> list[Case]:
  """Returns training steps in bfloat16 on one chip, and two of them on four chips, each with one chip's batch."""
  resnets = [
    convnets_problem.Problem(net, "train_step", 128, 112, "bfloat16") for net in ("resnet18", "resnet50")
  ]
  fusion = convnets_problem.Problem(convnets_problem.FUSION, "train_step", 64, 224, "bfloat16", num_classes=7)
  four = dataclasses.replace(resnets[0], batch=4 * resnets[0].batch)
  return [
    *(convnet_case(problem, V5E) for problem in (*resnets, fusion)),
    *(vae_case(stage, 64, V5E) for stage in ("identity", "expression")),
    two_stream_case(16, V5E),
    convnet_case(four, FOUR),
    two_stream_case(4 * 16, FOUR),
  ]


def cases() -> list[Case]:
  """Returns all cases, the headline first."""
  return [*conv_rnn_cases(), *step_cases()]


def memory_cases() -> list[tuple[Callable[[int], Case], tuple[int, int]]]:
  """Returns training steps for which the largest batch is searched: a case by batch, and the two batches of the line.

  The activations of a small batch of the VAE are in VMEM, so its line starts at larger batches.
  """

  def resnet(net: str) -> Callable[[int], Case]:
    return lambda batch: convnet_case(
      convnets_problem.Problem(net, "train_step", batch, 112, "bfloat16"), V5E
    )

  return [
    (resnet("resnet18"), (128, 256)),
    (resnet("resnet50"), (128, 256)),
    (lambda batch: vae_case("identity", batch, V5E), (1024, 2048)),
    (lambda batch: vae_case("expression", batch, V5E), (1024, 2048)),
    (lambda batch: two_stream_case(batch, V5E), (16, 32)),
  ]


def quick_cases() -> list[Case]:
  """Returns one tiny case of each kind."""
  layer = conv_rnn_problem.Problem(batch=2, time=3, size=8, channels=4, features=(4,), dtype="bfloat16")
  net = convnets_problem.Problem("resnet18", "train_step", 4, 64, "bfloat16", 0.125, 10)
  return [
    conv_rnn_case(layer, V5E),
    conv_rnn_case(dataclasses.replace(layer, operation="forward", enhanced=True), V5E),
    convnet_case(net, V5E),
    vae_case("identity", 2, V5E, width=0.125),
    two_stream_case(4, FOUR, 2, 8, (4, 4)),
  ]
