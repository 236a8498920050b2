"""The plan of a device day: its parts in order, their shares of the time, and the state of each."""

import dataclasses
import json
import pathlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any

LEAST = 20.0  # Seconds; no part is started if less time is left.
ATTEMPTS = 2  # Number of slices in which a failing part is tried.
_STATUSES = ("waiting", "running", "stopped", "done", "failed")


@dataclasses.dataclass(frozen=True)
class Part:
  """One process of the day.

  Attributes:
    name: unique name.
    script: script of `benchmarks`.
    minutes: share of the day, at least 20 seconds. Unfinished work waits until all other parts have had their shares.
    flags: flags of the script besides those that all parts get.
    peers: value of `--peers`, "all" or names separated by commas; none by default.
    gate: whether the part comes first in every slice until it is done, and its failure ends the day.
    anew: whether the part is measured again although its cases are recorded.
  """

  name: str
  script: str
  minutes: float
  flags: tuple[str, ...] = ()
  peers: str | None = None
  gate: bool = False
  anew: bool = False

  def peers_on(self, device: str | None) -> str | None:
    """Returns the peers that run on a device; those of PyTorch and scikit-learn do not run on a TPU."""
    if self.peers is None or device != "tpu":
      return self.peers
    asked = _ON_TPU if self.peers == "all" else self.peers.split(",")
    return ",".join(peer for peer in asked if peer in _ON_TPU) or None

  def arguments(self, device: str | None) -> list[str]:
    """Returns the arguments after `python -m` on a device, without the common flags of the day."""
    peers = self.peers_on(device)
    resume = [] if self.anew else ["--continue"]
    return [f"benchmarks.{self.script}", *self.flags, *([f"--peers={peers}"] if peers else []), *resume]


_COMPILED = "flax,torch_compile"
_ON_TPU = ("flax", "flax_unrolled", "keras")
# Most important first. The shares add up to 27 minutes, three slices of nine.
PARTS: tuple[Part, ...] = (
  Part("goldens", "goldens", 2, ("--runs=5",), gate=True),
  # A case is recorded as a whole, so it is first measured without the programs that take minutes to compile.
  Part("headline", "conv_rnn", 2, ("--first",), peers="flax,flax_unrolled,torch"),
  Part("headline beside all", "conv_rnn", 2.25, ("--first",), peers="all"),
  Part("choices", "choose", 3.75, ("--write",)),
  # The table of choices has changed.
  Part("headline again", "conv_rnn", 0.75, ("--first",), anew=True),
  # On a TPU, the table is updated after each case with the layers that are faster with Pallas kernels.
  Part("conv_rnn", "conv_rnn", 3.25, ("--write",), peers="all"),
  Part("train_step", "train_step", 2),
  Part("members", "members", 2.5),
  Part("convnets", "convnets", 3, peers=_COMPILED),
  Part("vae_step", "vae_step", 2, peers=_COMPILED),
  Part("quickstart", "quickstart", 1.25),
  Part("kmeans", "kmeans", 0.75, peers="scikit_learn"),
  Part("memory", "memory", 0.75),
  Part("compile_time", "compile_time", 0.75, peers="flax"),
)


class State:
  """The state of a day: {part: status, seconds, attempts, reason}, and the machine and code.

  It is stored in a file, which is written after every change. A part that was running when the program was killed
  counts as stopped.
  """

  def __init__(self, path: pathlib.Path, run: Mapping[str, Any]):
    """Reads the file; starts an empty state if it is missing, damaged, or from another machine or code than `run`."""
    self.path, self.run = path, dict(run)
    self.slices, self.parts, self.other = 0, dict[str, dict[str, Any]](), False
    try:
      found = json.loads(path.read_text())
      self.other = found["run"] != self.run
      if not self.other:
        self.slices, self.parts = found["slices"], found["parts"]
    except (OSError, ValueError, KeyError, TypeError):
      return
    for entry in self.parts.values():
      if entry["status"] == "running":
        entry["status"] = "stopped"

  def of(self, part: Part) -> dict[str, Any]:
    """Returns the entry of a part."""
    return self.parts.setdefault(
      part.name, {"status": "waiting", "seconds": 0.0, "attempts": 0, "reason": None}
    )

  def set(self, part: Part, status: str, reason: str | None = None) -> None:
    """Changes a part's status, and writes the file."""
    assert status in _STATUSES, status
    entry = self.of(part)
    entry.update(status=status, reason=reason)
    entry["attempts"] += status == "failed"
    self.save()

  def spend(self, part: Part, seconds: float) -> None:
    """Adds to a part's time, and writes the file."""
    self.of(part)["seconds"] += seconds
    self.save()

  def save(self) -> None:
    """Writes the file atomically."""
    self.path.parent.mkdir(parents=True, exist_ok=True)
    fresh = self.path.with_suffix(".new")
    fresh.write_text(
      json.dumps({"run": self.run, "slices": self.slices, "parts": self.parts}, indent=1) + "\n"
    )
    fresh.replace(self.path)

  def open(self, part: Part) -> bool:
    """Whether a part is unfinished."""
    entry = self.of(part)
    if entry["status"] == "failed":
      return entry["attempts"] < ATTEMPTS
    return entry["status"] != "done"


def next_turn(
  parts: Sequence[Part], state: State, left: float, over: Collection[str]
) -> tuple[Part, float] | None:
  """Returns the next part and its time limit in seconds; None if nothing is left to do, or too little time.

  First each part gets its share, in order. Those that were stopped then get twice their share, in order, then four
  times, and so on. Thus a long sweep does not block the others, and a case that takes longer than a share is finished
  eventually. An unfinished gate gets its share at the start of every slice.

  Args:
    parts: parts of the day.
    state: state of the day.
    left: seconds left in the slice.
    over: parts that are finished for this slice.
  """
  if left < LEAST:
    return None
  waiting = [part for part in parts if state.open(part) and part.name not in over]
  if not waiting:
    return None
  turns = [_turn(part, state.of(part)["seconds"]) for part in waiting]
  first = min(range(len(turns)), key=lambda k: turns[k][0])
  return waiting[first], min(turns[first][1], left)


def _turn(part: Part, spent: float) -> tuple[int, float]:
  """Returns the round of a part after `spent` seconds, and the seconds that are left in that round."""
  share, number = 60 * part.minutes, 0
  if part.gate:
    return 0, share
  while (room := share * (2 ** (number + 1) - 1) - spent) < LEAST:
    number += 1
  return number, room


def barred(parts: Sequence[Part], state: State) -> bool:
  """Whether a gate has failed, so that nothing else may be measured."""
  return any(part.gate and state.of(part)["status"] == "failed" for part in parts)
