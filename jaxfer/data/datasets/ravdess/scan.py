"""Scans the distributor's files of RAVDESS for names, twin files and headers of clips; decodes no picture.

The audio-visual file of a trial (01) and the video-only file (02) hold the same pictures, so each trial is used once.
Layout and counts: data/README.md, section 8; Livingstone and Russo (2018).
"""

import dataclasses
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from jaxfer.data import frame_rules
from jaxfer.data.datasets.ravdess.clip import Frame, Header, read_header
from jaxfer.data.prepare import Belief, Count, Findings, Problem, progress
from jaxfer.data.stills import File, Member, Still, zip_names
from jaxfer.data.tree import walk
from jaxfer.errors import UserError

LABELS = (
  "neutral",
  "calm",
  "happiness",
  "sadness",
  "anger",
  "fear",
  "disgust",
  "surprise",
)  # By code, from 1.
CHANNELS = ("speech", "song")  # By code, from 1.
COUNTS = {"speech": (96, *(192,) * 7), "song": (92, *(184,) * 5, 0, 0)}  # Trials per class.
NUM_ACTORS = {"speech": 24, "song": 23}

_NAME = re.compile(
  r"(0[123])-(?P<trial>(?P<channel>0[12])-(?P<emotion>0[1-8])-(?P<intensity>0[12])-(?P<statement>0[12])-"
  r"(?P<repetition>0[12])-(?P<actor>0[1-9]|1\d|2[0-4]))\.(mp4|wav)",
  re.IGNORECASE,
)
_ZIP = re.compile(r"video_.*\.zip", re.IGNORECASE)
_THREADS = 8

Clip = File | Member


@dataclasses.dataclass(frozen=True)
class Trial:
  """A trial, from the name of a file without its modality; `name` is, for example, "01-05-02-01-01-12"."""

  name: str

  def _part(self, i: int) -> int:
    return int(self.name.split("-")[i])

  @property
  def channel(self) -> str:
    """One of `CHANNELS`."""
    return CHANNELS[self._part(0) - 1]

  @property
  def label(self) -> int:
    """Index into `LABELS`."""
    return self._part(1) - 1

  @property
  def strong(self) -> bool:
    """Whether it was acted with strong intensity."""
    return self._part(2) == 2

  @property
  def actor(self) -> str:
    """The person, such as "Actor_12"."""
    return f"Actor_{self.name[-2:]}"


def scan(source: Path, channel: str, rule: str, findings: Findings) -> list[Still]:
  """Lists the trials of a channel and the frames of each that `rule` chooses.

  Args:
    source: the folder of the actors' folders or of the downloaded zip archives, or one above it.
    channel: "speech", "song" or "both".
    rule: see `frame_rules`.
    findings: counts and problems are added to it.

  Raises:
    UserError: there are no clips below `source`, or none of the channel.
  """
  files, audio = _list(source, findings)
  if not files:
    raise UserError(
      f"source {source} holds no clips of RAVDESS: expected Actor_01/01-01-01-01-01-01-01.mp4 in it or a few folders "
      f"further down, or Video_Speech_Actor_01.zip{f' (it has {audio} sound files)' if audio else ''}"
    )
  channels = CHANNELS if channel == "both" else (channel,)
  trials = {trial: twins for trial, twins in files.items() if trial.channel in channels}
  if not trials:
    other = ", ".join(sorted({trial.channel for trial in files}))
    raise UserError(
      f"source {source} holds clips of {other} only: give channel={other} or the archives of {channel}"
    )
  _count(trials, channels, findings)
  twins = sum(len(places) == 2 for places in trials.values())
  findings.notes.append(
    f"{twins} trials have both files, 01 with sound and 02 without; their pictures are the same and were used once"
  )
  if left := len(files) - len(trials):
    findings.notes.append(f"{left} trials of the other channel: left out")
  findings.notes.append(f"{audio} sound files (.wav): not read")
  return _choose(trials, rule, findings)


def _list(source: Path, findings: Findings) -> tuple[dict[Trial, dict[str, Clip]], int]:
  """Returns the trials, each with its files by modality, and the number of sound files."""
  found: dict[Trial, dict[str, Clip]] = defaultdict(dict)
  audio = 0
  for name, place in _places(source, findings):
    match = _NAME.fullmatch(name)
    if not match:
      if name.lower().endswith(".mp4"):
        findings.odd.append(Problem(str(place), "its name is not that of a clip of RAVDESS; left out"))
      continue
    modality, extension = match[1], name[-3:].lower()
    if extension == "wav" or modality == "03":
      audio += 1
    elif modality in (twins := found[Trial(match["trial"])]):
      findings.odd.append(
        Problem(str(place), f"a second file of this name, beside {twins[modality]}; left out")
      )
    else:
      twins[modality] = place
  return {trial: found[trial] for trial in sorted(found, key=lambda trial: trial.name) if found[trial]}, audio


def _places(source: Path, findings: Findings) -> Iterator[tuple[str, Clip]]:
  packed = []
  for path in walk(source):
    if _ZIP.fullmatch(path.name):
      packed.append(path)
    else:
      yield path.name, File(path)
  for path in packed:  # Unpacked files come first, because they take precedence.
    try:
      names = zip_names(path)
    except (OSError, ValueError) as error:
      findings.bad.append(Problem(str(path), f"cannot be unpacked ({error})"))
      continue
    for name in names:
      base = name.rsplit("/", 1)[-1]
      if not name.startswith("__MACOSX") and not base.startswith("."):
        yield base, Member(path, name)


def _count(trials: dict[Trial, dict[str, Clip]], channels: tuple[str, ...], findings: Findings) -> None:
  expected = [sum(column) for column in zip(*(COUNTS[channel] for channel in channels), strict=True)]
  by_class = Counter(trial.label for trial in trials)
  of_channel = Counter(trial.channel for trial in trials)
  findings.counts += [
    Count("actors", len({trial.actor for trial in trials}), max(NUM_ACTORS[channel] for channel in channels)),
    Count("trials", len(trials), sum(expected)),
    *(Count(f"  {name}", by_class[i], expected[i]) for i, name in enumerate(LABELS)),
    *(
      Count(f"trials of {channel}", of_channel[channel], sum(COUNTS[channel]))
      for channel in channels[1:] and channels
    ),
    Count("video files", sum(map(len, trials.values())), 2 * sum(expected)),
  ]
  if "song" in channels:
    sung = {trial for trial in trials if trial.channel == "song"}
    of_18 = sum(trial.actor == "Actor_18" for trial in sung)
    findings.beliefs.append(Belief("actor 18 has no song", not of_18, f"{of_18} trials"))
    more = sum(trial.label >= 6 for trial in sung)
    findings.beliefs.append(Belief("nobody sings disgust or surprise", not more, f"{more} trials"))
  strong = sum(trial.strong and trial.label == 0 for trial in trials)
  findings.beliefs.append(Belief("neutral is never strong", not strong, f"{strong} strong trials"))


def _choose(trials: dict[Trial, dict[str, Clip]], rule: str, findings: Findings) -> list[Still]:
  stills: list[Still] = []
  sizes: Counter[str] = Counter()
  rates: Counter[str] = Counter()
  unlike = total = read = 0
  with ThreadPoolExecutor(_THREADS) as pool:
    found = pool.map(lambda twins: {name: _header(place) for name, place in twins.items()}, trials.values())
    headers = progress(found, len(trials), "reading clips' headers")
    for (trial, twins), said in zip(trials.items(), headers, strict=True):
      sound = {name: header for name, header in said.items() if isinstance(header, Header)}
      for name, header in said.items():
        if isinstance(header, str):  # The twin has the same pictures.
          (findings.odd if sound else findings.bad).append(Problem(str(twins[name]), header))
      if not sound:
        continue
      unlike += len({header.num_frames for header in sound.values()}) > 1
      modality = min(sound)
      header = sound[modality]
      sizes[header.size] += 1
      rates[f"{header.rate:.2f}"] += 1
      total += header.num_frames
      read += 1
      for number in frame_rules.choose(rule, header.num_frames):
        stills.append(_still(trial, Frame(twins[modality], number)))
  most = ", ".join(f"{count} of {what}" for what, count in sizes.most_common(4))
  speeds = ", ".join(f"{count} of {what}" for what, count in rates.most_common(4))
  findings.beliefs += [
    Belief("01 and 02 of a trial have the same number of frames", not unlike, f"{unlike} differ"),
    Belief("clips are 1280x720", set(sizes) <= {"1280x720"}, most),
    Belief("clips run at 29.97 frames a second", set(rates) <= {"29.97"}, speeds),
  ]
  findings.notes.append(f"{len(stills)} of {total} frames of {read} clips by the rule {rule}")
  return stills


def _header(clip: Clip) -> Header | str:
  try:
    return read_header(clip)
  except (OSError, ValueError) as error:
    return str(error)


def _still(trial: Trial, frame: Frame) -> Still:
  return Still(
    key=f"{trial.name}_{frame.number:04d}",
    subject=trial.actor,
    label=trial.label,
    source=frame,
    extras={
      "sequence": trial.name,
      "frame": frame.number,
      "channel": trial.channel,
      "intensity": "strong" if trial.strong else "normal",
    },
  )
