"""Scans the distributor's folders of MUG: sequences of frames and manually annotated stills; decodes no image.

Layout and counts: data/README.md, section 7; Aifanti, Papachristou and Delopoulos (2010).
"""

import dataclasses
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

from jaxfer.data import emotions, frame_rules, tars
from jaxfer.data.prepare import Belief, Count, Findings, Problem
from jaxfer.data.stills import Bytes, File, Still
from jaxfer.data.tree import walk
from jaxfer.errors import UserError

LABELS = ("anger", "disgust", "fear", "happiness", "neutral", "sadness", "surprise")
NUM_PUBLIC = 52  # 52 of the 86 people allow distribution of their pictures.

# 002/session0/anger/take003_nsg/img_0012.jpg; sessions are rare, and neutral frames may have no folder of a take.
_FRAME = re.compile(
  r"(?:.*/)?(?P<subject>\d{3})/(?:session_?(?P<session>\d+)/)?(?P<emotion>(?!take|session)[^/]*)/"
  r"(?:(?P<take>[^/]*take[^/]*)/)?[^/]*?(?P<number>\d{1,9})\.jpe?g",
  re.IGNORECASE,
)
_MANUAL = re.compile(
  r"(?:.*/)?(?P<subject>\d{3})_(?P<emotion>an|di|fe|ha|ne|sa|su)_(?P<take>\d{3})_(?P<number>\d{4})\.jpe?g",
  re.IGNORECASE,
)
_IMAGE = re.compile(r".*\.jpe?g", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class Sequence:
  """A take, one recorded sequence.

  Attributes:
    subject: e.g. "002"; sessions are the same person.
    session: "0", "1" or "".
    label: index into `LABELS`.
    take: name of its folder in lower case; "" if the frames have no such folder.
  """

  subject: str
  session: str
  label: int
  take: str

  @property
  def key(self) -> str:
    """Key of the take, such as "002_session0_anger_take003_nsg"."""
    parts = (self.subject, self.session and f"session{self.session}", LABELS[self.label], self.take)
    return "_".join(filter(None, parts))


def scan_sequences(source: Path, rule: str, keep_nsg: bool, findings: Findings) -> list[Still]:
  """Lists the takes and the frames of each that `rule` chooses.

  Args:
    source: the folder of the people's folders, or one above it.
    rule: see `frame_rules`.
    keep_nsg: whether to keep the takes marked "nsg", which the authors found not so good.
    findings: counts and problems are added to it.

  Raises:
    UserError: there are no frames below `source`.
  """
  frames: dict[Sequence, list[tuple[int, str, Path]]] = defaultdict(list)
  strangers = 0
  unknown: Counter[str] = Counter()
  for path in walk(source):
    match = _FRAME.fullmatch(path.relative_to(source).as_posix())
    if match:
      try:
        label = emotions.find(match["emotion"], LABELS)
      except ValueError:
        unknown[str(path.parent)] += 1
        continue
      take = Sequence(match["subject"], match["session"] or "", label, (match["take"] or "").lower())
      frames[take].append((int(match["number"]), path.name, path))
    elif _IMAGE.fullmatch(path.name):
      strangers += 1
      findings.odd.append(
        Problem(str(path), "its path does not follow subject/[session/]expression/take/; left out")
      )
  findings.bad += [
    Problem(place, f"{count} frames in a folder that is not named after an emotion")
    for place, count in unknown.items()
  ]
  if not frames:
    raise UserError(
      f"source {source} holds no sequences of MUG: expected subjects3/002/anger/take001/img_0000.jpg in it or a few "
      f"folders further down{'' if not strangers else f' (it has {strangers} other JPEG files)'}"
    )
  taken = {
    take: _in_order(take, files, findings) for take, files in sorted(frames.items(), key=lambda x: x[0].key)
  }
  nsg = {take for take in taken if "nsg" in take.take}
  kept = {take: files for take, files in taken.items() if keep_nsg or take not in nsg}
  _count(taken, findings)
  what = "kept" if keep_nsg else "left out"
  findings.notes.append(f"{len(nsg)} takes are marked nsg (not so good): {what}")
  stills = []
  for take, files in kept.items():
    for i in frame_rules.choose(rule, len(files)):
      number, path = files[i]
      extras = {"sequence": take.key, "frame": number}
      stills.append(Still(f"{take.key}_{number:04d}", take.subject, take.label, File(path), extras=extras))
  findings.notes.append(
    f"{len(stills)} of {sum(map(len, kept.values()))} frames of {len(kept)} takes by the rule {rule}"
  )
  return stills


def _in_order(
  take: Sequence, files: list[tuple[int, str, Path]], findings: Findings
) -> list[tuple[int, Path]]:
  """Sorts frames by number, each number once; names do not sort that way past 9999 or without padding."""
  ordered: dict[int, Path] = {}
  for number, _, path in sorted(files):
    if number in ordered:
      findings.odd.append(Problem(str(path), f"a second frame {number} of {take.key}; left out"))
    else:
      ordered[number] = path
  if len(ordered) != max(ordered) - min(ordered) + 1:
    what = f"{len(ordered)} frames are numbered {min(ordered)} to {max(ordered)}; taken in order"
    findings.odd.append(Problem(str(next(iter(ordered.values())).parent), what))
  return list(ordered.items())


def _count(takes: dict[Sequence, list[tuple[int, Path]]], findings: Findings) -> None:
  by_class = Counter(take.label for take in takes)
  people = {take.subject for take in takes}
  sessions = sorted({take.subject for take in takes if take.session})
  findings.counts += [
    Count("subjects", len(people), NUM_PUBLIC),
    Count("sequences", len(takes)),
    *(Count(f"  {name}", by_class[i]) for i, name in enumerate(LABELS)),
    Count("frames", sum(map(len, takes.values()))),
  ]
  findings.beliefs += [
    Belief("1462 sequences in all", len(takes) == 1462, f"{len(takes)}"),
    Belief(
      "only 002, 003 and 049 have sessions",
      sessions == ["002", "003", "049"],
      f"sessions of {', '.join(sessions) or 'nobody'}; all sessions of a person are one subject",
    ),
  ]


def scan_manual(source: Path, findings: Findings) -> list[Still]:
  """Lists the manually annotated stills, in a folder or in the distributor's tar archive.

  Raises:
    UserError: there are none below `source`.
  """
  stills: dict[str, Still] = {}
  others = 0
  for name, place in _places(source, findings):
    match = _MANUAL.fullmatch(name)
    if not match:
      others += 1
      continue
    label = next(i for i, known in enumerate(LABELS) if known.startswith(match["emotion"].lower()))
    sequence = f"{match['subject']}_{LABELS[label]}_take{match['take']}"
    key = f"{sequence}_{match['number']}"
    if key in stills:
      findings.odd.append(Problem(str(place), f"same name as {stills[key].source}; left out"))
      continue
    extras = {"sequence": sequence, "frame": int(match["number"])}
    stills[key] = Still(key, match["subject"], label, place, extras=extras)
  if not stills:
    findings.finish(skip_bad=False)  # An archive that cannot be read explains more.
    raise UserError(
      f"source {source} holds no manual stills of MUG: expected manual/images/002_an_001_0012.jpg in it or a few "
      "folders further down, or the .tar with them"
    )
  by_class = Counter(still.label for still in stills.values())
  findings.counts += [
    Count("subjects", len({still.subject for still in stills.values()})),
    Count("stills", len(stills)),
    *(Count(f"  {name}", by_class[i]) for i, name in enumerate(LABELS)),
  ]
  findings.notes.append(
    f"{others} other files, such as the 80 landmarks, whose format jaxfer does not know, were left out"
  )
  return [stills[key] for key in sorted(stills)]


def _places(source: Path, findings: Findings) -> Iterator[tuple[str, Bytes]]:
  """Yields files by name; files in tar archives by their paths in the archive."""
  for path in walk(source):
    if path.suffix.lower() != ".tar":
      yield path.name, File(path)
      continue
    try:
      for span in tars.members(path):
        yield span.name, span
    except (OSError, ValueError) as error:
      findings.bad.append(Problem(str(path), str(error)))
