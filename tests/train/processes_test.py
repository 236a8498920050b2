"""What processes tell each other. `tests/several_processes_test.py` runs real ones."""

import json

import jax
import numpy as np
import pytest

from jaxfer.errors import UserError
from jaxfer.train import prefetch, processes
from jaxfer.train.devices import divide, first_of_each


@pytest.fixture
def others(monkeypatch):
  """Makes this process the first of three; the list is what the other two tell in the next exchange."""
  texts = ["", ""]
  monkeypatch.setattr(processes, "count", lambda: 3)
  monkeypatch.setattr(processes, "gather", lambda text: [text, *texts])
  monkeypatch.setattr("socket.gethostname", lambda: "here")
  return texts


def refuse():
  raise UserError("no copy of the data")


def test_one_process_exchanges_nothing():
  assert processes.gather("text") == ["text"]
  assert processes.smallest(None) is None
  assert processes.each(lambda: 3) == processes.decided(lambda: 3) == processes.alone(lambda: 3, 4) == 3
  assert processes.Votes().turn((15, 0)) == (15, 0)
  processes.check_same({"config": 1})


def test_an_error_of_one_process_is_raised_by_all_with_its_name(others):
  others[:] = [json.dumps(["there", None]), json.dumps(["yonder", "no copy of the data"])]
  with pytest.raises(UserError, match=r"^process 2 of 3 \(yonder\): no copy of the data$"):
    processes.each(lambda: 3)
  others[:] = [json.dumps(["there", None])] * 2
  with pytest.raises(UserError, match=r"^process 0 of 3 \(here\): no copy of the data$"):
    processes.each(refuse)
  assert processes.each(lambda: 3) == 3


def test_an_error_that_all_share_is_said_once(others):
  others[:] = [json.dumps(["there", "no copy of the data"])] * 2
  with pytest.raises(UserError, match=r"^no copy of the data$"):
    processes.each(refuse)


def test_the_others_take_what_process_0_decides(others, monkeypatch):
  assert processes.decided(lambda: [1, "a"]) == [1, "a"]
  with pytest.raises(UserError, match="no copy"):
    processes.decided(refuse)
  monkeypatch.setattr(processes, "is_first", lambda: False)
  told = [json.dumps({"value": [1, "a"]}), json.dumps({"error": "no room"})]
  monkeypatch.setattr(processes, "gather", lambda text: [told.pop(0), text])
  assert processes.alone(refuse, "nothing") == "nothing"
  with pytest.raises(UserError, match="no room"):
    processes.decided(refuse)


def test_processes_that_differ_are_told_both_values(others):
  others[:] = [json.dumps(["there", {"jax": "0.10.1"}]), json.dumps(["yonder", {"jax": "0.10.0"}])]
  with pytest.raises(
    UserError, match=r"process 0 \(here\) has jax=0\.10\.1, process 2 \(yonder\) has jax=0\.10\.0"
  ):
    processes.check_same({"jax": "0.10.1"})
  others[:] = [json.dumps(["there", {"jax": "0.10.1"}])] * 2
  processes.check_same({"jax": "0.10.1"})


def test_the_least_memory_decides(others):
  others[:] = ["5", "null"]
  assert processes.smallest(7) == 5
  assert processes.smallest(None) == 5


def test_every_process_has_equal_parts_of_a_mesh():
  found = {  # (members, batch, devices, processes): (rows, shards)
    (1, 8, 8, 2): (1, 8),
    (1, 6, 8, 2): (1, 6),  # Three devices of each process.
    (4, 8, 4, 4): (4, 1),
    (6, 8, 4, 4): (2, 2),
    (3, 8, 2, 2): (1, 2),
    (3, 4, 8, 4): (1, 4),  # Not (3, 2): process 1 would have parts of two rows.
  }
  assert {given: divide(*given) for given in found} == found
  with pytest.raises(UserError, match=r"2 processes cannot share batches of 5: take batch_size=6"):
    divide(1, 5, 2, 2)


class _Device:
  def __init__(self, process):
    self.process_index = process


def test_each_process_gives_its_first_devices():
  devices = [_Device(k) for k in (0, 0, 0, 1, 1, 1)]
  assert first_of_each(devices, 4) == (*devices[:2], *devices[3:5])
  assert first_of_each(jax.devices(), 3) == tuple(jax.devices()[:3])


def test_each_row_of_the_mesh_reads_rows_of_its_own_members():
  """Of four members on two rows and two shards: a block holds two members' halves of a batch."""
  plan = {"row": np.arange(3 * 4 * 6).reshape(3, 4, 6), "real": np.ones((3, 4, 6), bool)}
  blocks, columns = prefetch.window(plan, 2, 2)
  assert blocks.shape == (2, 2, 3 * 2 * 3)
  for member in range(4):
    for position in range(6):
      block = blocks[member // 2, position // 3]
      np.testing.assert_array_equal(
        block[columns["row"][:, member, position]], plan["row"][:, member, position]
      )
