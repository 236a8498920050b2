"""Counts the kernels of GPU programs on a machine without a GPU: compiled, not run.

The headline case, the gradient of ConvLSTM [8, 16, 32, 32, 32] -> 32 in bfloat16, is compiled for an H100 from the
description in `h100.txtpb`, ours and stock Flax's. The script counts the kernels that the GPU must start per time step:
with steps this small, starting them matters as much as their work. It needs `jax[cuda12]` in a separate environment,
but no GPU and no driver:

  JAX_PLATFORMS=cpu python -m benchmarks.gpu_programs
"""

import argparse
import collections
import dataclasses
import pathlib
import sys
import time

import jax
from jax.experimental import topologies

from benchmarks import tpu_cases, tpu_hlo
from benchmarks.conv_rnn_problem import Problem

H100 = pathlib.Path(__file__).with_name("h100.txtpb")
# Opcodes that name or regroup buffers and start no kernel.
_FREE = {
  "parameter",
  "constant",
  "tuple",
  "get-tuple-element",
  "bitcast",
  "after-all",
  "copy-done",
  "async-done",
}


@dataclasses.dataclass(frozen=True)
class Count:
  """Kernels of a program.

  Attributes:
    loops: for every loop, in order: number of iterations, kernels per iteration, and cuDNN calls among them.
    outside: kernels outside all loops.
    cudnn_outside: cuDNN calls among them.
  """

  loops: tuple[tuple[int, int, int], ...]
  outside: int
  cudnn_outside: int

  @property
  def total(self) -> int:
    """Kernels of one call of the program."""
    return self.outside + sum(trips * kernels for trips, kernels, _ in self.loops)


def count(text: str) -> Count:
  """Counts the kernels of an optimised GPU program; each fusion, library call and copy is one.

  Raises:
    tpu_hlo.Unreadable: the number of iterations of a loop cannot be read.
  """
  kernels: dict[tuple[int, int], list[int]] = collections.defaultdict(lambda: [0, 0])
  for run in tpu_hlo.Module(text).runs():
    if run.operation.opcode not in _FREE:
      found = kernels[id(run.computation), run.trips]
      found[0] += 1
      found[1] += "__cudnn$" in run.operation.attributes
  loops = tuple((trips, n, cudnn) for (_, trips), (n, cudnn) in kernels.items() if trips > 1)
  outside = [found for (_, trips), found in kernels.items() if trips == 1]
  return Count(loops, sum(n for n, _ in outside), sum(n for _, n in outside))


def row(name: str, counted: Count, temporary: int, seconds: float) -> str:
  """A line of the table."""
  loops = " + ".join(f"{kernels} ({cudnn} of cuDNN)" for _, kernels, cudnn in counted.loops) or "no loop"
  outside = f"{counted.outside} ({counted.cudnn_outside} of cuDNN)"
  return f"| {name} | {loops} | {outside} | {counted.total:,} | {temporary / 1e6:.0f} MB | {seconds:.0f} s |"


def main() -> None:
  flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  flags.add_argument("--quick", action="store_true", help="a tiny case, to check that everything works")
  problem = Problem(dtype="bfloat16")
  if flags.parse_args().quick:
    problem = dataclasses.replace(problem, batch=2, time=3, size=8, channels=4, features=(4,))
  case = tpu_cases.conv_rnn_case(problem, "h100")
  try:
    devices = topologies.get_topology_desc(
      "gpu", "cuda", target_config=H100.read_text(), topology="1x1x1"
    ).devices
  except (RuntimeError, ValueError, NotImplementedError) as error:
    sys.exit(f"JAX cannot compile for CUDA here ({error}): pip install 'jax[cuda12]=={jax.__version__}'")
  print(f"{case.workload}, compiled for an H100 with JAX {jax.__version__}, not run\n")
  print(
    "| | kernels per time step, by loop | kernels outside loops | kernels in total | temporary memory | compile |"
  )
  print("|---|---|---|---|---|---|")
  for name, program in case.programs.items():
    start = time.perf_counter()
    compiled = program.lower(tuple(devices)).compile()
    seconds = time.perf_counter() - start
    print(
      row(name, count(compiled.as_text()), compiled.memory_analysis().temp_size_in_bytes, seconds), flush=True
    )


if __name__ == "__main__":
  main()
