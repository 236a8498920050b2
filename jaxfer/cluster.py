"""Joins and leaves the other processes of a command, on one or more machines, with `jax.distributed`.

The command line calls `start` before JAX is used, and `leave` at the end. `train/processes.py` has the exchanges in
between. `train/DISTRIBUTED.md` has commands for Slurm, Cloud TPU pods and plain ssh.
"""

import argparse
import json
import os
import resource
import socket
import subprocess
import sys
import threading
import time
import traceback
from typing import Any

from jaxfer import cluster_errors
from jaxfer.errors import UserError

HEARTBEAT = 60  # Default of --heartbeat, in seconds.
# How many seconds a process waits for the others at the start, and at the end.
_ARRIVAL, _DEPARTURE = 300, 30
# An error whose message contains one of these comes from an exchange between processes.
_EXCHANGED = ("Gloo", "NCCL", "collective", "arrier", "coordination", "UNAVAILABLE", "DEADLINE_EXCEEDED")

_started: list[int] = []  # The heartbeat in seconds, after `start` has joined the other processes.


def add_flags(parser: argparse.ArgumentParser) -> None:
  """Adds the flags that run a command as one of several processes."""
  group = parser.add_argument_group("several machines")
  group.add_argument(
    "--distributed",
    action="store_true",
    help="run as one of the processes of a Slurm, Open MPI, Cloud TPU or Kubernetes cluster, which the environment "
    "describes; same as execution.distributed=true",
  )
  group.add_argument(
    "--coordinator", metavar="HOST:PORT", help="instead of --distributed: address of process 0"
  )
  group.add_argument(
    "--num-processes", type=int, metavar="N", help="instead of --distributed: number of processes"
  )
  group.add_argument(
    "--process-id", type=int, metavar="K", help="instead of --distributed: number of this process, from 0"
  )
  group.add_argument(
    "--heartbeat",
    type=int,
    default=HEARTBEAT,
    metavar="SECONDS",
    help=f"end all processes if one does not answer for this many seconds (default: {HEARTBEAT})",
  )


def start(args: argparse.Namespace, distributed: bool) -> None:
  """Joins the other processes, if the flags or the configuration ask for it.

  Only process 0 keeps its standard output. From here on, if the runtime ends this process, one line replaces the
  runtime's message; see `cluster_errors`.

  Args:
    args: the parsed flags of `add_flags`.
    distributed: `execution.distributed` of the configuration.

  Raises:
    UserError: some flags are missing or out of range, no cluster is found, process 0 cannot listen at its address, or
      the processes have different numbers of devices.
  """
  where = _given(args)
  if where is None and not (args.distributed or distributed):
    return
  import jax

  _translate_errors()
  _tell(heartbeat=args.heartbeat)
  jax.config.update("jax_cpu_collectives_implementation", "gloo")
  # The preemption service would catch SIGTERM. The training catches it instead, to save its state.
  jax.config.update("jax_enable_preemption_service", False)
  options: dict[str, Any] = {
    "initialization_timeout": _ARRIVAL,
    "heartbeat_timeout_seconds": args.heartbeat,
    "shutdown_timeout_seconds": _DEPARTURE,
  }
  if where is not None:
    # Otherwise JAX would also look for a cluster, and let it choose the devices of this process.
    options |= {**where, "cluster_detection_method": "deactivate"}
  try:
    jax.distributed.initialize(**options)
  except ValueError as error:
    raise UserError(
      f"no cluster found in the environment ({error}): give --coordinator HOST:PORT --num-processes N --process-id K"
    ) from error
  except RuntimeError as error:
    raise UserError(
      f"cannot join the other processes ({str(error).splitlines()[0]}): give another address or port for process 0"
    ) from error
  _started.append(args.heartbeat)
  if len(jax.devices()) != len(jax.local_devices()) * jax.process_count():
    raise UserError(
      f"process {jax.process_index()} ({socket.gethostname()}) has {len(jax.local_devices())} of "
      f"{len(jax.devices())} devices: give all {jax.process_count()} processes the same number of devices"
    )
  from jaxfer.train import processes

  sys.stdout.flush()
  kept, silent = os.dup(1), os.open(os.devnull, os.O_WRONLY)
  os.dup2(silent, 1)  # Gloo prints a line to standard output when it connects.
  hosts = processes.gather(socket.gethostname())
  if processes.is_first():
    os.dup2(kept, 1)
  os.close(kept)
  os.close(silent)
  _tell(process=jax.process_index(), hosts=hosts)


def _given(args: argparse.Namespace) -> dict[str, Any] | None:
  """Returns the arguments of `jax.distributed.initialize` that the flags set, or None if no flag is given."""
  flags = {
    "--coordinator": args.coordinator,
    "--num-processes": args.num_processes,
    "--process-id": args.process_id,
  }
  missing = [name for name, value in flags.items() if value is None]
  if len(missing) == len(flags):
    return None
  if missing:
    raise UserError(f"{' and '.join(missing)} missing: give {', '.join(flags)} together, or --distributed")
  host, _, port = args.coordinator.rpartition(":")
  if not host or not port.isdecimal() or not 0 < int(port) < 65536:
    raise UserError(f"--coordinator {args.coordinator}: give HOST:PORT, such as 10.0.0.1:1234")
  if not 0 <= args.process_id < args.num_processes:
    raise UserError(
      f"--process-id {args.process_id} of --num-processes {args.num_processes}: give 0 to {args.num_processes - 1}"
    )
  if args.heartbeat < 1:
    raise UserError(f"--heartbeat {args.heartbeat}: give at least 1 second")
  return {
    "coordinator_address": args.coordinator,
    "num_processes": args.num_processes,
    "process_id": args.process_id,
  }


def _translate_errors() -> None:
  """Pipes standard error through `cluster_errors`, which runs in a process that outlives this one.

  The runtime ends a process from C++, where no Python code can run any more, and prints a stack trace.
  """
  # The runtime aborts the process, which must not leave a core dump.
  resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
  command = [sys.executable, "-m", cluster_errors.__name__]
  # In its own session, Ctrl-C does not end the reader before it has printed its last line.
  reader = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=2, start_new_session=True)
  assert reader.stdin is not None
  os.dup2(reader.stdin.fileno(), 2)
  reader.stdin.close()


def _tell(**facts: Any) -> None:
  """Sends facts for its messages to `cluster_errors`."""
  os.write(2, f"{cluster_errors.CONTROL}{json.dumps(facts)}\n".encode())


def failed(error: Exception) -> None:
  """Reports an error that may have occurred in this process only, and ends this process.

  It returns at once if there are no other processes.

  If another process is missing, an exchange with it fails at once, but the runtime needs about `--heartbeat` seconds to
  find out which process is missing. After a failed exchange, this function therefore waits. The runtime then ends this
  process, and the line about the missing process replaces the error.

  Args:
    error: the error.
  """
  if not _started:
    return
  if any(word in str(error) for word in _EXCHANGED):
    time.sleep(2 * _started[0] + 10)
  traceback.print_exc()
  leave(1)


def leave(code: int) -> int:
  """Leaves the other processes.

  After success, it waits until the other processes have ended too. After an error, it waits for at most five seconds
  and then ends this process. The others notice that its heartbeat is missing.

  Args:
    code: exit code of this process.

  Returns:
    The exit code.
  """
  if not _started:
    return code
  import jax

  sys.stdout.flush()
  sys.stderr.flush()
  if code == 0:
    jax.distributed.shutdown()
    return code
  # If all processes stop for the same reason, each must report it before it notices that another is missing.
  farewell = threading.Thread(target=jax.distributed.shutdown, daemon=True)
  farewell.start()
  farewell.join(5)
  os._exit(code)
