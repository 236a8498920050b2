"""Pictures in folders of classes, DIR/<class>/... or DIR/<split>/<class>/...; walks, decodes nothing."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from jaxfer.data.prepare import Count, Findings, Problem, visible
from jaxfer.data.stills import File, Still
from jaxfer.errors import UserError

SPLITS = {
  "train": "train",
  "val": "validation",
  "valid": "validation",
  "validation": "validation",
  "test": "test",
}
SUFFIXES = frozenset(
  {".jpg", ".jpeg", ".jpe", ".png", ".tif", ".tiff", ".bmp", ".gif", ".webp", ".ppm", ".pgm"}
)
_DEPTH = 8  # Folders below a class; a link to a folder above would go on for ever.


def scan(source: Path, subject_pattern: str, findings: Findings) -> tuple[tuple[str, ...], list[Still]]:
  """Lists the pictures of all classes.

  Args:
    source: the folder of the classes or splits, or one or more single folders above it.
    subject_pattern: regular expression with one group, the person's name; searched in the path below `source` with
      forward slashes. "" where people are unknown: each picture is then a person of its own.
    findings: filled.

  Returns:
    The class names, ascending, and the stills; keys are paths below the folder of the classes.

  Raises:
    UserError: no pictures in such folders, or a pattern that is not one.
  """
  pattern = compile_subject_pattern(subject_pattern)
  root = _find_root(source)
  folders = [entry for entry in visible(root) if entry.is_dir()]
  splits = [folder for folder in folders if folder.name.lower() in SPLITS]
  ignored: Counter[str] = Counter()
  if splits:
    classes = []
    for folder in splits:
      split = SPLITS[folder.name.lower()]
      classes += [(split, child) for child in _folders(folder, findings)]
    beside = [folder for folder in folders if folder not in splits]
    findings.odd += [Problem(str(folder), "beside folders of splits; left out") for folder in beside]
    findings.odd += [Problem(str(path), "a file beside the splits; left out") for path in _files(root)]
  else:
    classes = [("", folder) for folder in _folders(root, findings)]
  names, spelled = _class_names([folder for _, folder in classes], findings)
  stills: list[Still] = []
  for split, folder in classes:
    label, before = names.index(spelled[folder.name]), len(stills)
    for path in _walk(folder, ignored, findings):
      relative = path.relative_to(root).as_posix()
      try:
        relative.encode()
        stills.append(Still(relative, subject(relative, pattern), label, File(path), split=split))
      except ValueError as error:
        reason = "its name is not UTF-8" if isinstance(error, UnicodeError) else str(error)
        findings.bad.append(Problem(ascii(str(path))[1:-1], reason))
    if len(stills) == before:
      findings.odd.append(Problem(str(folder), "a class folder without pictures"))
  if not stills and not findings.bad:
    raise UserError(
      f"source {source} holds no pictures: expected <class>/*.jpg (png, tiff, bmp, ...) in it, "
      "or <class> folders below train, val(idation) and test"
    )
  if ignored:
    kinds = ", ".join(f"{count} {suffix or 'without suffix'}" for suffix, count in ignored.most_common())
    findings.notes.append(f"{ignored.total()} files that are no pictures by their names, left out: {kinds}")
  count(stills, names, bool(subject_pattern), findings)
  return names, stills


def compile_subject_pattern(text: str) -> re.Pattern[str] | None:
  """Compiles the option; None for "".

  Raises:
    UserError: not a regular expression with one group.
  """
  if not text:
    return None
  try:
    pattern = re.compile(text)
  except re.error as error:
    raise UserError(f"option subject_pattern is '{text}': not a regular expression ({error})") from error
  if pattern.groups != 1:
    raise UserError(
      f"option subject_pattern is '{text}', with {pattern.groups} groups: give one with the person's name in "
      "(...), such as '(S[0-9]+)_'"
    )
  return pattern


def subject(relative: str, pattern: re.Pattern[str] | None) -> str:
  """The person of a picture by its path; without a pattern the path itself.

  Raises:
    ValueError: the pattern does not match.
  """
  if pattern is None:
    return relative
  match = pattern.search(relative)
  if match is None or not match[1]:
    raise ValueError(f"subject_pattern '{pattern.pattern}' finds nobody in {relative}")
  return match[1]


def count(stills: Sequence[Still], names: Sequence[str], people_known: bool, findings: Findings) -> None:
  """Enters pictures, people, classes and splits into `findings`."""
  by_class, by_split = Counter(still.label for still in stills), Counter(still.split for still in stills)
  findings.counts.append(Count("pictures", len(stills)))
  if people_known:
    findings.counts.append(Count("subjects", len({still.subject for still in stills})))
    findings.notes += shared_subjects(stills)
  else:
    findings.notes.append(
      "people are unknown: each picture counts as a person of its own, and folds cannot keep people apart"
    )
  findings.counts.append(Count("classes", len(names)))
  findings.counts += [Count(f"  {name}", by_class[label]) for label, name in enumerate(names)]
  if set(by_split) != {""}:
    findings.counts += [Count(f"  {split or 'no split'}", by_split[split]) for split in sorted(by_split)]


def shared_subjects(stills: Sequence[Still]) -> list[str]:
  """A note where people are in several of the distributor's splits."""
  splits: dict[str, set[str]] = {}
  for still in stills:
    splits.setdefault(still.subject, set()).add(still.split)
  shared = sum(len(found) > 1 for found in splits.values())
  return (
    [f"{shared} of {len(splits)} people are in more than one of the distributor's splits"] if shared else []
  )


def _find_root(source: Path) -> Path:
  root = source
  for _ in range(4):
    entries = visible(root)
    if len(entries) != 1 or not entries[0].is_dir() or entries[0].name.lower() in SPLITS:
      break
    if not any(entry.is_dir() for entry in visible(entries[0])):
      break  # A single class.
    root = entries[0]
  return root


def _files(folder: Path) -> list[Path]:
  return [entry for entry in visible(folder) if not entry.is_dir()]


def _folders(folder: Path, findings: Findings) -> list[Path]:
  """The class folders in a folder; files beside them are odd."""
  findings.odd += [Problem(str(path), "a file beside the class folders; left out") for path in _files(folder)]
  return [entry for entry in visible(folder) if entry.is_dir()]


def _class_names(folders: list[Path], findings: Findings) -> tuple[tuple[str, ...], dict[str, str]]:
  """Class names, ascending, and the name each folder's spelling stands for: Happy and happy are one class."""
  spelled: dict[str, str] = {}
  by_fold: dict[str, str] = {}
  for folder in folders:
    name = by_fold.setdefault(folder.name.casefold(), folder.name)
    if name != folder.name:
      findings.odd.append(Problem(str(folder), f"taken for the class '{name}'"))
    spelled[folder.name] = name
  return tuple(sorted(set(spelled.values()))), spelled


def _walk(folder: Path, ignored: Counter[str], findings: Findings, depth: int = _DEPTH) -> Iterator[Path]:
  for entry in visible(folder):
    if entry.is_dir():
      if depth:
        yield from _walk(entry, ignored, findings, depth - 1)
      else:
        findings.odd.append(Problem(str(entry), f"more than {_DEPTH} folders deep; left out"))
    elif PurePosixPath(entry.name).suffix.lower() in SUFFIXES:
      yield entry
    else:
      ignored[entry.suffix.lower()] += 1
