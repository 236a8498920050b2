"""Replaces a fatal message of the distributed runtime by one line that names the missing process.

The runtime ends a process from C++, and prints some twenty lines with a stack trace. `python -m jaxfer.cluster_errors`
copies its standard input, which is the standard error of such a process, to its standard output. From the first line
that the runtime prints, it holds all lines back. At the end of its input, it prints one line in place of a fatal
message; if there is none, it prints the held lines unchanged. Lines that begin with `CONTROL` are sent by the process
itself and are not copied. This module does not import JAX.
"""

import json
import re
import sys
from collections.abc import Iterable, Mapping
from typing import Any, BinaryIO

CONTROL = "\x01jaxfer "
_RUNTIME = re.compile(rb"[EF]\d{4} .*(coordination_service|client\.h)")
_FATAL = b"Terminating process because the JAX distributed service detected fatal errors"
_LISTED = re.compile(r"(?:unhealthy \(stopped sending heartbeats\)|timed out task names):\n((?:.*\d+\n)+)")
_FAILED = re.compile(r"Task (\d+) heartbeat timeout")
_RESUME = "start all processes again with --resume"


def copy(lines: Iterable[bytes], out: BinaryIO) -> None:
  """Copies lines to `out`, with the changes that the module describes."""
  facts: dict[str, Any] = {}
  held: list[bytes] = []
  for line in lines:
    if line.startswith(CONTROL.encode()):
      facts |= json.loads(line[len(CONTROL) :])
    elif held or _RUNTIME.match(line):
      held.append(line)
    else:
      out.write(line)
      out.flush()
  message = b"".join(held)
  if _FATAL in message:
    message = f"jaxfer: {meaning(message.decode(errors='replace'), facts)}\n".encode()
  out.write(message)
  out.flush()


def meaning(message: str, facts: Mapping[str, Any]) -> str:
  """Returns one line that explains a fatal message of the runtime.

  Args:
    message: the message of the runtime.
    facts: facts that the process has sent: "heartbeat" (in seconds) and, once it has joined the others, "process" (its
      number) and "hosts" (the host name of each process).
  """
  hosts, heartbeat = facts.get("hosts", []), facts.get("heartbeat")
  own = f"process {facts['process']} ends: " if "process" in facts else ""
  if failed := _FAILED.findall(message):
    missing = sorted({int(number) for number in failed})
  elif listed := _LISTED.search(message):
    missing = sorted({int(re.findall(r"\d+", line)[-1]) for line in listed[1].splitlines()})
  elif "RegisterTask" in message:
    return (
      "not all processes reached the coordinator in time: start all of them, each with its own --process-id and the "
      "same --coordinator, an address of process 0 that every machine can reach"
    )
  elif any(sign in message for sign in ("/Heartbeat", "Failed to send RPC")):
    missing = [0]  # The coordinator does not answer.
  else:
    return f"{own}{message.splitlines()[0]}"
  named = [f"{number} ({hosts[number]})" if number < len(hosts) else f"{number}" for number in missing]
  noun, verb = ("processes", "are") if len(missing) > 1 else ("process", "is")
  return (
    f"{own}{noun} {', '.join(named)} of {len(hosts)} {verb} missing (killed, stopped or unreachable for up to "
    f"{heartbeat} s): {_RESUME}"
  )


if __name__ == "__main__":
  copy(sys.stdin.buffer, sys.stdout.buffer)
