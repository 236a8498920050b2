"""Measures how long lowering and compiling take. Each run compiles without any cache; `seconds` is the sum of both.

Cases are the gradients and training steps of the conv-RNN benchmark; stock Flax is the peer.
"""

import dataclasses
import functools

import jax

from benchmarks import conv_rnn, conv_rnn_peers, harness
from benchmarks.conv_rnn_problem import Problem, inputs_of


def recompiling(prepare) -> harness.Program:
  """Returns a program whose call compiles another one."""
  program = prepare()

  def call():
    jax.clear_caches()
    return prepare().facts

  return harness.Program(call, program.result, program.facts)


def problems(quick: bool) -> list[Problem]:
  """Returns a layer of each kind of cell, and the four layers of a stream."""
  layer = Problem(batch=2, time=3, size=8, channels=4, features=(4,)) if quick else Problem()
  deep = dataclasses.replace(layer, operation="train_step", features=(4, 4) if quick else (16, 32, 64, 128))
  kinds = [dataclasses.replace(layer, kind=kind, enhanced=True) for kind in conv_rnn.KINDS]
  return [layer, *kinds, deep, *(dataclasses.replace(deep, dtype="bfloat16") for _ in [0] if not quick)]


def main() -> None:
  flags = harness.parser(__doc__)
  session = harness.session("compile_time", flags.parse_args())
  for problem in problems(session.quick):
    inputs = inputs_of(problem)
    case = harness.Case(
      problem.name,
      dataclasses.asdict(problem),
      {},
      conv_rnn.tolerance(problem, session),
      problem.dtype,
      budget=60.0,
    )
    ours = functools.partial(recompiling, functools.partial(conv_rnn.prepare, problem, inputs))
    theirs = functools.partial(recompiling, functools.partial(conv_rnn_peers.flax, problem, inputs, session))
    session.measure(
      case,
      [harness.Contender("jaxfer", ours), *session.peer("flax", theirs)],
      functools.partial(conv_rnn.reference_result, problem, inputs),
      conv_rnn.REFERENCE,
    )
  harness.finish(session)


if __name__ == "__main__":
  main()
