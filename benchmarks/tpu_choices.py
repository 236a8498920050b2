"""Which formulation of a convolution is cheapest on a TPU, by the compiler's estimates? Compiled, not run.

The same question as `benchmarks.choose`, for a few shapes that stand for the others. The answer is written into the
choice table (`jaxfer/kernels/conv/choices.json`) as the estimate that it is. A formulation takes the place of the
default only where it is 5 % cheaper by both counts, XLA's cycles and the static schedule. It needs libtpu in an
environment of its own, like `benchmarks.tpu`:

  python -m benchmarks.tpu_choices --output benchmarks/results/tpu-choices-compiled.jsonl
"""

import argparse
import functools
import pathlib

from benchmarks import tpu  # isort: skip  Before JAX: it settles what JAX looks for.

import jax

from benchmarks import choose, harness, records, tpu_cases

TOPOLOGY = "v5e:1x1"
_BATCH, _MEMBERS = 64, 4
# kernel, stride, channels, features, height of the output, as in `choose.SHAPES`.
_SHAPES = [
  (3, 1, 32, 128, 32),
  (3, 1, 64, 64, 28),
  (3, 1, 128, 512, 8),
  (3, 2, 64, 128, 28),
  (4, 2, 64, 128, 8),
]
_MEMBER_SHAPES = [(3, 1, 32, 128, 32), (3, 2, 32, 64, 16)]


def problems() -> list[choose.Problem]:
  """What is compiled: every operation on few shapes, the strided ones alone for transposed convolutions."""
  return [
    choose.Problem(operation, choose.shape_of(*shape), _BATCH, "bfloat16", members)
    for members, shapes in ((0, _SHAPES), (_MEMBERS, _MEMBER_SHAPES))
    for shape in shapes
    for operation in ("forward", "transpose", "weight_gradient")
    if not (operation == "transpose" and shape[1] == 1)
  ]


def case_of(problem: choose.Problem) -> tpu_cases.Case:
  """The problem in every formulation."""

  def make(option) -> harness.JaxProgram:
    return choose.prepare(option, choose.arguments_of(problem))

  return tpu_cases.Case(
    topology=TOPOLOGY,
    workload=problem.name,
    dtype=problem.dtype,
    settings=choose.settings_of(problem) | {"topology": TOPOLOGY},
    samples=problem.batch,
    flops=lambda: problem.flops,
    programs={
      f"jaxfer_{name}": tpu_cases.Program(functools.partial(make, option), batched=2)
      for name, option in choose.options_of(problem).items()
    },
  )


def main() -> None:
  flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  flags.add_argument("--only", default="", metavar="TEXT", help="compile the cases whose name contains this")
  flags.add_argument("--output", type=pathlib.Path, required=True, help="JSON lines to append to")
  arguments = flags.parse_args()
  jax.config.update("jax_enable_compilation_cache", False)
  for problem in problems():
    case = case_of(problem)
    for name in case.programs:
      if arguments.only in case.name:
        record = tpu.measure(case, name, quick=False) | {"benchmark": "choose", "case": problem.name}
        records.append(arguments.output, [record])
        print(tpu.line(record), flush=True)


if __name__ == "__main__":
  main()
