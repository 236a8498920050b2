"""Times implementations of the same case side by side, after checking that they agree.

A *contender* is one implementation of a *case*; its `prepare` compiles and returns a `Program`. `Session.measure`

1. prepares the contenders; if a package is missing or one fails, that is recorded, and the contender is not left out;
2. compares every result with the reference; one that disagrees is recorded and not timed;
3. warms up, then runs the contenders in turn (ours, peer, ours, peer, ...), in an order that rotates from round to
   round, so that a drift of the machine affects all equally; on CPU with pauses of 20 ms;
4. writes one record (records.py) and prints one line for each.

Each call is timed to its end (`block_until_ready`, or the peer's own synchronisation). A call under 2 ms is repeated
within a run, each time to its end, and the run's time divided.
"""

import argparse
import dataclasses
import datetime
import functools
import math
import os
import pathlib
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from benchmarks import machine, on_file, records

RUNS, QUICK_RUNS, LEAST_RUNS = 20, 3, 5
_SHORT, _PAUSE, _MINUTE = 2e-3, 0.02, 60.0
# The CPU is also enabled beside an accelerator, because embedded data are drawn on it.
PLATFORMS = {"cpu": "cpu", "gpu": "cuda,cpu", "tpu": "tpu,cpu"}
RESULTS = pathlib.Path(__file__).parent / "results"

Arrays = Mapping[str, Any]


class Missing(Exception):
  """The reason why a contender cannot run: its package is not installed, or does not support the case."""


@dataclasses.dataclass
class Program:
  """A contender, compiled.

  Attributes:
    call: runs once, and returns when its work is done.
    result: returns arrays by name to compare with those of the reference; called once, before the first `call`.
    facts: "lower_seconds", "compile_seconds", "memory", "flops_by_compiler", if known; "xla_flags" if they differ from
      those of this process.
  """

  call: Callable[[], Any]
  result: Callable[[], Arrays]
  facts: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Contender:
  """A name ("jaxfer" is ours, others are peers or variants), and a function that makes the program."""

  name: str
  prepare: "Callable[[], Program | JaxProgram]"


@dataclasses.dataclass(frozen=True)
class Case:
  """A case to measure.

  Attributes:
    name: unique name in the benchmark; the same name means the same work in every file.
    settings: shapes and options, as JSON.
    work: work of one call: "samples", "frames", "flops" (counted by formula; see README.md), if applicable.
    tolerance: largest difference from the reference, relative to the largest value of each array.
    dtype: dtype of the computation.
    budget: seconds after which a contender has run often enough (at least 5 runs); None always does all runs.
  """

  name: str
  settings: Mapping[str, Any]
  work: Mapping[str, float]
  tolerance: float
  dtype: str = "float32"
  budget: float | None = None


class JaxProgram:
  """A contender that is a JAX function, compiled on first use; it has the interface of `Program`.

  Attributes:
    fn: function to time.
    arguments: its arguments on the host, placed on the device when it is compiled.
    named: fn's result -> arrays by name.
    stepping: fn's result begins with a new first argument, which each call passes to the next and donates.
  """

  def __init__(self, fn: Callable, *arguments: Any, named: Callable[[Any], Arrays], stepping: bool = False):
    self.fn, self.arguments, self.named, self.stepping = fn, arguments, named, stepping

  @property
  def jitted(self) -> Any:
    """Jitted `fn`, with its first argument donated if it is stepping."""
    return jax.jit(self.fn, donate_argnums=(0,) if self.stepping else ())

  @functools.cached_property
  def _compiled(self) -> tuple[Any, Any, dict[str, Any]]:
    arguments = jax.device_put(self.arguments)
    start = time.perf_counter()
    lowered = self.jitted.lower(*arguments)
    lower_seconds = time.perf_counter() - start
    start = time.perf_counter()
    compiled = lowered.compile()
    facts = {"lower_seconds": lower_seconds, "compile_seconds": time.perf_counter() - start}
    self._carried = jax.tree.map(lambda a: a.copy(), arguments[0]) if self.stepping else None
    return compiled, arguments, {**facts, **_analysis(compiled)}

  @property
  def facts(self) -> dict[str, Any]:
    """See `Program.facts`."""
    return self._compiled[2]

  def result(self) -> Arrays:
    """See `Program.result`."""
    compiled, arguments, _ = self._compiled
    first = jax.tree.map(lambda a: a.copy(), arguments[0]) if self.stepping else arguments[0]
    return self.named(compiled(first, *arguments[1:]))

  def call(self) -> Any:
    """See `Program.call`."""
    compiled, arguments, _ = self._compiled
    if not self.stepping:
      return jax.block_until_ready(compiled(*arguments))
    out = jax.block_until_ready(compiled(self._carried, *arguments[1:]))
    self._carried = out[0]
    return out


def _analysis(compiled) -> dict[str, Any]:
  facts: dict[str, Any] = {}
  if (memory := machine.memory(compiled)) is not None:
    facts["memory"] = memory
  if "flops" in (cost := compiled.cost_analysis() or {}):
    facts["flops_by_compiler"] = float(cost["flops"])
  return facts


def relative_error(got: Arrays, want: Arrays) -> float:
  """Returns the largest difference of common arrays, relative to the largest expected value; infinite for NaN.

  Raises:
    ValueError: there is no common array, an unexpected array, or a shape differs.
  """
  if not got or set(got) - set(want):
    raise ValueError(f"arrays {sorted(got)} are not among {sorted(want)}")
  worst = 0.0
  for name, array in got.items():
    g, w = np.asarray(array, np.float64), np.asarray(want[name], np.float64)
    if g.shape != w.shape:
      raise ValueError(f"{name} has shape {g.shape}, the reference {w.shape}")
    error = np.abs(g - w).max() / max(np.abs(w).max(), 1e-30)
    worst = max(worst, float(error) if np.isfinite(error) else math.inf)
  return worst


def interleave(
  calls: Sequence[Callable[[], Any]], runs: Sequence[int], repeats: Sequence[int], pause: float = 0.0
) -> list[list[float]]:
  """Returns the seconds of each run of each call, run in turn with a rotating first one and a pause before each run."""
  taken: list[list[float]] = [[] for _ in calls]
  for index in range(max(runs, default=0)):
    for offset in range(len(calls)):
      which = (index + offset) % len(calls)
      if index >= runs[which]:
        continue
      time.sleep(pause)
      start = time.perf_counter()
      for _ in range(repeats[which]):
        calls[which]()
      taken[which].append((time.perf_counter() - start) / repeats[which])
  return taken


class Session:
  """A run of one benchmark script with its flags, machine and output file."""

  def __init__(self, benchmark: str, arguments: argparse.Namespace):
    self.benchmark, self.arguments = benchmark, arguments
    self.quick: bool = arguments.quick
    self.environment = machine.environment()
    self.ceilings = machine.ceilings(self.quick)
    date = datetime.datetime.now(datetime.UTC).date()
    # Quick numbers are meaningless and are not kept among the results.
    folder = pathlib.Path("runs/benchmarks") if self.quick else RESULTS
    self.path = arguments.output or folder / f"{machine.slug(self.environment)}-{date}.jsonl"
    self.before = on_file.find(self.path, benchmark, self.environment, arguments) if arguments.resume else {}
    self.broken = False
    rates = ", ".join(f"{name} {rate / 1e9:.0f} GFLOP/s" for name, rate in self.ceilings["matmul"].items())
    print(f"{benchmark} on {machine.slug(self.environment)}, {self.environment['threads']} threads, "
          f"load {self.environment['load_average']}; ceilings: {rates}, "
          f"copy {self.ceilings['copy'] / 1e9:.0f} GB/s -> {self.path}", flush=True)  # fmt: skip

  @property
  def platform(self) -> str:
    """Platform of the devices, such as "cpu"."""
    return self.environment["platform"]

  def peer(self, name: str, prepare: Callable[[], Program | JaxProgram]) -> list[Contender]:
    """Returns a peer if any peers are requested; one that is not among them is recorded as missing."""
    asked = self.arguments.peers
    if asked is None:
      return []
    if asked != "all" and name not in asked.split(","):

      def prepare():
        raise Missing(on_file.not_asked_for(asked))

    return [Contender(name, prepare)]

  def recorded(self, case: str, implementations: Sequence[str]) -> list[records.Record] | None:
    """Returns the records of a case that `--continue` found; None if one of its implementations has none."""
    if not all((case, name) in self.before for name in implementations):
      return None
    print(f"  {case:<52} is recorded already", flush=True)
    found = [self.before[case, name] for name in implementations]
    self._judge(found)
    return found

  def _judge(self, done: Sequence[records.Record]) -> None:
    self.broken |= any(r["implementation"].startswith("jaxfer") and r["status"] != "ok" for r in done)

  def measure(
    self, case: Case, contenders: Sequence[Contender], reference: Callable[[], Arrays], reference_name: str
  ) -> list[records.Record]:
    """Checks, times and records the contenders of a case; see the module docstring."""
    if (found := self.recorded(case.name, [contender.name for contender in contenders])) is not None:
      return found
    want = {name: np.asarray(a) for name, a in reference().items()}
    made = [self._prepare(case, contender, want, reference_name) for contender in contenders]
    ready = [(record, program) for record, program in made if program is not None]
    runs, repeats = [], []
    for record, program in ready:
      start = time.perf_counter()
      program.call()
      record["first_call_seconds"] = time.perf_counter() - start
      start = time.perf_counter()
      program.call()
      second = time.perf_counter() - start
      repeats.append(max(1, min(1000, math.ceil(_SHORT / max(second, 1e-9)))))
      wanted = QUICK_RUNS if self.quick else self.arguments.runs
      if case.budget is not None and not self.quick:
        wanted = min(wanted, max(LEAST_RUNS, int(case.budget / second)))
      runs.append(wanted)
    # On CPU, the thread pools of other libraries spin on the cores for a while after their work, so a pause lets them
    # sleep. Between our own calls, a pause would only put the pool to sleep and slow down short calls.
    foreign = any(not record["implementation"].startswith("jaxfer") for record, _ in ready)
    pause = _PAUSE if self.platform == "cpu" and foreign else 0.0
    taken = interleave([program.call for _, program in ready], runs, repeats, pause)
    for (record, program), seconds, repeat in zip(ready, taken, repeats, strict=True):
      record.update(status="ok", reason=None, seconds=records.statistics(seconds, repeat))
      self.derive(record, case)
      if self.arguments.profile is not None:
        folder = self.benchmark, case.name.replace("/", "_"), record["implementation"]
        with jax.profiler.trace(str(self.arguments.profile.joinpath(*folder))):
          program.call()
    return self.keep([record for record, _ in made])

  def keep(self, done: list[records.Record]) -> list[records.Record]:
    """Writes finished records, prints them, and returns them."""
    records.append(self.path, done)
    for record in done:
      print(records.line(record), flush=True)
    self._judge(done)
    return done

  def blank(self, case: Case, implementation: str) -> records.Record:
    """Returns a record with everything known before the measurement; its status is "failed"."""
    return {
      "schema": records.SCHEMA,
      "benchmark": self.benchmark,
      "case": case.name,
      "implementation": implementation,
      "status": "failed",
      "reason": None,
      "quick": self.quick,
      "settings": dict(case.settings),
      "dtype": case.dtype,
      "matmul_precision": self.arguments.precision,
      "seconds": None,
      "lower_seconds": None,
      "compile_seconds": None,
      "first_call_seconds": None,
      "work": dict(case.work),
      "rates": {},
      "shares": {},
      "memory": None,
      "agreement": None,
      "environment": self.environment,
      "ceilings": self.ceilings,
      "compiled": None,
    }

  def _prepare(
    self, case, contender, want, reference_name
  ) -> tuple[records.Record, Program | JaxProgram | None]:
    record = self.blank(case, contender.name)
    try:
      program = contender.prepare()
      result = program.result()
      error = relative_error(result, want)
    except Missing as missing:
      record.update(status="missing", reason=str(missing))
      return record, None
    except (
      Exception
    ) as failure:  # A peer may fail in any way; the record describes it, and the others continue.
      record["reason"] = f"{type(failure).__name__}: {(str(failure) or 'no message').splitlines()[0][:300]}"
      return record, None
    facts = program.facts
    record |= {name: facts.get(name) for name in ("lower_seconds", "compile_seconds", "memory")}
    if "xla_flags" in facts:
      record["environment"] = {**record["environment"], "xla_flags": facts["xla_flags"]}
    if "flops_by_compiler" in facts:
      record["work"]["flops_by_compiler"] = facts["flops_by_compiler"]
    record["agreement"] = {
      "reference": reference_name,
      "arrays": sorted(result),
      "error": error if math.isfinite(error) else None,
      "tolerance": case.tolerance,
    }
    if not error <= case.tolerance:
      reason = f"differs from {reference_name} by {error:.1e}, tolerance {case.tolerance:.0e}"
      record.update(status="mismatch", reason=reason)
      return record, None
    return record, program

  def derive(self, record: records.Record, case: Case) -> None:
    """Adds rates and shares to a record with seconds."""
    seconds = record["seconds"]["median"]
    record["rates"] = {f"{name}_per_second": amount / seconds for name, amount in case.work.items()}
    ceiling = case.dtype
    if ceiling == "float32" and self.arguments.precision == "highest":
      ceiling = "float32_highest"
    if "flops" in case.work:
      record["shares"]["matmul"] = case.work["flops"] / seconds / self.ceilings["matmul"][ceiling]
    if record["memory"] is not None and "argument_bytes" in record["memory"]:
      # Arguments are read once and results written once: the minimum of memory traffic.
      moved = record["memory"]["argument_bytes"] + record["memory"]["output_bytes"]
      record["shares"]["copy"] = moved / seconds / self.ceilings["copy"]


def parser(doc: str | None) -> argparse.ArgumentParser:
  """Returns a parser with the flags that all benchmarks share."""
  flags = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
  flags.add_argument("--device", choices=list(PLATFORMS), help="default: the one that JAX chooses")
  flags.add_argument(
    "--quick", action="store_true", help="tiny sizes and 3 runs, to check that everything works"
  )
  flags.add_argument(
    "--peers", nargs="?", const="all", help="also time peers: all, or names separated by commas"
  )
  flags.add_argument("--profile", type=pathlib.Path, metavar="DIR", help="write a trace of one call of each")
  flags.add_argument(
    "--output", type=pathlib.Path, help="JSON lines to append to (default: benchmarks/results/...)"
  )
  flags.add_argument(
    "--continue",
    dest="resume",
    action="store_true",
    help="measure only what --output lacks for this device, commit and JAX version",
  )
  flags.add_argument("--runs", type=int, default=RUNS, help=f"runs of each contender (default {RUNS})")
  flags.add_argument(
    "--precision", choices=["default", "highest"], default="default", help="of float32 matrix products"
  )
  return flags


def session(benchmark: str, arguments: argparse.Namespace) -> Session:
  """Begins a session on the device that the arguments ask for."""
  if arguments.runs < LEAST_RUNS:
    sys.exit(f"--runs {arguments.runs}: take {LEAST_RUNS} at least")
  configure(arguments)
  check_device(arguments.device, jax.default_backend())
  return Session(benchmark, arguments)


def configure(arguments: argparse.Namespace) -> None:
  """Settles device, precision and memory, before JAX starts its backend."""
  if arguments.peers:
    # Peers run in the same process, so they need memory, and as many threads as XLA.
    os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.45")
    os.environ.setdefault("KERAS_BACKEND", "jax")
  if arguments.device:
    jax.config.update("jax_platforms", PLATFORMS[arguments.device])
  jax.config.update("jax_default_matmul_precision", arguments.precision)
  jax.config.update("jax_enable_compilation_cache", False)


def check_device(asked: str | None, found: str) -> None:
  """Ends the program if JAX does not run on the requested platform, because JAX silently falls back to the CPU."""
  if asked not in (None, found):
    sys.exit(f"--device {asked}: JAX finds none here and would take the {found}; is its plugin installed?")


def sweep(
  benchmark: str,
  doc: str | None,
  problems: Callable[[str, bool], Sequence[Any]],
  measure: Callable[[Session, Any, float | None], None],
  peers: Iterable[str],
  switches: Mapping[str, str] | None = None,
) -> None:
  """Runs a benchmark that measures problems, each with a `name`, one after another.

  Args:
    benchmark: name of the benchmark.
    doc: docstring of the script, for --help.
    problems: function (platform, quick) that returns the problems.
    measure: function (session, problem, budget in seconds) that measures one.
    peers: names of the peers that `measure` can time.
    switches: further flags of the script, with their help.
  """
  flags = parser(doc)
  flags.add_argument("--only", default="", help="run the cases whose name contains this")
  flags.add_argument("--first", action="store_true", help="run only the first case, the headline")
  flags.add_argument("--list", action="store_true", help="print the cases' names and stop")
  for name, text in (switches or {}).items():
    flags.add_argument(name, action="store_true", help=text)
  arguments = flags.parse_args()
  if arguments.list:
    print("\n".join(problem.name for problem in problems(arguments.device or "cpu", arguments.quick)))
    return
  started = session(benchmark, arguments)
  chosen = problems(started.platform, started.quick)
  names = ["jaxfer", *(peers if arguments.peers else ())]
  for problem in chosen[:1] if arguments.first else chosen:
    if arguments.only in problem.name and started.recorded(problem.name, names) is None:
      # The first case does all runs of every contender, however slow; the others stop a slow one after a minute.
      measure(started, problem, None if problem == chosen[0] else _MINUTE)
  finish(started)


def finish(session: Session) -> None:
  """Ends the script; the exit code is 1 if one of our implementations failed or disagreed with its reference."""
  sys.exit(1 if session.broken else 0)
