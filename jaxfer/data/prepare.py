"""`jaxfer prepare`: imports the distributor's files of a data set into array_record and reports on them.

An importer is a builder whose `_generate_examples` fills `self.findings` while it reads, yields valid examples
and ends with `self.findings.finish(...)`. Every file is read once, all problems are collected before the import
stops, and nothing is written if it stops.
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
_SECONDS_BETWEEN_LINES = 10.0  # Interval of progress lines without a terminal.


@dataclasses.dataclass(frozen=True)
class Count:
  """How many of something there are, and how many are expected (None if unknown)."""

  what: str
  found: int
  expected: int | None = None


@dataclasses.dataclass(frozen=True)
class Problem:
  """A problem of one file or folder, described in one line."""

  path: str
  what: str


@dataclasses.dataclass(frozen=True)
class Belief:
  """A common but unverified claim about the data set, and whether this copy confirms it."""

  claim: str
  holds: bool
  seen: str


@dataclasses.dataclass
class Findings:
  """Counts and problems that an importer collects while it reads.

  Attributes:
    counts: found and expected numbers.
    bad: files that cannot be used; they stop the import unless skipped.
    odd: irregularities that do no harm.
    beliefs: unverified claims that this copy confirms or contradicts.
    notes: decisions with counts, e.g. how many sequences have no label.
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
    folder: folder of the array_record files; "" if nothing was written.
    options: the options of the builder's configuration.
    method: how the arrays were made, from the builder's metadata.
    licence: terms of use and contact.
    fingerprint: fingerprint of the records as read back; "" if nothing was written.
    findings: counts and lists of problems.
    replaced: describes the earlier copy with the same options that this one replaces; "" if there was none.
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
    """Returns the whole report with complete lists as JSON."""
    return files.to_json(dataclasses.asdict(self), indent=1)

  def table(self) -> str:
    """Returns the report as aligned text. Lists are shortened, except that of bad files if nothing was written."""
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
      lines += ["", "common claims about this data set, and whether this copy confirms them:"]
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
  """Imports a data set, and replaces the result of an earlier import with the same options.

  Args:
    name: a key of `DATASETS` that is not generated.
    source: the distributor's unpacked folder, or one above it; a file if the data set is a file.
    data_dir: folder of the prepared data sets.
    skip_bad: whether to leave bad files out instead of stopping after all are listed.
    **options: fields of the builder's `Config`, e.g. `num_frames=16, image_size=64`.

  Returns:
    The report, which is also written to report.json beside the data.

  Raises:
    UserError: the data set or an option is unknown, the source is not a folder or holds nothing of the set, the folder
      cannot be written, or there are bad files (`BadFiles`, after the whole list was printed to stderr).
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
  """Describes the existing copy in a folder, for users who trained on it; "" if there is none."""
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
    f"another copy under the same options, read from {before}, fingerprint {known}: trainings on it cannot be "
    "resumed or evaluated on this one"
  )


def visible(folder: Path) -> list[Path]:
  """Returns the sorted entries of a folder, without dot files and files that operating systems add.

  Raises:
    UserError: the folder cannot be listed.
  """
  try:
    entries = [entry for entry in folder.iterdir() if not entry.name.startswith(".")]
  except OSError as error:
    raise UserError(f"{folder} cannot be listed ({error.strerror}): check its permissions") from error
  return sorted(entry for entry in entries if not files.clutter(entry.name))


def find_folders(source: Path, accept: Callable[[list[Path]], bool], depth: int = 4) -> list[Path]:
  """Returns folders at or below `source`, nearest first, whose visible sub-folders `accept` accepts.

  Archives unpack to X/, X/X/ or Y/X/, and people move folders, so paths are searched instead of fixed.
  An accepted folder is not searched further.
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
  """Yields `items`, and shows a progress bar on a terminal or prints a line every ten seconds otherwise."""
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
