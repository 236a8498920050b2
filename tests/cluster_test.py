"""Tests the flags of several processes, and the lines that replace the runtime's messages about missing processes."""

import io
import json

import pytest

from jaxfer import cli, cluster_errors

HEAD = (
  "F1128 07:06:21.660650   14670 client.h:80] Terminating process because the JAX distributed service detected fatal "
  "errors. This most likely indicates that another task died; see the other task logs for more details. absl::Status: "
)
# Messages of jaxlib 0.10.1, shortened.
MESSAGES = {
  "silent": HEAD
  + "UNAVAILABLE: The following tasks are unhealthy (stopped sending heartbeats):\n1\n3\n"
  + "The tasks have crashed. Check the task logs for an earlier error.\n\n"
  + "RPC: /xla.coordination.CoordinationService/PollForError \n*** Check failure stack trace: ***\n",
  "coordinator killed": HEAD
  + "UNAVAILABLE: Failed to send RPC to coordination service. Either the leader task was preempted\n"
  + "coordination_service while calling /xla.coordination.CoordinationService/PollForError:\n",
  "coordinator stopped": HEAD
  + "DEADLINE_EXCEEDED: Deadline Exceeded\n\nRPC: /xla.coordination.CoordinationService/Heartbeat\n",
  "not ended": HEAD
  + "INTERNAL: Shutdown barrier has failed.\n# of tasks that reached the barrier: 1/3.\n"
  + "The first task at the barrier: 1. Some timed out task names:\n0\n2\n [tensorflow.BarrierError]\n",
  "failed": HEAD
  + "INTERNAL: Shutdown barrier has failed.\nBarrier result: 'INTERNAL: Barrier failed because: task is set to ERROR: "
  + "UNAVAILABLE: Task 1 heartbeat timeout.\n\nRPC: /xla.coordination.CoordinationService/PollForError\n",
  "late": HEAD
  + "DEADLINE_EXCEEDED: Deadline Exceeded\n\nRPC: /xla.coordination.CoordinationService/RegisterTask\n",
  "unknown": HEAD + "INTERNAL: a fault of its own\n",
}
FOLLOWS = "missing (killed, stopped or unreachable for up to 20 s): start all processes again with --resume"


def copied(*lines):
  out = io.BytesIO()
  cluster_errors.copy([line.encode() for text in lines for line in text.splitlines(keepends=True)], out)
  return out.getvalue().decode()


def told(**facts):
  return f"{cluster_errors.CONTROL}{json.dumps(facts)}\n"


@pytest.mark.parametrize(
  ("message", "line"),
  [
    ("silent", f"process 2 ends: processes 1 (b), 3 (d) of 4 are {FOLLOWS}"),
    ("coordinator killed", f"process 2 ends: process 0 (a) of 4 is {FOLLOWS}"),
    ("coordinator stopped", f"process 2 ends: process 0 (a) of 4 is {FOLLOWS}"),
    ("failed", f"process 2 ends: process 1 (b) of 4 is {FOLLOWS}"),
    ("not ended", f"process 2 ends: processes 0 (a), 2 (c) of 4 are {FOLLOWS}"),
    ("unknown", f"process 2 ends: {HEAD}INTERNAL: a fault of its own"),
  ],
)
def test_a_missing_process_is_named_in_one_line(message, line):
  facts = told(heartbeat=20), told(process=2, hosts=["a", "b", "c", "d"])
  assert copied(*facts, "a warning\n", MESSAGES[message]) == f"a warning\njaxfer: {line}\n"


def test_a_process_that_never_came_is_said_to_be_late():
  assert copied(told(heartbeat=20), MESSAGES["late"]).startswith(
    "jaxfer: not all processes reached the coordinator in time: start all of them"
  )


def test_other_errors_are_copied_as_they_are():
  error = "E1128 07:06:21.6   1 coordination_service.cc:1548] an error that ends nothing\nTraceback\n"
  assert copied("one\n", error) == "one\n" + error


@pytest.mark.parametrize(
  ("flags", "message"),
  [
    (
      "--coordinator a:1",
      "--num-processes and --process-id missing: give --coordinator, --num-processes, --process-id",
    ),
    ("--num-processes 2 --process-id 0", "--coordinator missing"),
    ("--coordinator a --num-processes 2 --process-id 0", "--coordinator a: give HOST:PORT"),
    ("--coordinator a:99999 --num-processes 2 --process-id 0", "--coordinator a:99999: give HOST:PORT"),
    (
      "--coordinator a:1 --num-processes 2 --process-id 2",
      "--process-id 2 of --num-processes 2: give 0 to 1",
    ),
    (
      "--coordinator a:1 --num-processes 2 --process-id 0 --heartbeat 0",
      "--heartbeat 0: give at least 1 second",
    ),
  ],
)
def test_incomplete_or_wrong_flags_are_refused(flags, message, capsys, tmp_path):
  assert cli.main(["evaluate", str(tmp_path), *flags.split()]) == 2
  assert message in capsys.readouterr().err
