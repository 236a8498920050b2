"""Compares two result files case by case: python -m benchmarks.compare OLD.jsonl NEW.jsonl

Programs compiled for a TPU and not run are compared by their cycles, which have no noise.

A ratio above 1 is slower than before. Its bounds come from the spread of the runs: from new p10 / old p90 to new p90 /
old p10. It is a regression if one of our implementations ("jaxfer...") is slower by more than the margin and the noise,
so that the ratio exceeds 1 + margin and the lower bound exceeds 1, or if it no longer runs or agrees. Peers are shown
because they tell how much the machine has changed, but they never count.

Exit code: 0 no regression, 1 a regression, 2 the files cannot be compared.
"""

import argparse
import dataclasses
import pathlib
import sys
from collections.abc import Sequence

from benchmarks import records
from benchmarks.records import BadRecords, Record

MARGIN = 0.05


@dataclasses.dataclass(frozen=True)
class Change:
  """One measurement in both files; `verdict` is "same", "faster", "slower", "broken", "repaired", "new" or "gone"."""

  key: tuple[str, str, str]
  verdict: str
  ratio: float | None = None
  low: float | None = None
  high: float | None = None

  @property
  def regression(self) -> bool:
    """Whether the change is a regression of ours."""
    return self.verdict in ("slower", "broken", "gone") and self.key[2].startswith("jaxfer")


def _time(record: Record | None) -> tuple[float, float, float] | None:
  """Returns median, p10 and p90 in seconds, or in cycles of a compiled program; None if there is neither."""
  if record is None:
    return None
  if record["compiled"] is not None:
    return (record["compiled"]["cycles"],) * 3
  seconds = record["seconds"]
  return seconds and (seconds["median"], seconds["p10"], seconds["p90"])


def change(
  key: tuple[str, str, str], old: Record | None, new: Record | None, margin: float = MARGIN
) -> Change:
  """Returns the change of one measurement."""
  before, after = _time(old), _time(new)
  if new is None:
    # A measurement that did not run before is not a regression.
    return Change(key, "gone" if before else "same")
  if old is None:
    return Change(key, "new")
  if not before or not after:
    return Change(key, "repaired" if after else "broken" if before else "same")
  ratio, low, high = after[0] / before[0], after[1] / before[2], after[2] / before[1]
  if ratio > 1 + margin and low > 1:
    verdict = "slower"
  elif ratio < 1 / (1 + margin) and high < 1:
    verdict = "faster"
  else:
    verdict = "same"
  return Change(key, verdict, ratio, low, high)


def compare(old: Sequence[Record], new: Sequence[Record], margin: float = MARGIN) -> list[Change]:
  """Returns the changes of all measurements, in the order of the old file. Benchmarks not in the new file are left out.

  Raises:
    BadRecords: the files are from different devices, thread counts or matmul precisions, or contain quick runs.
  """
  for name, one in (("old", old), ("new", new)):
    if any(record["quick"] for record in one):
      raise BadRecords(f"the {name} file holds runs of --quick, whose times are meaningless")
  compiled = all(record["compiled"] is not None for record in (*old, *new))
  # The compiler gives the same program on every machine, and the case names the chip.
  for what in ("platform",) if compiled else ("platform", "device_kind", "cpu", "threads"):
    values = [sorted({str(record["environment"][what]) for record in one}) for one in (old, new)]
    if values[0] != values[1]:
      raise BadRecords(f"{what} differs: {', '.join(values[0])} against {', '.join(values[1])}")
  before, after = records.latest(old), records.latest(new)
  ran = {key[0] for key in after}
  both = [key for key in dict.fromkeys([*before, *after]) if key[0] in ran]
  for key in both:
    precisions = {record["matmul_precision"] for record in (before.get(key), after.get(key)) if record}
    if len(precisions) > 1:
      raise BadRecords(f"{' '.join(key)}: matmul precision differs: {', '.join(sorted(precisions))}")
  return [change(key, before.get(key), after.get(key), margin) for key in both]


def main(arguments: Sequence[str] | None = None) -> int:
  flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  flags.add_argument("old", type=pathlib.Path)
  flags.add_argument("new", type=pathlib.Path)
  flags.add_argument(
    "--margin", type=float, default=MARGIN, help="least relative change that counts (default 0.05)"
  )
  parsed = flags.parse_args(arguments)
  try:
    changes = compare(records.read(parsed.old), records.read(parsed.new), parsed.margin)
  except BadRecords as error:
    print(error, file=sys.stderr)
    return 2
  for c in changes:
    numbers = "" if c.ratio is None else f"{c.ratio:6.3f}  [{c.low:.3f}, {c.high:.3f}]"
    print(f"{c.verdict:<9} {c.key[0]:<15} {c.key[1]:<52} {c.key[2]:<20} {numbers}")
  regressions = [c for c in changes if c.regression]
  print(f"{len(changes)} measurements, {len(regressions)} regressions")
  return 1 if regressions else 0


if __name__ == "__main__":
  sys.exit(main())
