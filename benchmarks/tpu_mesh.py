"""Measures what chips exchange: our training steps are compiled for four TPU chips, and their collectives are counted.

  python -m benchmarks.tpu_mesh [--only TEXT] [--topology v5e:2x2] [--output FILE]

Each step is the program that `jaxfer.train` runs with the driver `steps`: sampling and augmentation, sums of the
gradients, statistics over the batch, the optimizer, and the check for finite values. It is compiled three ways for
four chips: one training with its batch divided among all, four trainings side by side, and two trainings with each
batch divided in two. For another topology, such as v5e:4x4, it is compiled only with its batch divided among all
chips. Nothing runs. A collective is an operation of the compiled program in which chips exchange data;
its bytes are those of its results on one chip. The time of collectives on more chips is estimated on paper from the
published bandwidth.

The models have the parameters that `benchmarks.tpu` uses. Images and batches are small, since neither changes what is
exchanged. Results go to standard output and, as records of the common schema, to a file.

The estimate for more chips makes four assumptions. Each chip has the batch of the committed case of
`benchmarks.tpu` and computes for as long as that case says, in cycles of the static schedule, the lower of the two
counts. An all-reduce of B bytes over n chips moves 2 B (n - 1) / n bytes through the links of each chip. Each
collective also waits a microsecond for each of the sqrt(n) hops of a square torus. Nothing of this overlaps with
computing.
"""

import argparse
import dataclasses
import datetime
import functools
import math
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import harness, records, tpu, tpu_compile
from jaxfer.kernels.conv_recurrence import Implementation
from jaxfer.systems import elderly_transfer, identity_expression_vae, landmark_fusion, two_stream_conv_rnn
from jaxfer.systems.elderly_transfer.model import FaceClassifier
from jaxfer.systems.identity_expression_vae.model import IdentityExpressionVAE
from jaxfer.systems.landmark_fusion.model import LandmarkFusion
from jaxfer.systems.two_stream_conv_rnn.model import TwoStreamConvRNN
from jaxfer.train.placement import Placement
from jaxfer.train.stage import Stage
from jaxfer.train.state import begin

TOPOLOGY = "v5e:2x2"
# Further ways to divide four chips: shards of a batch.
BY_MEMBERS = {"4 members side by side": 1, "2 members, each batch divided in 2": 2}
ROWS, BATCH = 64, 16
# Published for a v5e chip (Google Cloud's page on TPU v5e): 1,600 Gbit/s between chips, 1.5 GHz.
LINKS, CLOCK = 200e9, 1.5e9
HOP_SECONDS = 1e-6  # Our assumption.
CHIPS = 8, 64, 256
_OPERATION = re.compile(
  r"= (?P<shape>.*?) (?P<name>all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)(?P<start>-start)?\("
)
_ARRAY = re.compile(r"(?P<dtype>[a-z]+\d+)\[(?P<sides>[\d,]*)\]")
_BYTES = {"f32": 4, "bf16": 2, "s32": 4, "u32": 4, "f16": 2, "pred": 1, "s8": 1, "u8": 1}


@dataclasses.dataclass(frozen=True)
class Step:
  """A training step to compile.

  Attributes:
    stage: stage of the system.
    hparams: its hyperparameters.
    variables: shapes of one member's variables.
    data: shapes of the resident arrays.
  """

  stage: Stage
  hparams: Mapping[str, float]
  variables: Any
  data: Mapping[str, jax.ShapeDtypeStruct]


@dataclasses.dataclass(frozen=True)
class Collective:
  """A collective operation: its name, and the bytes of its results on one chip."""

  name: str
  bytes: int


# The committed case and implementation of `benchmarks.tpu` with the cycles of each step.
CASES = {
  "two_stream_conv_rnn, scan": (
    "two_stream_conv_rnn/train_step/b16-t16-s64-f16-32-64-128/bfloat16",
    "jaxfer",
  ),
  "two_stream_conv_rnn, Pallas": (
    "two_stream_conv_rnn/train_step/b16-t16-s64-f16-32-64-128/bfloat16",
    "jaxfer_pallas",
  ),
  "elderly_transfer, ResNet18": ("resnet18/train_step/b128-s112/bfloat16", "jaxfer"),
  "elderly_transfer, ResNet50": ("resnet50/train_step/b128-s112/bfloat16", "jaxfer"),
  "landmark_fusion": ("landmark_fusion/train_step/b64-s224/bfloat16", "jaxfer"),
  "identity_expression_vae, identity": ("identity_expression_vae/identity_step/b64-s64/bfloat16", "jaxfer"),
  "identity_expression_vae, expression": (
    "identity_expression_vae/expression_step/b64-s64/bfloat16",
    "jaxfer",
  ),
}


def two_stream(implementation: Implementation) -> Step:
  """The two-stream conv-RNN with 16 to 128 features, on clips of 8 frames of 32 pixels."""
  model = TwoStreamConvRNN(7, features=(16, 32, 64, 128), dtype=jnp.bfloat16, implementation=implementation)
  (stage,), hparams = two_stream_conv_rnn.SYSTEM.recipe(model, 1)
  clips = [jnp.zeros((1, 1, 32, 32, channels)) for channels in (3, 2)]
  data = {
    "frames": jax.ShapeDtypeStruct((ROWS, 8, 32, 32, 3), jnp.uint8),
    "flow": jax.ShapeDtypeStruct((ROWS, 8, 32, 32, 2), jnp.int16),
    "label": jax.ShapeDtypeStruct((ROWS,), jnp.int32),
  }
  return Step(stage, hparams, jax.eval_shape(model.init, jax.random.key(0), *clips), data)


def _image_step(system: Any, model: Any, size: int, which: int = 0) -> Step:
  """A stage of a system that reads images."""
  stages, hparams = system.recipe(model, 1)
  data = {
    "image": jax.ShapeDtypeStruct((ROWS, size, size, 3), jnp.uint8),
    "label": jax.ShapeDtypeStruct((ROWS,), jnp.int32),
    "subject": jax.ShapeDtypeStruct((ROWS,), jnp.int32),
    "landmarks": jax.ShapeDtypeStruct((ROWS, 37, 2), jnp.float32),
  }
  one = {name: np.zeros((1, *array.shape[1:]), array.dtype) for name, array in data.items()}
  variables = jax.eval_shape(lambda key: system.init(model, one, key), jax.random.key(0))
  return Step(stages[which], hparams, variables, data)


def steps() -> dict[str, Any]:
  """Returns a function that makes each step, by name."""

  def resnet(net):
    return _image_step(
      elderly_transfer.SYSTEM, FaceClassifier(7, net=net, image_size=64, dtype=jnp.bfloat16), 64
    )

  # The stage of the landmark net and the head, as in `benchmarks.convnets`. Other sizes need other kernels.
  fusion = lambda: LandmarkFusion(7, dtype=jnp.bfloat16)  # noqa: E731
  vae = lambda: IdentityExpressionVAE(64, dtype=jnp.bfloat16)  # noqa: E731
  return {
    "two_stream_conv_rnn, scan": lambda: two_stream("auto"),
    "two_stream_conv_rnn, Pallas": lambda: two_stream("pallas"),
    "elderly_transfer, ResNet18": lambda: resnet("resnet18"),
    "elderly_transfer, ResNet50": lambda: resnet("resnet50"),
    "landmark_fusion": lambda: _image_step(landmark_fusion.SYSTEM, fusion(), 224, 1),
    "identity_expression_vae, identity": lambda: _image_step(identity_expression_vae.SYSTEM, vae(), 64),
    "identity_expression_vae, expression": lambda: _image_step(identity_expression_vae.SYSTEM, vae(), 64, 1),
  }


def divisions(chips: int) -> dict[str, int]:
  """Returns the ways to divide chips: shards of a batch by name."""
  return {f"batch divided among {chips}": chips} | (BY_MEMBERS if chips == 4 else {})


def lower(step: Step, placement: Placement) -> jax.stages.Lowered:
  """Lowers the engine's step on a placement."""
  state = placement.abstract(jax.eval_shape(lambda v: begin(step.stage, v), step.variables))
  data = placement.abstract_data(step.data)
  return placement.lower(step.stage, "steps", state, data, tuple(step.hparams), BATCH, 2)


def collectives(text: str) -> list[Collective]:
  """Returns the collectives of a compiled program, from its text."""
  found = []
  for line in text.splitlines():
    if match := _OPERATION.search(line):
      arrays = [
        _BYTES[array["dtype"]] * math.prod(map(int, filter(None, array["sides"].split(","))))
        for array in _ARRAY.finditer(match["shape"])
      ]
      # The type of an asynchronous operation contains its operands besides its results.
      found.append(Collective(match["name"], sum(arrays) // (2 if match["start"] else 1)))
  return found


def committed_cycles(name: str) -> float:
  """Returns the cycles of a step on one chip by the static schedule, from the committed results."""
  case, implementation = CASES[name]
  return _cycles()[f"v5e:1x1/{case}", implementation]


@functools.cache
def _cycles() -> dict[tuple[str, str], float]:
  """Cycles of everything that `benchmarks.tpu` compiled, by case and implementation; later records replace earlier."""
  return {
    (record["case"], record["implementation"]): float(record["compiled"]["schedule_cycles"])
    for path in sorted(harness.RESULTS.glob("tpu-compiled-*.jsonl"))
    for record in records.read(path)
    if record["compiled"] and "schedule_cycles" in record["compiled"]
  }


def efficiency(found: Sequence[Collective], cycles: float, chips: int) -> float:
  """Estimates the share of time in which chips compute if the batch grows with their number; see the module."""
  moved = 2 * sum(one.bytes for one in found) * (chips - 1) / chips
  waiting = moved / LINKS + len(found) * math.sqrt(chips) * HOP_SECONDS
  return cycles / CLOCK / (cycles / CLOCK + waiting)


def record(
  name: str, division: str, shards: int, topology: str, compiled: tpu_compile.Compiled
) -> records.Record:
  """Returns the record of a compiled step's collectives, with the estimates if one training has all chips."""
  found = collectives(compiled.text)
  about: dict[str, Any] = {
    "collectives": [dataclasses.asdict(one) for one in found],
    "pallas_kernels": compiled.text.count('custom_call_target="tpu_custom_call"'),
  }
  if shards == len(tpu_compile.devices(topology)):
    cycles = committed_cycles(name)
    about["cycles_on_one_chip"] = cycles
    about["efficiency"] = {str(chips): efficiency(found, cycles, chips) for chips in CHIPS}
  return {
    "schema": records.SCHEMA,
    "benchmark": "tpu_mesh",
    "case": f"{topology}/{name}/{division}",
    "implementation": "jaxfer",
    "status": "compiled",
    "reason": None,
    "quick": False,
    "settings": {"topology": topology, "shards": shards, "batch": BATCH},
    "dtype": "bfloat16",
    "matmul_precision": "default",
    "seconds": None,
    "lower_seconds": compiled.lower_seconds,
    "compile_seconds": compiled.compile_seconds,
    "first_call_seconds": None,
    "memory": compiled.memory,
    "work": {"samples": BATCH},
    "rates": {},
    "shares": {},
    "agreement": None,
    "environment": tpu.environment(topology),
    "ceilings": tpu.ceilings(tpu.chip(topology)),
    "compiled": about,
  }


def main() -> None:
  flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  flags.add_argument("--only", default="", metavar="TEXT", help="steps whose name contains this")
  flags.add_argument("--topology", default=TOPOLOGY, help="topology of the chips, such as v5e:4x4")
  flags.add_argument("--output", type=pathlib.Path, help="JSON lines to append to")
  arguments = flags.parse_args()
  jax.config.update("jax_enable_compilation_cache", False)
  jax.config.update("jax_disable_most_optimizations", False)
  devices = tpu_compile.devices(arguments.topology)
  date = datetime.datetime.now(datetime.UTC).date()
  path = arguments.output or harness.RESULTS / f"tpu-mesh-compiled-jax{jax.__version__}-{date}.jsonl"
  for name, make in steps().items():
    if arguments.only not in name:
      continue
    step = make()
    size = sum(4 * leaf.size for leaf in jax.tree.leaves(step.variables["params"]))
    print(f"{name}: parameters {size / 2**20:.2f} MiB", flush=True)
    for division, shards in divisions(len(devices)).items():
      placement = Placement(devices, shards, alone=shards == len(devices))
      mesh = placement.mesh.abstract_mesh

      def lowered(step=step, placement=placement, mesh=mesh):
        with jax.sharding.use_abstract_mesh(mesh):  # The mesh tells the library the kind of chip.
          return lower(step, placement)

      compiled = tpu_compile.compile_program(lowered, arguments.topology)
      made = record(name, division, shards, arguments.topology, compiled)
      records.append(path, [made])
      print(line(made), flush=True)


def line(made: records.Record) -> str:
  """Formats a record as text."""
  about = made["compiled"]
  found = [Collective(**one) for one in about["collectives"]]
  text = f"  {made['case']}: {summary(found)}; {about['pallas_kernels']} Pallas kernels"
  if "efficiency" in about:
    shares = ", ".join(f"{share:.1%} of {chips}" for chips, share in about["efficiency"].items())
    cycles = about["cycles_on_one_chip"]
    text += (
      f"\n    estimated on paper, not run: {cycles / 1e6:.1f} M cycles a step; efficiency {shares} chips"
    )
  return text


def summary(found: Sequence[Collective]) -> str:
  """Describes the number of collectives by name, and the total bytes."""
  if not found:
    return "no collective"
  names = sorted({one.name for one in found})
  counted = [f"{sum(one.name == name for one in found)} {name}" for name in names]
  return f"{', '.join(counted)}, {sum(one.bytes for one in found) / 2**20:.2f} MiB"


if __name__ == "__main__":
  main()
