"""Lists pictures in folders of classes, DIR/<class>/... or DIR/<split>/<class>/..., without decoding them."""

import re
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path

from jaxfer.data import emotions, tree
from jaxfer.data.datasets.image_folder import layout as layouts
from jaxfer.data.prepare import Count, Findings, Problem
from jaxfer.data.stills import File, Still
from jaxfer.errors import UserError

Classes = Sequence[tuple[str, Path]]  # Split, or "", and folder.


def scan(
  source: Path, subject_pattern: str, findings: Findings, layout: str = "auto"
) -> tuple[tuple[str, ...], list[Still]]:
  """Lists the pictures of all classes.

  Args:
    source: the folder of the classes or splits, or one above it.
    subject_pattern: regular expression with one group for the person's name, searched in the path below the folder of
      the classes or splits, with forward slashes; "" if the people are unknown. Each picture then counts as a
      different person.
    findings: counts and problems are added to it.
    layout: see `layout.find`.

  Returns:
    The class names in ascending order (numeric order if all are numbers), and the stills, whose keys are paths below
    the folder of the classes or splits.

  Raises:
    UserError: there are no pictures in such folders or only one class, the layout is ambiguous, or the pattern is
      invalid.
  """
  pattern = compile_subject_pattern(subject_pattern)
  found = layouts.find(source, layout, findings)
  names, spelled = _class_names(found.classes, findings)
  _check_classes(source, names, spelled, found.classes, findings)
  stills: list[Still] = []
  ignored: Counter[str] = Counter()
  for split, folder in found.classes:
    label = names.index(spelled[folder.name])
    for path in sorted(tree.walk(folder, findings=findings)):
      if not layouts.is_picture(path):
        ignored[path.suffix.lower()] += 1
        continue
      relative = path.relative_to(found.root).as_posix()
      try:
        relative.encode()
        stills.append(Still(relative, subject(relative, pattern), label, File(path), split=split))
      except ValueError as error:
        reason = "its name is not UTF-8" if isinstance(error, UnicodeError) else str(error)
        findings.bad.append(Problem(ascii(str(path))[1:-1], reason))
  if ignored:
    kinds = ", ".join(f"{count} {suffix or 'without suffix'}" for suffix, count in ignored.most_common())
    findings.notes.append(
      f"{ignored.total()} files whose names are not those of pictures were left out: {kinds}"
    )
  count(stills, names, bool(subject_pattern), findings)
  return names, stills


def compile_subject_pattern(text: str) -> re.Pattern[str] | None:
  """Compiles the option; returns None for "".

  Raises:
    UserError: the text is not a regular expression with one group.
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
  """Returns the person of a picture from its path; without a pattern, the path itself.

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
  """Adds the numbers of pictures, people, classes and splits to `findings`."""
  by_class, by_split = Counter(still.label for still in stills), Counter(still.split for still in stills)
  findings.counts.append(Count("pictures", len(stills)))
  if people_known:
    findings.counts.append(Count("subjects", len({still.subject for still in stills})))
    findings.notes += shared_subjects(stills)
  else:
    findings.notes.append(
      "people are unknown: each picture counts as a different person, so folds cannot keep people apart"
    )
  findings.counts.append(Count("classes", len(names)))
  findings.counts += [Count(f"  {name}", by_class[label]) for label, name in enumerate(names)]
  if set(by_split) != {""}:
    findings.counts += [Count(f"  {split or 'no split'}", by_split[split]) for split in sorted(by_split)]


def shared_subjects(stills: Sequence[Still]) -> list[str]:
  """Returns a note if people are in several of the distributor's splits, else nothing."""
  splits: dict[str, set[str]] = {}
  for still in stills:
    splits.setdefault(still.subject, set()).add(still.split)
  shared = sum(len(found) > 1 for found in splits.values())
  return (
    [f"{shared} of {len(splits)} people are in more than one of the distributor's splits"] if shared else []
  )


def sort_names(names: Collection[str]) -> tuple[str, ...]:
  """Sorts class names; in numeric order if all are whole numbers."""
  numbers = all(re.fullmatch(r"[0-9]{1,9}", name) for name in names)
  return tuple(sorted(names, key=lambda name: (int(name) if numbers else 0, name)))


def _class_names(classes: Classes, findings: Findings) -> tuple[tuple[str, ...], dict[str, str]]:
  """Returns the class names in ascending order, and the class name of each folder's spelling.

  Spellings that differ only in case are one class. So are words for one emotion (train/happy and test/happiness),
  unless a split has folders for both.
  """
  folded: dict[str, set[str]] = {}  # Emotion -> its spellings.
  together: Counter[tuple[str, str]] = Counter()
  for split, spelling in {(split, folder.name.casefold()) for split, folder in classes}:
    if emotion := emotions.canonical(spelling):
      folded.setdefault(emotion, set()).add(spelling)
      together[split, emotion] += 1
  apart = {emotion for (_, emotion), count in together.items() if count > 1}
  same = {
    spelling: emotion
    for emotion, spellings in folded.items()
    if emotion not in apart
    for spelling in spellings
  }
  spelled: dict[str, str] = {}
  first: dict[str, str] = {}
  for _, folder in classes:
    spelling = folder.name.casefold()
    name = first.setdefault(same.get(spelling, spelling), folder.name)
    if name != folder.name:
      findings.odd.append(Problem(str(folder), f"counted as class '{name}'"))
    spelled[folder.name] = name
  return sort_names(set(spelled.values())), spelled


def _check_classes(
  source: Path, names: Sequence[str], spelled: dict[str, str], classes: Classes, findings: Findings
) -> None:
  """Reports classes that a split lacks; refuses a single class, and splits without a common class."""
  if len(names) < 2:
    raise UserError(
      f"source {source} holds a single class, '{names[0]}' ({classes[0][1]}): a classifier needs two. Expected <class> "
      "folders beside each other, or below train, validation and test"
    )
  by_split: dict[str, set[str]] = {}
  for split, folder in classes:
    by_split.setdefault(split, set()).add(spelled[folder.name])
  for split, own in by_split.items():
    others = set().union(*(names for other, names in by_split.items() if other != split))
    if others and not own & others:
      raise UserError(
        f"source {source}: the classes of the {split} split ({', '.join(sort_names(own)[:4])}) are not those of the "
        f"others ({', '.join(sort_names(others)[:4])}): the folders below each split must be the same classes"
      )
    for name in names:
      if name not in own:
        findings.odd.append(Problem(str(source), f"class '{name}' has no pictures in the {split} split"))
