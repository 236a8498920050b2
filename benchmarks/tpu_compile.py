"""Compiles JAX programs for a TPU on a machine that has none, and caches the compiler's output.

libtpu is an ordinary wheel with the real XLA:TPU compiler. From shapes, it computes the optimised program, its memory
plan and the final schedule of every operation. Nothing runs on a TPU.

Compiled programs are cached in `runs/tpu_compile/`, by the text of the lowered program, the topology, the compiler's
version and its flags, so that no program is compiled twice.
"""

import atexit
import dataclasses
import functools
import gzip
import hashlib
import importlib.metadata
import json
import os
import pathlib
import re
import shutil
import tempfile
import time
from collections.abc import Callable
from typing import Any

# Before JAX is imported, because a process without a TPU must neither search for one nor take the lock that guards it.
for _name, _value in {
  "JAX_PLATFORMS": "cpu",
  "TPU_SKIP_MDS_QUERY": "1",
  "TPU_ACCELERATOR_TYPE": "v5litepod-1",
  "TPU_WORKER_HOSTNAMES": "localhost",
  "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}.items():
  os.environ.setdefault(_name, _value)

import jax  # noqa: E402
from jax.experimental import topologies  # noqa: E402

import jaxfer  # noqa: E402
from benchmarks import machine  # noqa: E402

CACHE = machine.ROOT / "runs" / "tpu_compile"
_DUMP = re.compile(r"^\d+-(?P<operation>[^<].*)-\d+-final_bundles\.txt$")


class NoCompiler(Exception):
  """libtpu is not installed."""


@dataclasses.dataclass(frozen=True)
class Compiled:
  """A compiled program.

  Attributes:
    text: optimised, scheduled HLO of one device.
    memory: bytes on one device, as in `records`.
    schedules: name of an operation -> text of its final VLIW schedule.
    lower_seconds: time of tracing and lowering in this call.
    compile_seconds: time of the compiler when it ran.
    cached: whether the program was compiled before.
  """

  text: str
  memory: dict[str, int]
  schedules: dict[str, str]
  lower_seconds: float
  compile_seconds: float
  cached: bool


def version() -> str:
  """Returns the version of libtpu.

  Raises:
    NoCompiler: libtpu is not installed.
  """
  try:
    return importlib.metadata.version("libtpu")
  except importlib.metadata.PackageNotFoundError as error:
    raise NoCompiler(
      f"libtpu is not installed: pip install 'jax[tpu]=={jax.__version__}' in a separate environment"
    ) from error


@functools.cache
def _dumps() -> tuple[pathlib.Path, str]:
  """Returns the folder to which this process's compiler writes its schedules, and the user's flags."""
  given = os.environ.get("LIBTPU_INIT_ARGS", "")
  folder = pathlib.Path(tempfile.mkdtemp(prefix="tpu_compile_"))
  atexit.register(shutil.rmtree, folder, ignore_errors=True)
  flags = f"--xla_jf_dump_to={folder} --xla_jf_dump_llo_text=true --xla_jf_dump_llo_pass_label_regex=.*final_bundles"
  os.environ["LIBTPU_INIT_ARGS"] = f"{given} {flags}".strip()
  return folder, given


@functools.cache
def devices(topology: str) -> tuple[jax.Device, ...]:
  """Returns the devices to compile for, from a topology such as "v5e:1x1" or "v5e:2x2".

  Raises:
    NoCompiler: libtpu is not installed.
  """
  version()
  _dumps()  # libtpu reads its flags once, when it is loaded.
  single = set(topology.split(":")[1].split("x")) == {"1"}
  options = {"chips_per_host_bounds": (1, 1, 1), "num_slices": 1} if single else {}
  found = topologies.get_topology_desc(platform="tpu", topology_name=topology, **options).devices
  return tuple(found[:1] if single else found)  # A v4 chip is two devices.


def _place(lowered: jax.stages.Lowered, topology: str) -> pathlib.Path:
  """Returns the path of a cached program."""
  _, given = _dumps()
  own = os.environ.get("XLA_FLAGS", "")
  for flag in jaxfer.FLAGS.values():  # These are only for CPUs.
    own = own.replace(flag, "").strip()
  flags = f"{given} {own}"
  # The numbers of functions depend on what was traced before them.
  symbols: dict[str, str] = {}
  text = re.sub(
    r"(?<!custom_call )@[\w.]+", lambda m: symbols.setdefault(m[0], f"@{len(symbols)}"), lowered.as_text()
  )
  parts = (text, topology, version(), jax.__version__, flags)
  return CACHE / f"{hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]}.json.gz"


def known(lower: Callable[[], jax.stages.Lowered], topology: str) -> bool:
  """Whether a program was compiled before."""
  return _place(lower(), topology).exists()


def compile_program(lower: Callable[[], jax.stages.Lowered], topology: str) -> Compiled:
  """Compiles what `lower` returns, a program for the devices of `topology`, or finds it in the cache.

  Raises:
    NoCompiler: libtpu is not installed.
    jax.errors.JaxRuntimeError: the compiler refuses the program, for example because it does not fit the chip's memory.
  """
  folder, _ = _dumps()
  start = time.perf_counter()
  lowered = lower()
  lower_seconds = time.perf_counter() - start
  path = _place(lowered, topology)
  if path.exists():
    with gzip.open(path, "rt") as file:
      return Compiled(**json.load(file), lower_seconds=lower_seconds, cached=True)
  for old in folder.iterdir():
    old.unlink()
  start = time.perf_counter()
  compiled = lowered.compile()
  kept: dict[str, Any] = {
    "text": compiled.as_text(),
    "memory": machine.memory(compiled),
    "schedules": {
      found["operation"]: dump.read_text()
      for dump in sorted(folder.iterdir())
      if (found := _DUMP.match(dump.name)) and found["operation"] != "TLP"
    },
    "compile_seconds": time.perf_counter() - start,
  }
  path.parent.mkdir(parents=True, exist_ok=True)
  partial = path.with_suffix(f".{os.getpid()}")
  with gzip.open(partial, "wt", compresslevel=3) as file:
    json.dump(kept, file)
  partial.replace(path)
  return Compiled(**kept, lower_seconds=lower_seconds, cached=False)
