"""Finds the cheapest formulation of each convolution on a TPU by the compiler's estimates. Compiled, not run.

It does the same as `benchmarks.choose`, for a few representative shapes. The result is written to the choice table
(`jaxfer/kernels/conv/choices.json`) and marked as an estimate. A formulation replaces the default only if it is 5 %
cheaper by both counts, XLA's cycles and the static schedule. The script needs libtpu in a separate environment, like
`benchmarks.tpu`:

  python -m benchmarks.tpu_choices --output benchmarks/results/tpu-choices-compiled.jsonl
"""

import argparse
import functools
import pathlib

from benchmarks import tpu  # isort: skip  Before JAX, because it configures JAX's devices.

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
# Shapes of which only some operations are compiled: ResNet's stem, ARM's large kernel, and a small kernel with few
# channels, for which ARM's would otherwise be the nearest shape.
_SINGLE = [
  ("forward", (7, 2, 3, 64, 56)),
  ("weight_gradient", (7, 2, 3, 64, 56)),
  ("transpose", (32, 8, 1, 1, 11)),
  ("transpose", (3, 2, 1, 8, 28)),
]
# XLA did not compile ARM's gradient as a dilated convolution within 25 minutes.
_TOO_LONG = ("xla",)
_MEMBER_SHAPES = [(3, 1, 32, 128, 32), (3, 2, 32, 64, 16)]


def problems() -> list[choose.Problem]:
  """Returns the problems: every operation on few shapes, then `_SINGLE`.

  Transposed convolutions have a stride; without one, they are plain convolutions.
  """
  return [
    choose.Problem(operation, choose.shape_of(*shape, loop=True), _BATCH, "bfloat16", members)
    for members, shapes in ((0, _SHAPES), (_MEMBERS, _MEMBER_SHAPES))
    for shape in shapes
    for operation in ("forward", "transpose", "weight_gradient")
    if not (operation == "transpose" and shape[1] == 1)
  ] + [
    choose.Problem(operation, choose.shape_of(*shape, loop=True), _BATCH, "bfloat16")
    for operation, shape in _SINGLE
  ]


def case_of(problem: choose.Problem) -> tpu_cases.Case:
  """Returns the case of a problem with every formulation that compiles in a reasonable time."""

  def make(option) -> harness.JaxProgram:
    return choose.prepare(problem, option, choose.arguments_of(problem))

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
      if not (problem.operation == "transpose" and max(problem.shape.kernel_size) > 7 and name in _TOO_LONG)
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
