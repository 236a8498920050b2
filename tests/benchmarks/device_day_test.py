"""Tests the order, the time limits and the state of a device day with a simulated clock and simulated processes."""

import argparse
import json
import os
import runpy
import signal
import subprocess
import sys
import time

import pytest

from benchmarks import day_plan, device_day, harness, on_file, records
from benchmarks.day_plan import LEAST, PARTS, Part, State
from tests.benchmarks.toy import ENVIRONMENT, record

RUN = {"device": "a-gpu-jax0.11.2", "commit": "0123456789abcdef", "quick": False}
DAY = (Part("a", "goldens", 2, gate=True), Part("b", "choose", 1, ("--write",)), Part("c", "members", 3))


class World:
  """A clock, and processes that take some seconds each: name of the script -> (seconds, exit code)."""

  def __init__(self, **needs):
    self.now, self.needs, self.begun, self.stopped = 0.0, needs, [], []

  def launch(self, command):
    return Fake(self, command[2].removeprefix("benchmarks."))


class Fake:
  """A process. If it is stopped, the next process of the same script does the remaining work."""

  def __init__(self, world, name):
    self.world, self.name = world, name
    world.begun.append(name)

  def wait(self, seconds):
    left, code = self.world.needs[self.name]
    taken = min(seconds, left)
    self.world.now += taken
    self.world.needs[self.name] = left - taken, code
    return code if left <= seconds else None

  def stop(self):
    self.world.stopped.append(self.name)

  def last_line(self):
    return "RuntimeError: no memory"


def day_of(out, world, *, parts=DAY, environment=ENVIRONMENT, **changes):
  arguments = argparse.Namespace(out=out, device=None, quick=False, despite_goldens=False, **changes)
  return device_day.Day(arguments, environment, world.launch, lambda: world.now, parts)


def slice_of(out, world, minutes, **changes):
  day = day_of(out, world, **changes)
  day.slice(world.now + 60 * minutes)
  return day


@pytest.fixture(autouse=True)
def _table(tmp_path, monkeypatch):
  """Replaces the table of choices by one for the test."""
  path = tmp_path / "checkout" / "choices.json"
  path.parent.mkdir()
  path.write_text("committed")
  monkeypatch.setattr(device_day, "CHOICES", path)


def test_each_part_has_its_share_and_the_rest_of_the_time_goes_to_what_is_left(tmp_path):
  world = World(goldens=(30, 0), choose=(300, 0), members=(100, 0))
  day = slice_of(tmp_path / "out", world, 5)
  assert world.begun == ["goldens", "choose", "members", "choose"]
  assert world.now == pytest.approx(300)
  assert [day.state.of(part)["status"] for part in DAY] == ["done", "stopped", "done"]
  assert day.state.of(DAY[1])["seconds"] == pytest.approx(60 + 300 - 190)


def test_the_next_slice_goes_on_and_measures_nothing_twice(tmp_path):
  world = World(goldens=(30, 0), choose=(50, 0), members=(600, 0))
  slice_of(tmp_path / "out", world, 3.05)
  assert world.stopped == ["members"]
  assert world.now == pytest.approx(183)  # Exact to the second, although the parts are checked rarely.
  day = slice_of(tmp_path / "out", world, 60)
  # The rest of its share, twice its share, four times its share.
  assert world.begun == ["goldens", "choose", *["members"] * 4]
  assert not any(day.state.open(part) for part in DAY)
  assert day.state.slices == 2
  before = list(world.begun)
  slice_of(tmp_path / "out", world, 60)
  assert world.begun == before


def test_a_part_that_was_running_when_all_was_killed_goes_on(tmp_path):
  world = World(goldens=(30, 0), choose=(40, 0), members=(100, 0))

  class Killed(Exception):
    pass

  class Last(Fake):
    def wait(self, seconds):
      if self.name == "choose" and self.world.needs["choose"][0] < 40:
        raise Killed
      return super().wait(seconds)

    def stop(self):  # The killed program cannot stop it.
      raise Killed

  world.launch = lambda command: Last(world, command[2].removeprefix("benchmarks."))
  with pytest.raises(Killed):
    slice_of(tmp_path / "out", world, 9)
  assert json.loads((tmp_path / "out/state.json").read_text())["parts"]["b"]["status"] == "running"
  assert (
    State(tmp_path / "out/state.json", on_file.run_of(ENVIRONMENT, False)).of(DAY[1])["status"] == "stopped"
  )
  world.launch = lambda command: Fake(world, command[2].removeprefix("benchmarks."))
  day = slice_of(tmp_path / "out", world, 9)
  assert world.begun == ["goldens", "choose", "choose", "members"]
  assert not any(day.state.open(part) for part in DAY)


def test_a_part_is_stopped_when_the_slice_ends_and_none_is_started_too_late(tmp_path):
  world = World(goldens=(100, 0), choose=(1, 0), members=(1, 0))
  slice_of(tmp_path / "out", world, (100 + LEAST - 1) / 60)
  assert world.begun == ["goldens"]
  assert "Left: b, c" in (tmp_path / "out/summary.txt").read_text()
  slice_of(tmp_path / "out", world, 9)
  assert world.begun == ["goldens", "choose", "members"]


def test_an_exception_stops_the_part_that_runs(tmp_path):
  world = World(goldens=(30, 0), choose=(40, 0), members=(100, 0))

  class Interrupted(Fake):
    def wait(self, seconds):
      raise SystemExit("terminated")

  world.launch = lambda command: Interrupted(world, command[2].removeprefix("benchmarks."))
  with pytest.raises(SystemExit):
    slice_of(tmp_path / "out", world, 9)
  assert world.stopped == ["goldens"]


def test_a_part_that_fails_is_tried_in_two_slices_and_named(tmp_path):
  world = World(goldens=(30, 0), choose=(25, 1), members=(30, 0))
  for times in (1, 2, 2):
    day = slice_of(tmp_path / "out", world, 9)
    assert world.begun.count("choose") == times
    assert day.failed
  assert (
    "b: exit code 1, after the line: RuntimeError: no memory" in (tmp_path / "out/summary.txt").read_text()
  )
  assert world.begun.count("members") == 1


def test_a_wrong_golden_prevents_other_parts_unless_overridden(tmp_path):
  world = World(goldens=(30, 1), choose=(25, 0), members=(30, 0))
  for _ in range(3):
    slice_of(tmp_path / "out", world, 9)
  assert world.begun == ["goldens", "goldens"]
  assert "Stopped: a golden is wrong" in (tmp_path / "out/summary.txt").read_text()
  day = day_of(tmp_path / "out", world)
  day.arguments.despite_goldens = True
  day.slice(world.now + 600)
  assert world.begun[2:] == ["choose", "members"]


def test_a_case_longer_than_its_share_is_done_in_the_end_and_a_long_sweep_keeps_nobody_waiting(tmp_path):
  class Anew(Fake):
    """A process that loses all its work when it is stopped."""

    def stop(self):
      super().stop()
      self.world.needs["members"] = 400, 0

  world = World(goldens=(10, 0), choose=(1e6, 0), members=(400, 0))
  world.launch = lambda command: (Anew if "members" in command[2] else Fake)(world, command[2][11:])
  day = slice_of(tmp_path / "out", world, 25)
  assert world.begun == ["goldens", "choose", "members", "choose", "members", "choose", "members", "choose"]
  assert [day.state.open(part) for part in DAY] == [False, True, False]


def test_goldens_that_are_not_done_have_their_share_first_in_every_slice(tmp_path):
  world = World(goldens=(300, 0), choose=(1000, 0), members=(1000, 0))
  slice_of(tmp_path / "out", world, 4)
  slice_of(tmp_path / "out", world, 4)
  assert world.begun == ["goldens", "choose", "members", "goldens", "members"]
  slice_of(tmp_path / "out", world, 4)
  assert world.begun[5:] == ["goldens", "choose", "members"]
  assert world.needs["goldens"] == (0, 0)


def test_another_device_or_commit_opens_every_part_again(tmp_path):
  path = tmp_path / "state.json"
  state = State(path, RUN)
  state.set(DAY[0], "done")
  assert not State(path, RUN).open(DAY[0])
  for change in ({"device": "another"}, {"commit": "f"}, {"quick": True}):
    other = State(path, {**RUN, **change})
    assert other.open(DAY[0])
    assert other.other
  path.write_text(path.read_text()[:40])
  assert State(path, RUN).open(DAY[0])


def test_the_table_of_choices_goes_with_the_results(tmp_path):
  """The next slice may start in a fresh copy of the checkout."""
  world = World(goldens=(30, 0), choose=(50, 0), members=(600, 0))
  device_day.CHOICES.write_text("measured")
  slice_of(tmp_path / "out", world, 3)
  device_day.CHOICES.write_text("committed")
  slice_of(tmp_path / "out", world, 1)
  assert device_day.CHOICES.read_text() == "measured"
  device_day.CHOICES.write_text("committed")
  slice_of(tmp_path / "out", world, 1, environment={**ENVIRONMENT, "commit": "another"})
  assert device_day.CHOICES.read_text() == "committed"


def test_the_folder_is_held_to_its_limits(tmp_path, monkeypatch):
  log = device_day.Log(tmp_path / "out/log.txt", limit=10)
  for _ in range(9):
    log.write("abc\n")
  assert (tmp_path / "out/log.txt").read_text() == "abc\nabc\n"
  device_day.Log(tmp_path / "out/log.txt", limit=10).write("de\n")
  assert (tmp_path / "out/log.txt").read_text() == "abc\nabc\n"
  day = day_of(tmp_path / "out", World())
  records.append(day.results, [record(seconds) for seconds in (0.1, 0.2, 0.3)])
  monkeypatch.setattr(device_day, "BYTES", day.results.stat().st_size - 1)
  day.fit()
  assert [row["seconds"]["median"] for row in records.read(day.results)] == [pytest.approx(0.3)]
  assert day.notes == []
  for k in range(device_day.FILES):
    (tmp_path / f"out/{k}").touch()
  day.fit()
  assert "more than 8" in day.notes[0]
  monkeypatch.setattr(device_day, "BYTES", 1)
  day.fit()
  assert any("is over" in note for note in day.notes)


def test_the_summary_says_what_ran_what_failed_and_the_ratios(tmp_path):
  day = day_of(tmp_path / "out", World())
  records.append(day.results, [
    record(0.1), record(0.25, implementation="flax"), record(implementation="torch", status="failed"),
    record(case="old", environment={**ENVIRONMENT, "commit": "another"}),
  ])  # fmt: skip
  text = day.summarise()
  assert "1 cases: 2 ok, 1 failed" in text
  assert "conv_rnn a torch failed: torch is not installed" in text
  assert "conv_rnn a: 100.000 ms; flax 2.50x" in text
  assert "old" not in text


class Parsed(Exception):
  """Raised instead of a measurement once the command line has been parsed."""


@pytest.mark.parametrize("device", [None, *harness.PLATFORMS])
@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.name)
def test_the_command_line_of_every_part_is_understood(part, device, tmp_path, monkeypatch):
  def session(benchmark, arguments):
    raise Parsed(benchmark, arguments)

  day = day_of(tmp_path / "out", World())
  day.arguments.device, day.arguments.quick = device, True
  command = day.command(part)
  monkeypatch.setattr(harness, "session", session)
  monkeypatch.setattr(sys, "argv", command[2:])
  monkeypatch.delitem(sys.modules, command[2], raising=False)
  with pytest.raises(Parsed) as parsed:
    runpy.run_module(command[2], run_name="__main__")
  benchmark, arguments = parsed.value.args
  assert benchmark == part.script
  assert arguments.quick
  assert arguments.output == day.results.resolve()
  assert arguments.resume == (not part.anew)
  assert arguments.device == device
  assert device != "tpu" or "torch" not in (arguments.peers or "")


def test_every_part_has_a_name_and_the_shares_make_three_slices_of_nine_minutes(tmp_path):
  assert len({part.name for part in PARTS}) == len(PARTS)
  assert sum(part.minutes for part in PARTS) == pytest.approx(27)
  assert all(60 * part.minutes >= LEAST for part in PARTS)
  assert PARTS[0].gate
  assert day_plan.next_turn(PARTS, State(tmp_path / "none.json", RUN), 1e9, ()) == (PARTS[0], 120)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a process with its parent")
def test_a_part_ends_with_the_program_that_started_it(tmp_path):
  """Otherwise it would continue beside the next slice."""
  script = (
    "import pathlib, sys; from benchmarks.device_day import Child, Log;"
    "code = 'import os, time; print(os.getpid(), flush=True); time.sleep(600)';"
    f"Child([sys.executable, '-c', code], Log(pathlib.Path({str(tmp_path)!r}) / 'log.txt')).wait(600)"
  )
  with subprocess.Popen(
    [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, cwd=device_day.machine.ROOT
  ) as parent:
    child = int(parent.stdout.readline())
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
  for _ in range(600):
    if not _runs(child):
      return
    time.sleep(0.1)
  os.kill(child, signal.SIGKILL)
  pytest.fail("the part runs on")


def _runs(process):
  try:
    with open(f"/proc/{process}/stat") as file:
      return file.read().rpartition(")")[2].split()[0] != "Z"
  except FileNotFoundError:
    return False
