"""Measures the cost of long sequences, and of the options that save memory.

`options`: time and memory (as counted by the compiler) of the gradient of a ConvLSTM layer over T = 16 to 512 steps, by
default, with `recompute`, and with `checkpoint_every=16`. `cell_state`: the same in bfloat16 for a cell whose forget
gates are almost open (bias 4), so that the cell state sums over many steps, with the cell state in float32 (ours) and
in bfloat16. There `agreement.error` is the distance from the plain scan in float32.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks import harness
from benchmarks.conv_rnn import REFERENCE, reference_result, tolerance
from benchmarks.conv_rnn_problem import Problem, inputs_of, named, operate
from jaxfer.kernels import conv_recurrence

OPTIONS: dict[str, dict[str, Any]] = {
  "jaxfer": {},
  "jaxfer_recompute": {"recompute": True},
  "jaxfer_checkpoint16": {"checkpoint_every": 16},
}
_BUDGET, _OPEN = 20.0, 4.0


def prepare(
  problem: Problem, inputs: dict[str, Any], cell_dtype: str, options: dict[str, Any]
) -> harness.JaxProgram:
  """Prepares the gradient of one layer with zero initial states."""
  dtype = jnp.dtype(problem.dtype)

  def apply(params, x):
    layer = jax.tree.map(lambda p: p.astype(dtype), params["layer1"])
    state = conv_recurrence.initial_state(
      problem.cell, (*x.shape[:1], *x.shape[2:4], *problem.features), dtype
    )
    assert state.c is not None
    state = state._replace(c=state.c.astype(cell_dtype))
    return conv_recurrence.unroll(problem.cell, layer, x, state, **options)[0]

  run = functools.partial(operate, "gradient", apply)
  return harness.JaxProgram(run, inputs["params"], inputs["x"].astype(dtype), inputs["weights"], named=named)


def main() -> None:
  session = harness.session("memory", harness.parser(__doc__).parse_args())
  base = Problem(batch=2, size=16, channels=16, features=(16,))
  steps: tuple[int, ...] = (16, 64, 256, 512)
  if session.quick:
    base, steps = dataclasses.replace(base, size=6, channels=4, features=(4,)), (3, 18)
  for time in steps:
    problem = dataclasses.replace(base, time=time)
    low = dataclasses.replace(problem, dtype="bfloat16")
    groups: list[tuple[str, Problem, dict[str, tuple[str, dict[str, Any]]]]] = [
      ("options", problem, {name: ("float32", options) for name, options in OPTIONS.items()}),
      ("cell_state", low, {"jaxfer": ("float32", {}), "jaxfer_bfloat16_cell": ("bfloat16", {})}),
    ]
    for group, at, contenders in groups:
      inputs = inputs_of(at)
      if group == "cell_state":
        bias = inputs["params"]["layer1"]["input_bias"]
        bias[at.features[0] : 2 * at.features[0]] += _OPEN
      case = harness.Case(
        name=f"{group}/{at.name}",
        settings=dataclasses.asdict(at),
        work={"samples": at.batch, "frames": at.batch * at.time, "flops": at.flops},
        # A cell state in bfloat16 is measured; its error is not checked.
        tolerance=1e3 if group == "cell_state" else tolerance(at, session),
        dtype=at.dtype,
        budget=_BUDGET,
      )
      session.measure(
        case,
        [
          harness.Contender(name, functools.partial(prepare, at, inputs, *settings))
          for name, settings in contenders.items()
        ],
        functools.partial(reference_result, at, inputs),
        REFERENCE,
      )
  harness.finish(session)


if __name__ == "__main__":
  main()
