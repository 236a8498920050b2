"""Runs a contender in a process of its own, with its own XLA flags, because XLA reads its flags once per process.

The other process prepares the program when it starts, and then runs it once for each `call`. A call's time includes the
message to the process and back, a tenth of a millisecond.
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
# XLA on CPU runs some operations by YNNPACK, by default also convolutions, but not with the flags of `jaxfer.FLAGS`.
_YNN = "--xla_cpu_experimental_ynn_fusion_type="
_FLAGS = {"flax_ynn_conv": _YNN + "+individual_convolution", "flax_no_ynn": _YNN}


def peers(flax: Callable[..., harness.JaxProgram]) -> dict[str, Callable[..., harness.Program]]:
  """Returns stock Flax with other XLA flags for CPUs, by name.

  Args:
    flax: prepares stock Flax from (problem, inputs, None). It and its arguments must be picklable.

  Returns:
    functions (problem, inputs, session) that prepare a peer. They raise `harness.Missing` on other platforms.
  """

  def make(flags: str, problem: Any, inputs: Any, session: harness.Session) -> harness.Program:
    if session.platform != "cpu":
      raise harness.Missing(f"{flags} is a flag for CPUs")
    problem = dataclasses.replace(problem)  # Without cached properties, which cannot be pickled.
    return with_flags(functools.partial(flax, problem, inputs, None), flags, session.arguments)

  return {name: functools.partial(make, flags) for name, flags in _FLAGS.items()}


def with_flags(prepare: Prepare, flags: str, arguments: argparse.Namespace) -> harness.Program:
  """Prepares a program in another process.

  Args:
    prepare: makes the program; it must be picklable.
    flags: value of `XLA_FLAGS` there.
    arguments: the session's arguments (`harness.parser`).

  Raises:
    RuntimeError: the program could not be prepared; the message has the error.
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
      value, error = here.recv()
    except (EOFError, BrokenPipeError):
      value, error = None, f"the process with XLA_FLAGS={flags} has ended"
    if error is not None:
      raise RuntimeError(error)
    return value

  facts = ask("facts")
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
  """Answers each request with (value, error) until the other process closes the connection."""
  program = None
  while True:
    try:
      request = connection.recv()
    except EOFError:
      return
    try:
      if program is None:
        harness.configure(arguments)
        program = prepare()
      answers = {"facts": lambda p: p.facts, "result": lambda p: dict(p.result()), "call": lambda p: p.call()}
      value = answers[request](program)
      connection.send((None if request == "call" else jax.device_get(value), None))
    except Exception as failure:
      connection.send((None, f"{type(failure).__name__}: {failure}"))
