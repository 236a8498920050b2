"""Runs a contender in a process of its own, with its own XLA flags, because XLA reads its flags once per process.

The other process prepares the program when it starts, and then runs it once for each `call`. The time of a call
includes the round trip of a message to that process, about 0.1 ms.
"""

import argparse
import contextlib
import dataclasses
import functools
import multiprocessing
import os
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import Any

import jax

from benchmarks import harness

Prepare = Callable[[], harness.Program | harness.JaxProgram]
# On CPU, XLA runs some operations with YNNPACK. By default these include convolutions; the flags in `jaxfer.FLAGS`
# exclude them.
_YNN = "--xla_cpu_experimental_ynn_fusion_type="
_FLAGS = {"flax_ynn_conv": _YNN + "+individual_convolution", "flax_no_ynn": _YNN}


def peers(flax: Callable[..., harness.JaxProgram]) -> dict[str, Callable[..., harness.Program]]:
  """Returns stock Flax with other XLA flags for CPUs, by name.

  Args:
    flax: prepares stock Flax from (problem, inputs, None). It must be picklable.

  Returns:
    functions (problem, inputs, session) that prepare a peer. They raise `harness.Missing` on other platforms.
  """

  def make(flag: str, problem: Any, inputs: Any, session: harness.Session) -> harness.Program:
    if session.platform != "cpu":
      raise harness.Missing(f"{flag} is a flag for CPUs")
    others = [own for own in os.environ.get("XLA_FLAGS", "").split() if not own.startswith(_YNN)]
    return with_flags(sendable(flax, problem, inputs), " ".join([*others, flag]), session.arguments)

  return {name: functools.partial(make, flag) for name, flag in _FLAGS.items()}


def sendable(flax: Callable[..., harness.JaxProgram], problem: Any, inputs: Any) -> Prepare:
  """Returns flax(problem, inputs, None) as a function that can be pickled.

  The problem is copied without its cached properties. The arrays are NumPy's, because unpickling those of JAX would
  start JAX before it is configured.
  """
  return functools.partial(flax, dataclasses.replace(problem), jax.device_get(inputs), None)


def with_flags(prepare: Prepare, flags: str, arguments: argparse.Namespace) -> harness.Program:
  """Prepares a program in another process.

  Args:
    prepare: makes the program; it must be picklable.
    flags: value of `XLA_FLAGS` there.
    arguments: the session's arguments (`harness.parser`).

  Raises:
    harness.Missing: `prepare` raised it.
    RuntimeError: the program could not be prepared or has failed; the message has the error.
  """
  spawn = multiprocessing.get_context("spawn")
  here, there = spawn.Pipe()
  process = spawn.Process(target=_serve, args=(there, prepare, arguments), daemon=True)
  with _environment("XLA_FLAGS", flags):
    process.start()
  there.close()

  def ask(name: str):
    try:
      here.send(name)
      value, missing, error = here.recv()
    except (EOFError, OSError):
      raise RuntimeError(f"the process with XLA_FLAGS={flags} has ended") from None
    if missing is not None:
      raise harness.Missing(missing)
    if error is not None:
      raise RuntimeError(error)
    return value

  facts = {**ask("facts"), "xla_flags": flags}
  return harness.Program(functools.partial(ask, "call"), functools.partial(ask, "result"), facts)


@contextlib.contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
  before = os.environ.get(name)
  os.environ[name] = value
  try:
    yield
  finally:
    del os.environ[name]
    if before is not None:
      os.environ[name] = before


def _serve(connection: Connection, prepare: Prepare, arguments: argparse.Namespace) -> None:
  """Answers each request with (value, reason why it is missing, error) until the other process ends the connection."""
  program = None
  answers: dict[str, Callable[[Any], Any]] = {
    "facts": lambda program: program.facts,
    "result": lambda program: jax.device_get(dict(program.result())),
    "call": lambda program: (program.call(), None)[1],
  }
  while True:
    try:
      request = connection.recv()
    except EOFError:
      return
    try:
      if program is None:
        harness.configure(arguments)
        program = prepare()
      connection.send((answers[request](program), None, None))
    except harness.Missing as missing:
      connection.send((None, str(missing), None))
    except Exception as failure:
      connection.send((None, None, f"{type(failure).__name__}: {failure}"))
