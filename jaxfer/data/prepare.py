"""`jaxfer prepare`: imports a distributor's tree into array_record and says what it found there.

An importer is a builder whose `_generate_examples` fills `self.findings` while it reads, yields what is sound
and ends with `self.findings.finish(...)`. So every file is read once, all problems are collected before
anything stops, and nothing is written where the command stops.
"""

import dataclasses
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from jaxfer import files
from jaxfer.data import records, stream
from jaxfer.data.datasets import DATASETS
from jaxfer.errors import UserError, unknown

T = TypeVar("T")

_SHOWN = 8  # Entries of a list in the table; report.json has them all.
_SECONDS_BETWEEN_LINES = 10.0  # Progress where there is no terminal.


@dataclasses.dataclass(frozen=True)
class Count:
  """How many of something there are, and how many there should be (None: nothing is promised)."""

  what: str
  found: int
  expected: int | None = None


@dataclasses.dataclass(frozen=True)
class Problem:
  """What is wrong or odd about one file or folder, in one line."""

  path: str
  what: str


@dataclasses.dataclass(frozen=True)
class Belief:
  """Something generally said of the data set but never verified, held against this copy."""

  claim: str
  holds: bool
  seen: str


@dataclasses.dataclass
class Findings:
  """What an importer collects while it reads.

  Attributes:
    counts: found against expected.
    bad: files that cannot be used; they stop the import unless skipped.
    odd: irregularities that do no harm.
    beliefs: unverified claims, confirmed or broken by this copy.
    notes: what was decided, with counts, e.g. how many sequences carry no label.
  """

  counts: list[Count] = dataclasses.field(default_factory=list)
  bad: list[Problem] = dataclasses.field(default_factory=list)
  odd: list[Problem] = dataclasses.field(default_factory=list)
  beliefs: list[Belief] = dataclasses.field(default_factory=list)
  notes: list[str] = dataclasses.field(default_factory=list)

  def finish(self, skip_bad: bool) -> None:
    """Raises `BadFiles` if there are bad files and they are not to be skipped."""
    if self.bad and not skip_bad:
      raise BadFiles(self)


class BadFiles(UserError):
  """Files of the source cannot be used; `findings` lists them all."""

  def __init__(self, findings: Findings):
    first, others = findings.bad[0], len(findings.bad) - 1
    more = f" (and {others} more bad files)" if others else ""
    super().__init__(
      f"{first.path}: {first.what}{more}; nothing was written: repair them, or leave them out with --skip-bad"
    )
    self.findings = findings


@dataclasses.dataclass(frozen=True)
class Report:
  """The integrity report of one import.

  Attributes:
    dataset: name in `DATASETS`.
    source: the folder that was read.
    folder: where the array_record files lie; "" if nothing was written.
    options: the options of the builder's configuration.
    method: how the arrays were made: what the builder states as its metadata.
    licence: terms, and where to ask.
    fingerprint: of the records as read back; "" if nothing was written.
    findings: counts and lists.
    replaced: which earlier copy under the same options this one takes the place of; "" where there was none.
  """

  dataset: str
  source: str
  folder: str
  options: dict[str, Any]
  method: dict[str, Any]
  licence: str
  fingerprint: str
  findings: Findings
  replaced: str = ""

  def to_json(self) -> str:
    """Everything, lists in full."""
    return files.to_json(dataclasses.asdict(self), indent=1)

  def table(self) -> str:
    """Aligned plain text. Lists are shortened, but where nothing was written the bad files are all there."""
    found = self.findings
    width = max((len(count.what) for count in found.counts), default=0)
    lines = [f"{self.dataset}, read from {self.source}", "", f"  {'':{width}}   found  expected"]
    for count in found.counts:
      expected = "" if count.expected is None else f"{count.expected:10d}"
      mark = "" if count.expected in (None, count.found) else "   differs"
      lines.append(f"  {count.what:{width}}{count.found:8d}{expected}{mark}")
    lines += self._list(
      "bad files" + (", left out" if self.folder else ""), found.bad, _SHOWN if self.folder else None
    )
    lines += self._list("odd, harmless", found.odd, _SHOWN)
    if found.beliefs:
      lines += ["", "generally said of this data set, and this copy:"]
      for belief in found.beliefs:
        lines.append(f"  {'holds' if belief.holds else 'BROKEN':8}{belief.claim} ({belief.seen})")
    if found.notes:
      lines += ["", *found.notes]
    chosen = [
      f"{key} {value}" for key, value in self.options.items() if value not in ("", False, self.source)
    ]
    lines += ["", f"options:     {', '.join(chosen)}"]
    lines += [f"{key + ':':12} {value}" for key, value in self.method.items()]
    lines.append(f"licence:     {self.licence}")
    if self.replaced:
      lines.append(f"replaced:    {self.replaced}")
    if self.folder:
      lines += [f"fingerprint: {self.fingerprint}", f"written to:  {self.folder}"]
    return "\n".join(lines)

  def _list(self, title: str, problems: list[Problem], shown: int | None) -> list[str]:
    if not problems:
      return []
    lines = ["", f"{title} ({len(problems)}):"]
    for problem in problems[:shown]:
      where = problem.path.removeprefix(self.source).lstrip("/") or Path(self.source).name
      lines.append(f"  {where}: {problem.what}")
    if more := len(problems[shown:] if shown else ()):
      lines.append(f"  ... and {more} more" + (", all in report.json" if self.folder else ""))
    return lines


def prepare(
  name: str, source: str | Path, data_dir: str | Path, *, skip_bad: bool = False, **options: Any
) -> Report:
  """Imports a distribution, in place of what an earlier import with the same options wrote.

  Args:
    name: a key of `DATASETS` that is not generated.
    source: the distributor's folder, unpacked, at any of the usual nesting levels; a file where the set is one.
    data_dir: the folder that holds the prepared sets.
    skip_bad: leave bad files out instead of stopping after all are listed.
    **options: fields of the builder's `Config`, e.g. `num_frames=16, image_size=64`.

  Returns:
    The report, which also lies beside the data as report.json.

  Raises:
    UserError: an unknown set or option, a source that is no folder or holds nothing of the set, a folder that
      cannot be written, or bad files (`BadFiles`, after the whole list went to stderr).
  """
  if name in DATASETS and DATASETS[name].generated:
    raise UserError(f"data set '{name}' is drawn by jaxfer on first use: nothing to prepare")
  if name in DATASETS and DATASETS[name].parts:
    raise UserError(
      f"data set '{name}' is composed of others: `jaxfer prepare {name}` or `jaxfer.data.mixed.prepare` imports them"
    )
  importable = [known for known, entry in DATASETS.items() if not entry.generated and not entry.parts]
  if name not in importable:
    raise unknown("data set to prepare", name, importable)
  source = Path(source).expanduser().absolute()
  if not (source.is_dir() or (DATASETS[name].file_source and source.is_file())):
    kind = "folder or file" if DATASETS[name].file_source else "folder"
    raise UserError(f"source {source} is not a {kind}: give the one that holds the unpacked distribution")
  config = records.make_config(name, options | {"source": str(source), "skip_bad": skip_bad})
  recorded = {option: getattr(config, option) for option in records.option_fields(type(config))}
  reports = []

  def report(findings: Findings, method: Any = None, **written: str) -> Report:
    fields = {"folder": "", "fingerprint": ""} | written
    licence = DATASETS[name].licence
    return Report(
      name,
      str(source),
      options=recorded,
      method=dict(method or {}),
      licence=licence,
      findings=findings,
      **fields,
    )

  def finish(builder: Any, folder: Path) -> None:
    loaded = stream.open_records(builder)  # What was written can be read back, a little at a time.
    made = report(
      builder.findings,
      builder.info.metadata,
      folder=str(folder),
      fingerprint=loaded.fingerprint,
      replaced=_replaced(folder, str(source), loaded.fingerprint),
    )
    files.write_atomic(Path(builder.data_path) / "report.json", made.to_json())
    reports.append(made)

  try:
    records.generate(name, config, data_dir, replace=True, finish=finish)
  except BadFiles as error:
    print(report(error.findings).table(), file=sys.stderr)
    raise
  return reports[0]


def _replaced(folder: Path, source: str, fingerprint: str) -> str:
  """What the copy that lies in a folder is, for who trained on it and now makes another; "" where there is none."""
  if not folder.exists():
    return ""
  try:
    earlier = files.read_json(folder / "report.json", "prepare it again", ["source", "fingerprint"])
    before, known = str(earlier["source"]), str(earlier["fingerprint"])
  except UserError:
    return "an earlier copy under the same options, whose report cannot be read"
  if known == fingerprint:
    return f"an equal copy, read from {before}" if before != source else "an equal copy"
  return (
    f"another copy under the same options, read from {before}, fingerprint {known}: what was trained on it cannot be "
    "resumed or evaluated on this one"
  )


def visible(folder: Path) -> list[Path]:
  """The entries of a folder, ascending, without dot files and what operating systems strew about.

  Raises:
    UserError: a folder that cannot be listed.
  """
  try:
    entries = [entry for entry in folder.iterdir() if not entry.name.startswith(".")]
  except OSError as error:
    raise UserError(f"{folder} cannot be listed ({error.strerror}): check its permissions") from error
  return sorted(entry for entry in entries if not files.clutter(entry.name))


def find_folders(source: Path, accept: Callable[[list[Path]], bool], depth: int = 4) -> list[Path]:
  """Folders at or under `source`, nearest first, whose visible sub-folders `accept` takes.

  Archives unpack to X/, X/X/ or Y/X/, and people move things: hence a search and no fixed path.
  A folder that is taken is not searched further.
  """
  found, level = [], [source]
  for _ in range(depth + 1):
    below = []
    for folder in level:
      children = [entry for entry in visible(folder) if entry.is_dir()]
      if accept(children):
        found.append(folder)
      else:
        below += children
    level = below
  return found


def progress(items: Iterable[T], total: int, what: str) -> Iterator[T]:
  """Passes `items` on; shows a bar on a terminal, elsewhere a line every ten seconds."""
  if sys.stderr.isatty():
    from rich.console import Console
    from rich.progress import track

    yield from track(items, description=what, total=total, console=Console(stderr=True), transient=True)
    return
  last = time.monotonic()
  for done, item in enumerate(items, 1):
    yield item
    if time.monotonic() - last > _SECONDS_BETWEEN_LINES:
      last = time.monotonic()
      print(f"{what}: {done} of {total}", file=sys.stderr, flush=True)
