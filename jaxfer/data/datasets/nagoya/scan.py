"""Scans Nagoya University's expressions of elderly people, from a table or class folders.

The layout of the distribution is not public (data/README.md, section 12), so the owner of a copy gives a csv with the
header path,subject,emotion,method,camera,kind, or class folders. The numbers are from paper 004 and from NII's
announcement (2024).
"""

import dataclasses
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jaxfer.data import emotions, tree
from jaxfer.data.datasets.image_folder import scan as image_folder
from jaxfer.data.datasets.manifest import scan as manifest
from jaxfer.data.datasets.manifest import table
from jaxfer.data.prepare import Belief, Count, Findings, Problem
from jaxfer.data.stills import File, Still
from jaxfer.errors import UserError

# In the order of paper 004's tables.
LABELS = ("joy", "sadness", "fear", "surprise", "anger", "disgust", "excitement", "relaxation", "neutral")
ANSWERS = (*LABELS, "other")  # The averages printed in paper 004 fit ten answers.
NUM_STILLS, NUM_PEOPLE = 3996, 111
_A_CELL = (2, 1, 1, 1, 2, 2, 1, 1, 1)  # Stills per person and method, by class, from the published supports.
_HUMAN_ACCURACY = 34.1


def scan(source: Path, subject_pattern: str, ratings: str, findings: Findings) -> list[Still]:
  """Reads the table, or the class folders if there is no table. Only stills of the front camera are taken from a table.

  Args:
    source: a table; the folder that holds it; or the folder of the classes.
    subject_pattern: for class folders, see `image_folder.scan`.
    ratings: path of a csv `path,rater,emotion` with one answer per line; "" for none.
    findings: counts and problems are added to it.

  Returns:
    Stills whose `extras` are method ("" if unknown) and votes, int32 [10], the raters' answers by `ANSWERS`.

  Raises:
    UserError: there is neither table nor folders, or a class is not one of `LABELS`.
  """
  answers = Path(ratings).expanduser()
  tables = [path for path in tree.tables(source) if not ratings or path.resolve() != answers.resolve()]
  if tables:
    stills = _from_table(tables[0] if len(tables) == 1 else table.find(source), findings)
  else:
    names, stills = image_folder.scan(source, subject_pattern, findings)
    labels = emotions.match(source, names, LABELS)
    stills = [
      dataclasses.replace(still, label=labels[still.label], extras={"method": ""}) for still in stills
    ]
  _check(stills, findings)
  votes = _read_ratings(answers, {still.key for still in stills}, findings) if ratings else {}
  none = np.zeros(len(ANSWERS), np.int32)
  stills = [
    dataclasses.replace(still, extras={**still.extras, "votes": votes.get(still.key, none)})
    for still in stills
  ]
  if ratings:
    _check_ratings(stills, findings)
  return stills


def _from_table(path: Path, findings: Findings) -> list[Still]:
  stills: list[Still] = []
  lines: dict[str, int] = {}
  left_out: Counter[str] = Counter()
  for row in table.read(
    path, ("path", "subject", "emotion"), ("method", "camera", "kind", "landmarks"), findings
  ):
    camera, kind = row["camera"].lower(), row["kind"].lower()
    if camera not in ("", "front") or kind not in ("", "still"):
      left_out[f"{camera or 'front'} camera, {kind or 'still'}"] += 1
      continue
    try:
      key, file = manifest.locate(path.parent, row["path"])
      if not row["subject"]:
        raise ValueError("no subject")
      if lines.setdefault(key, row.line) != row.line:
        raise ValueError(f"already listed in line {lines[key]}")
      label = emotions.find(row["emotion"], LABELS)
      landmarks = manifest.read_landmarks(row["landmarks"])
    except ValueError as error:
      findings.bad.append(Problem(str(path), f"line {row.line}, {table.shown(row['path'])}: {error}"))
      continue
    points = None if landmarks is None else manifest.face_points(landmarks)
    extras = {"method": row["method"].lower()}
    where = f"{path.name}, line {row.line}"
    stills.append(Still(key, row["subject"], label, File(file), points=points, extras=extras, where=where))
  if left_out:
    parts = ", ".join(f"{count} of {what}" for what, count in left_out.most_common(8))
    findings.notes.append(f"only stills of the front camera are taken; left out: {parts}")
  if not stills and not findings.bad:
    raise UserError(
      f"{path} lists no stills of the front camera: expected camera=front and kind=still, or both empty"
    )
  by_class = Counter(still.label for still in stills)
  findings.counts += [
    Count("stills", len(stills), NUM_STILLS),
    Count("subjects", len({still.subject for still in stills}), NUM_PEOPLE),
    *(Count(f"  {name}", by_class[i]) for i, name in enumerate(LABELS)),
  ]
  return stills


def _check(stills: Sequence[Still], findings: Findings) -> None:
  cells: dict[tuple[str, str], Counter[int]] = {}
  for still in stills:
    if still.extras["method"]:
      cells.setdefault((still.subject, still.extras["method"]), Counter())[still.label] += 1
  if cells:
    whole = sum(tuple(cell[i] for i in range(len(LABELS))) == _A_CELL for cell in cells.values())
    findings.beliefs.append(
      Belief(
        "per method, a person shows joy, anger and disgust twice and the others once",
        whole == len(cells),
        f"true for {whole} of {len(cells)}",
      )
    )
  with_points = sum(still.points is not None for still in stills)
  if 0 < with_points < len(stills):
    findings.notes.append(
      f"only {with_points} of {len(stills)} have face landmarks: crop=template needs them for all pictures"
    )


def _read_ratings(path: Path, keys: set[str], findings: Findings) -> dict[str, np.ndarray]:
  votes: dict[str, np.ndarray] = {}
  raters, orphans = set(), Counter[str]()
  answered: set[tuple[str, str]] = set()
  for row in table.read(path, ("path", "rater", "emotion"), (), findings):
    key = row["path"].replace("\\", "/").removeprefix("./")
    if key not in keys:
      orphans[key] += 1
      continue
    try:
      answer = emotions.find(row["emotion"], ANSWERS)
      if row["rater"] and (key, row["rater"]) in answered:
        raise ValueError(f"rater {row['rater']} answered twice")
    except ValueError as error:
      findings.bad.append(Problem(str(path), f"line {row.line}, {table.shown(key)}: {error}"))
      continue
    answered.add((key, row["rater"]))
    raters.add(row["rater"])
    votes.setdefault(key, np.zeros(len(ANSWERS), np.int32))[answer] += 1
  findings.counts.append(Count("raters", len(raters), 36))
  findings.counts.append(Count("rated stills", len(votes), len(keys)))
  if orphans:
    what = f"{orphans.total()} answers for {len(orphans)} pictures that are not used, the first {next(iter(orphans))}"
    findings.odd.append(Problem(str(path), what))
  return votes


def _check_ratings(stills: Sequence[Still], findings: Findings) -> None:
  rated = [still for still in stills if still.extras["votes"].any()]
  if not rated:
    return
  totals = [int(still.extras["votes"].sum()) for still in rated]
  right = sum(int(still.extras["votes"][still.label]) for still in rated)
  findings.beliefs.append(
    Belief("at least five ratings per still", min(totals) >= 5, f"{min(totals)} to {max(totals)}")
  )
  findings.notes.append(
    f"raters named the intended class in {100 * right / sum(totals):.1f} % of {sum(totals)} answers "
    f"(paper 004: {_HUMAN_ACCURACY} %)"
  )
