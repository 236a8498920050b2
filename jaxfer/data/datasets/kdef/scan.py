"""Scans the distributor's folders of KDEF and AKDEF for names; decodes no picture.

A name such as KDEF/AF01/AF01AFFL.JPG gives session, sex and number of the person, then emotion and angle. There are 140
folders of 35 pictures. AKDEF/FAFS.JPG is the average of all women or men. Layout and irregularities: data/README.md,
section 5; Lundqvist, Flykt and Oehman (1998).
"""

import re
from collections import Counter
from pathlib import Path

from jaxfer.data import tree
from jaxfer.data.prepare import Belief, Count, Findings, Problem
from jaxfer.data.stills import File, Still
from jaxfer.errors import UserError

CODES = {
  "AN": "anger",
  "DI": "disgust",
  "AF": "fear",
  "HA": "happiness",
  "NE": "neutral",
  "SA": "sadness",
  "SU": "surprise",
}
LABELS = tuple(CODES.values())
ANGLES = {
  "straight": ("S",),
  "half": ("HL", "HR"),
  "full": ("FL", "FR"),
  "all": ("FL", "HL", "S", "HR", "FR"),
}
# The position decides: AF means "session A, female" at the start and "afraid" later.
_EMOTION_ANGLE = rf"({'|'.join(CODES)})({'|'.join(ANGLES['all'])})"
_PICTURE = re.compile(rf"([AB])([FM]\d{{2}}){_EMOTION_ANGLE}")
_AVERAGE = re.compile(rf"([FM]){_EMOTION_ANGLE}")
# Files that the distributor misnamed, and what they show: the only pictures that would be missing otherwise.
_MISNAMED = {"AF31V": "AF31SAHL", "AM31H": "AM31SUHR", "FAHR": "FAFHR"}
_PLACEHOLDER_BYTES = 12104


def scan(source: Path, angle: str, findings: Findings) -> list[Still]:
  """Reads names, and adds counts and problems of the copy to `findings`.

  Args:
    source: the folder of KDEF, or one above it.
    angle: a key of `ANGLES`.
    findings: counts and problems are added to it.

  Returns:
    One still per picture of these angles, by key, e.g. "AF01AFS". Both sessions of a person have one subject, "F01".

  Raises:
    UserError: there is no picture of KDEF, or none of these angles.
  """
  found = _list_files(source, findings)
  pictures = {key: path for key, path in found.items() if _PICTURE.fullmatch(key)}
  averaged = len(found) - len(pictures)
  if not pictures:
    also = (
      f" (its {averaged} averaged faces, AKDEF, each average many people, so no test would be on unseen people)"
      if averaged
      else ""
    )
    raise UserError(
      f"source {source} holds no pictures of KDEF{also}: expected KDEF/AF01/AF01AFFL.JPG in it or below it"
    )
  if averaged:
    findings.notes.append(
      f"{averaged} averaged faces (AKDEF) left out: each averages many people, so no test would be on unseen people"
    )
  stills = [_still(key, path) for key, path in sorted(pictures.items())]
  chosen = [still for still in stills if still.extras["angle"] in ANGLES[angle]]
  _count(pictures, chosen, averaged, angle, findings)
  if not chosen:
    raise UserError(f"source {source} holds {len(stills)} pictures of KDEF but none with angle={angle}")
  return chosen


def _list_files(source: Path, findings: Findings) -> dict[str, Path]:
  found: dict[str, Path] = {}
  misnamed: list[Path] = []
  others = 0
  for path in tree.walk(source):
    key = path.stem.upper()
    if path.suffix.lower() not in (".jpg", ".jpeg"):
      others += 1
    elif key in _MISNAMED:
      misnamed.append(path)
    elif not (_PICTURE.fullmatch(key) or _AVERAGE.fullmatch(key)):
      findings.odd.append(Problem(str(path), "its name is not that of a picture of KDEF; left out"))
    elif key in found:
      findings.odd.append(Problem(str(path), f"a second copy of {found[key]}; left out"))
    else:
      found[key] = path
  for path in misnamed:
    inferred = _MISNAMED[path.stem.upper()]
    if inferred in found:
      what = f"misnamed; the picture it should be exists already, {found[inferred]}; left out"
    else:
      found[inferred] = path
      what = f"misnamed; used as {inferred}"
    findings.odd.append(Problem(str(path), what))
  if others:
    findings.notes.append(f"{others} files whose names are not those of JPEG files were left out")
  return found


def _still(key: str, path: Path) -> Still:
  match = _PICTURE.fullmatch(key)
  assert match is not None
  label = list(CODES).index(match[3])
  return Still(key, match[2], label, File(path), extras={"session": match[1], "angle": match[4]})


def _count(
  pictures: dict[str, Path], chosen: list[Still], averaged: int, angle: str, findings: Findings
) -> None:
  by_class = Counter(still.label for still in chosen)
  each = 140 * len(ANGLES[angle])
  findings.counts += [
    Count("pictures", len(pictures), 4900),
    Count("people and sessions", len({key[:4] for key in pictures}), 140),
    Count("subjects", len({key[1:4] for key in pictures}), 70),
    Count(f"pictures, angle {angle}", len(chosen), 7 * each),
    *(Count(f"  {name}", by_class[i], each) for i, name in enumerate(LABELS)),
    Count("averaged faces", averaged, 70),
  ]
  placeholders = []
  for key, path in sorted(pictures.items()):
    folder = path.parent.name.upper()
    if re.fullmatch(r"[AB][FM]\d{2}", folder) and folder != key[:4]:
      findings.odd.append(
        Problem(str(path), f"is in the folder of {folder}, which contradicts its name; the name was used")
      )
    if path.stat().st_size == _PLACEHOLDER_BYTES:
      placeholders.append(key)
  straight = sum(key.endswith("S") for key in placeholders)
  findings.beliefs.append(
    Belief(
      f"4 pictures are black placeholders of {_PLACEHOLDER_BYTES} bytes, none of angle straight",
      len(placeholders) == 4 and not straight,
      f"{len(placeholders)} files of that size, {straight} straight",
    )
  )
