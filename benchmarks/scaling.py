"""What training on more chips and hosts would cost, from committed records: python -m benchmarks.scaling [--write]

Prints the page benchmarks/SCALING.md, or writes it with --write. It reads what `benchmarks.tpu_mesh` compiled for
several TPU v5e chips, the cycles of a step from `benchmarks.tpu`, and the rates of `benchmarks.input_pipeline`. It runs
and compiles nothing. How the efficiency is estimated stands in `benchmarks.tpu_mesh`.
"""

import argparse
import dataclasses
from collections.abc import Sequence

from benchmarks import harness, machine, records, tpu_mesh

PAGE = machine.ROOT / "benchmarks" / "SCALING.md"
CHIPS_OF_A_HOST = 4  # A host of a TPU v5e slice of several hosts.


@dataclasses.dataclass(frozen=True)
class System:
  """A step of a system.

  Attributes:
    name: of the step in `tpu_mesh.CASES`.
    words: name for the reader.
    samples: number of samples of a chip's batch.
    bytes: number of bytes of a sample as it is sent, uint8 images and int16 flow.
  """

  name: str
  words: str
  samples: int
  bytes: int


_CLIP = 16 * 64 * 64 * (3 + 2 * 2)  # Frames, height, width; RGB as uint8, flow as int16.
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
  """How fast the input pipeline ran, in bytes of uint8 images a second, with so many threads of a CPU."""

  bytes: float
  threads: int
  cpu: str


def compiled() -> dict[str, list[tpu_mesh.Collective]]:
  """Returns the collectives of each compiled step, by its case, such as "v5e:2x2/NAME/batch divided among 4"."""
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
  """Returns the committed rates of the input pipeline, by implementation; the newest file counts."""
  found: dict[str, Rate] = {}
  for path in sorted(harness.RESULTS.glob("cpu-*.jsonl"), key=lambda path: path.stem[-10:]):
    for record in records.read(path):
      if record["benchmark"] == "input_pipeline" and record["status"] == "ok" and not record["quick"]:
        size, env = record["settings"]["size"], record["environment"]
        image = record["rates"]["samples_per_second"] * size * size * 3
        found[record["implementation"]] = Rate(image, env["threads"], env["cpu"])
  return found


def _seconds(system: System) -> float:
  """Seconds that a chip computes in a step, by the static schedule."""
  return tpu_mesh.committed_cycles(system.name) / tpu_mesh.CLOCK


def _exchanged(found: Sequence[tpu_mesh.Collective] | None) -> str:
  return "not compiled" if found is None else tpu_mesh.summary(found)


def efficiencies() -> str:
  """The table of what a step exchanges and of the expected efficiency."""
  made = compiled()
  lines = [
    "| step | batch of a chip | computes | exchanged on 2 x 2 | on 4 x 4, four hosts | 8 chips | 64 | 256 |",
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
  """The table of what a host must feed to its chips."""
  found = rates()
  disk, memory = found["jaxfer_streamed"], found["jaxfer_streamed_memory"]
  lines = [
    "| step | samples a second, of 4 chips | MB/s | CPU threads, from PNG files | CPU threads, from memory |",
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
  """Returns the page."""
  found = rates()
  disk, memory = found["jaxfer_streamed"], found["jaxfer_streamed_memory"]
  links = tpu_mesh.LINKS / 1e9
  return f"""# On more chips and hosts

`python -m benchmarks.scaling --write` makes this page from committed records. **Everything about TPUs here was
compiled, not run**: no chip was at hand. [DISTRIBUTED.md](../jaxfer/train/DISTRIBUTED.md) says how to start a training
on several machines.

## What a step exchanges, and the expected efficiency

Each chip keeps its batch, so the whole batch grows with the chips. The exchange was read from the engine's own training
steps, compiled for TPU v5e 2 x 2 (one host) and 4 x 4 (four hosts); its bytes are those of the results on one chip. The
time to compute is that of the static schedule at {tpu_mesh.CLOCK / 1e9:.1f} GHz. The efficiency is the estimated share
of the time in which chips compute, if nothing overlaps. An all-reduce of B bytes over n chips moves 2 B (n - 1) / n
bytes through links of {links:.0f} GB/s, and each collective waits a microsecond for each of the sqrt(n) hops of the
torus. All {max(tpu_mesh.CHIPS)} chips are of one slice, whose hosts exchange through the same links as its chips.

{efficiencies()}

XLA sums the gradients of all layers in one collective, however many chips take part. Where 4 x 4 was compiled, its
steps exchange what those of 2 x 2 do, so the estimates use 2 x 2.

Members side by side exchange nothing (`benchmarks/README.md`, "Several chips"), so a study with at least as many
trainings as chips is expected to lose only the time of the slowest. The ResNets wait most, because each of their norms
sums its statistics over the whole batch, one after another. Several slices, and GPUs on several machines, exchange
through a slower network; no estimate is made for them.

## What a host must feed

Resident data need no feeding: they are on each device, and only indices are sent. Streamed data come from each host for
its own chips. The input pipeline was measured on a CPU ({disk.cpu}, {disk.threads} threads), not on a TPU's host. It
read and decoded {disk.bytes / 1e6:,.0f} MB/s of uint8 images from PNG files, and gathered
{memory.bytes / 1e6:,.0f} MB/s
from memory. The last columns divide what the {CHIPS_OF_A_HOST} chips of a host take by these rates per thread.

{feeding()}

Where a host has fewer threads than the table asks for (a v5e host of {CHIPS_OF_A_HOST} chips has 112), chips wait for
data that come from PNG files. Such data should be resident, or in the host's memory.
"""


def main(arguments: Sequence[str] | None = None) -> None:
  flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  flags.add_argument("--write", action="store_true", help="write the page")
  if flags.parse_args(arguments).write:
    PAGE.write_text(page())
  else:
    print(page(), end="")


if __name__ == "__main__":
  main()
