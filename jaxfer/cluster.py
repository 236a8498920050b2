"""Starts and ends this process as one of several, on one or more machines, with `jax.distributed`.

The command line calls `start` before JAX is used, and `leave` at the end. What the processes tell each other in between
is in `train/processes.py`. DISTRIBUTED.md in `train` has commands for Slurm, Cloud TPU pods and plain ssh.
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

HEARTBEAT = 60
# Seconds after which a process gives up that waits for the others at the start, or at the end.
_ARRIVAL, _DEPARTURE = 300, 30
# Words in errors of exchanges between processes.
_EXCHANGED = ("Gloo", "NCCL", "collective", "arrier", "coordination", "UNAVAILABLE", "DEADLINE_EXCEEDED")

_started: list[int] = []  # The heartbeat in seconds, once `start` has joined other processes.


def add_flags(parser: argparse.ArgumentParser) -> None:
  """Adds the flags with which a command runs as one of several processes."""
  group = parser.add_argument_group("several machines")
  group.add_argument(
    "--distributed",
    action="store_true",
    help="run as one of several processes, which Slurm, Open MPI, Cloud TPU or Kubernetes describe in the environment; "
    "execution.distributed=true does the same",
  )
  group.add_argument("--coordinator", metavar="HOST:PORT", help="elsewhere: address of process 0")
  group.add_argument("--num-processes", type=int, metavar="N", help="elsewhere: number of processes")
  group.add_argument("--process-id", type=int, metavar="K", help="elsewhere: number of this process, from 0")
  group.add_argument(
    "--heartbeat",
    type=int,
    default=HEARTBEAT,
    metavar="SECONDS",
    help=f"all processes end when one has not answered for this long (default: {HEARTBEAT})",
  )


def start(args: argparse.Namespace, distributed: bool) -> None:
  """Joins the other processes, if the flags or the configuration ask for it.

  Process 0 alone keeps its standard output. From here on, the errors with which the runtime ends a process are replaced
  by one line each; see `cluster_errors`.

  Args:
    args: the parsed flags of `add_flags`.
    distributed: `execution.distributed` of the configuration.

  Raises:
    UserError: some of the flags are missing or out of range, no cluster is found, process 0 cannot listen, or the
      processes have different numbers of devices.
  """
  where = _given(args)
  if where is None and not (args.distributed or distributed):
    return
  import jax

  _translate_errors()
  _tell(heartbeat=args.heartbeat)
  jax.config.update("jax_cpu_collectives_implementation", "gloo")
  # It would catch SIGTERM in place of the training, which saves its state.
  jax.config.update("jax_enable_preemption_service", False)
  options: dict[str, Any] = {
    "initialization_timeout": _ARRIVAL,
    "heartbeat_timeout_seconds": args.heartbeat,
    "shutdown_timeout_seconds": _DEPARTURE,
  }
  if where is not None:
    # Otherwise the environment would choose the devices.
    options |= {**where, "cluster_detection_method": "deactivate"}
  try:
    jax.distributed.initialize(**options)
  except ValueError as error:
    raise UserError(
      f"no cluster found in the environment ({error}): give --coordinator HOST:PORT --num-processes N --process-id K"
    ) from error
  except RuntimeError as error:
    raise UserError(
      f"the processes cannot be joined ({str(error).splitlines()[0]}): give another address or port of process 0"
    ) from error
  _started.append(args.heartbeat)
  if len(jax.devices()) != len(jax.local_devices()) * jax.process_count():
    raise UserError(
      f"process {jax.process_index()} ({socket.gethostname()}) has {len(jax.local_devices())} devices of "
      f"{len(jax.devices())}, and {jax.process_count()} processes need equally many each"
    )
  from jaxfer.train import processes

  sys.stdout.flush()
  kept, silent = os.dup(1), os.open(os.devnull, os.O_WRONLY)
  os.dup2(silent, 1)  # Gloo prints a line when it connects.
  hosts = processes.gather(socket.gethostname())
  if processes.is_first():
    os.dup2(kept, 1)
  os.close(kept)
  os.close(silent)
  _tell(process=jax.process_index(), hosts=hosts)


def _given(args: argparse.Namespace) -> dict[str, Any] | None:
  """Returns the arguments of `jax.distributed.initialize` that the flags give, or None without them."""
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
  """Sends standard error through `cluster_errors`, in a process that outlives this one.

  The runtime ends a process from C++, with a stack trace, where no code of Python can speak.
  """
  resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
  command = [sys.executable, "-m", cluster_errors.__name__]
  # A session of its own, so that Ctrl-C does not end it before its last line.
  reader = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=2, start_new_session=True)
  assert reader.stdin is not None
  os.dup2(reader.stdin.fileno(), 2)
  reader.stdin.close()


def _tell(**facts: Any) -> None:
  """Tells `cluster_errors` what its messages need."""
  os.write(2, f"{cluster_errors.CONTROL}{json.dumps(facts)}\n".encode())


def failed(error: Exception) -> None:
  """Reports an error that no other process may share, and ends this process. Does nothing if it is the only one.

  If another process is gone, an exchange with it fails, and it takes a heartbeat until the runtime knows which one is
  gone. It then ends this process, and the line that says so replaces the error.
  """
  if not _started:
    return
  if any(word in str(error) for word in _EXCHANGED):
    time.sleep(2 * _started[0] + 10)
  traceback.print_exc()
  leave(1)


def leave(code: int) -> int:
  """Returns the exit code, after the other processes have ended too. After an error, this process does not wait long.

  The others notice its absence by its heartbeat.
  """
  if not _started:
    return code
  import jax

  sys.stdout.flush()
  sys.stderr.flush()
  if code == 0:
    jax.distributed.shutdown()
    return code
  # If all processes stop for the same reason, none of them must miss another before it has said so.
  farewell = threading.Thread(target=jax.distributed.shutdown, daemon=True)
  farewell.start()
  farewell.join(5)
  os._exit(code)
