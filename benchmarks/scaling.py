"""Estimates what training on more chips and hosts would cost, from committed records.

  python -m benchmarks.scaling [--write]

Prints the page benchmarks/SCALING.md, or writes it with --write. It reads what `benchmarks.tpu_mesh` compiled for
several TPU v5e chips, the cycles of a step from `benchmarks.tpu`, and the rates of `benchmarks.input_pipeline`. It
compiles and runs nothing. `benchmarks.tpu_mesh` explains how the efficiency is estimated.
"""

import argparse
import dataclasses
from collections.abc import Sequence

from benchmarks import harness, machine, records, tpu_mesh

PAGE = machine.ROOT / "benchmarks" / "SCALING.md"
CHIPS_OF_A_HOST = 4  # In a TPU v5e slice that spans several hosts.


@dataclasses.dataclass(frozen=True)
class System:
  """A training step of a system.

  Attributes:
    name: key of the step in `tpu_mesh.CASES`.
    words: name of the step on the page.
    samples: batch size of one chip.
    bytes: size of one sample as it is sent to a chip: images as uint8, flow as int16, landmarks as float32.
  """

  name: str
  words: str
  samples: int
  bytes: int


_CLIP = 16 * 64 * 64 * (3 + 2 * 2)  # 16 frames of 64 x 64 pixels: 3 bytes of RGB, and 2 int16 values of flow.
SYSTEMS = (
  System("two_stream_conv_rnn, Pallas", "two-stream conv-RNN, Pallas", 16, _CLIP),
  System("two_stream_conv_rnn, scan", "two-stream conv-RNN, scan", 16, _CLIP),
  System("elderly_transfer, ResNet18", "elderly transfer, ResNet18", 128, 112 * 112 * 3),
  System("elderly_transfer, ResNet50", "elderly transfer, ResNet50", 128, 112 * 112 * 3),
  System("landmark_fusion", "landmark fusion, second stage", 64, 224 * 224 * 3 + 37 * 2 * 4),
  System("identity_expression_vae, identity", "VAE, identity stage", 64, 64 * 64 * 3),
  System("identity_expression_vae, expression", "VAE, expression stage", 64, 64 * 64 * 3),
)


@dataclasses.dataclass(frozen=True)
class Rate:
  """Throughput of the input pipeline on a CPU.

  Attributes:
    bytes: bytes of uint8 images per second, with all threads together.
    threads: number of CPU threads.
    cpu: name of the CPU.
  """

  bytes: float
  threads: int
  cpu: str


def compiled() -> dict[str, list[tpu_mesh.Collective]]:
  """Returns the collectives of each compiled step. Keys are cases: "v5e:2x2/NAME/batch divided among 4"."""
  found = [
    record
    for path in sorted(harness.RESULTS.glob("tpu-mesh-compiled-*.jsonl"))
    for record in records.read(path)
  ]
  return {
    record["case"]: [tpu_mesh.Collective(**one) for one in record["compiled"]["collectives"]]
    for record in records.latest(found).values()
    if record["status"] == "compiled"
  }


def rates() -> dict[str, Rate]:
  """Returns the committed rates of the input pipeline, by implementation. Newer files replace older ones."""
  found: dict[str, Rate] = {}
  for path in sorted(harness.RESULTS.glob("cpu-*.jsonl"), key=lambda path: path.stem[-10:]):
    for record in records.read(path):
      if record["benchmark"] == "input_pipeline" and record["status"] == "ok" and not record["quick"]:
        size, env = record["settings"]["size"], record["environment"]
        image = record["rates"]["samples_per_second"] * size * size * 3
        found[record["implementation"]] = Rate(image, env["threads"], env["cpu"])
  return found


def _seconds(system: System) -> float:
  """Returns the seconds that a chip computes in one step, by the static schedule."""
  return tpu_mesh.committed_cycles(system.name) / tpu_mesh.CLOCK


def _exchanged(found: Sequence[tpu_mesh.Collective] | None) -> str:
  return "not compiled" if found is None else tpu_mesh.summary(found)


def efficiencies() -> str:
  """Returns the table of what a step exchanges, and of the expected efficiency."""
  made = compiled()
  lines = [
    "| step | batch per chip | computing time | exchanged on 2 x 2 | exchanged on 4 x 4 (four hosts) "
    "| efficiency on 8 chips | on 64 | on 256 |",
    "|---|---|---|---|---|---|---|---|",
  ]
  for system in SYSTEMS:
    two, four = (
      made.get(f"v5e:{side}x{side}/{system.name}/batch divided among {side * side}") for side in (2, 4)
    )
    assert two is not None, f"{system.name} is not compiled for 2 x 2"
    cycles = tpu_mesh.committed_cycles(system.name)
    shares = " | ".join(f"{100 * tpu_mesh.efficiency(two, cycles, chips):.1f} %" for chips in tpu_mesh.CHIPS)
    lines.append(
      f"| {system.words} | {system.samples} | {1e3 * _seconds(system):.2f} ms | {_exchanged(two)} "
      f"| {_exchanged(four)} | {shares} |"
    )
  return "\n".join(lines)


def feeding() -> str:
  """Returns the table of the data that a host must feed to its chips."""
  found = rates()
  disk, memory = found["jaxfer_streamed"], found["jaxfer_streamed_memory"]
  lines = [
    "| step | samples per second on 4 chips | MB/s | CPU threads from PNG files | CPU threads from memory |",
    "|---|---|---|---|---|",
  ]
  for system in SYSTEMS:
    samples = CHIPS_OF_A_HOST * system.samples / _seconds(system)
    need = samples * system.bytes
    threads = [need / (rate.bytes / rate.threads) for rate in (disk, memory)]
    lines.append(
      f"| {system.words} | {samples:,.0f} | {need / 1e6:,.0f} | {threads[0]:,.0f} | {threads[1]:,.1f} |"
    )
  return "\n".join(lines)


def page() -> str:
  """Returns the text of benchmarks/SCALING.md."""
  found = rates()
  disk, memory = found["jaxfer_streamed"], found["jaxfer_streamed_memory"]
  links = tpu_mesh.LINKS / 1e9
  return f"""# Scaling to more chips and hosts

`python -m benchmarks.scaling --write` makes this page from committed records. **Everything about TPUs here was
compiled, not run**: no chip was at hand. [DISTRIBUTED.md](../jaxfer/train/DISTRIBUTED.md) explains how to start a
training on several machines.

## What a step exchanges, and the expected efficiency

The batch size per chip is fixed, so the total batch grows with the number of chips. The collectives were read from the
training steps that jaxfer runs, compiled for TPU v5e 2 x 2 (one host) and 4 x 4 (four hosts). Their size is that of
their results on one chip. The computing time is that of the static schedule at {tpu_mesh.CLOCK / 1e9:.1f} GHz.

The efficiency is the estimated share of the time in which the chips compute, if exchanges never overlap with computing.
The estimate assumes that an all-reduce of B bytes over n chips moves 2 B (n - 1) / n bytes through links of
{links:.0f} GB/s. Each collective also waits one microsecond for each of the sqrt(n) hops of the torus. The chips, up to
{max(tpu_mesh.CHIPS)}, belong to one slice, whose hosts exchange data through the same links as its chips.

{efficiencies()}

XLA combines the sums of the gradients of all layers. Each step exchanges the same data on 4 x 4 as on 2 x 2. The
estimates use the programs for 2 x 2.

Trainings that run side by side exchange nothing (`benchmarks/README.md`, "Several chips"). A study with at least as
many trainings as chips is therefore expected to lose time only while it waits for the slowest training. The ResNets
wait most: each of their norms sums its statistics over the batches of all chips, and these sums run one after another.
Several slices, and GPUs on several machines, exchange data through a slower network. They are not estimated.

## What a host must feed

Resident data need no feeding: each device holds all of them, and only indices are sent. Streamed data are read by each
host for its own chips. The input pipeline was measured on a CPU ({disk.cpu}, {disk.threads} threads), not on a TPU's
host. It read and decoded {disk.bytes / 1e6:,.0f} MB/s of uint8 images from PNG files, and gathered
{memory.bytes / 1e6:,.0f} MB/s from memory. The last two columns divide the data rate that the {CHIPS_OF_A_HOST} chips
of a host need by these rates per thread.

{feeding()}

A v5e host of {CHIPS_OF_A_HOST} chips has 112 threads (vCPUs of the machine type ct5lp-hightpu-4t, by the Cloud TPU
documentation). If a host has fewer threads than the table asks for, its chips
wait for data from PNG files. Such data should be resident, or in the host's memory.
"""


def main(arguments: Sequence[str] | None = None) -> None:
  flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  flags.add_argument("--write", action="store_true", help="write benchmarks/SCALING.md")
  if flags.parse_args(arguments).write:
    PAGE.write_text(page())
  else:
    print(page(), end="")


if __name__ == "__main__":
  main()
