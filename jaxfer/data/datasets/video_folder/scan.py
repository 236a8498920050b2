"""Lists videos in folders of classes, DIR/<class>/..., without decoding them."""

import dataclasses
from collections import Counter
from pathlib import Path

from jaxfer.data import tree, video
from jaxfer.data.datasets.image_folder.scan import compile_subject_pattern, sort_names, subject
from jaxfer.data.prepare import Count, Findings, Problem, visible
from jaxfer.errors import UserError


@dataclasses.dataclass(frozen=True)
class Clip:
  """A video file.

  Attributes:
    key: path below the source.
    subject: name of the person.
    label: index of the class.
    path: path of the file.
  """

  key: str
  subject: str
  label: int
  path: Path


def scan(source: Path, subject_pattern: str, findings: Findings) -> tuple[tuple[str, ...], list[Clip]]:
  """Lists the videos of all classes.

  Args:
    source: folder of the class folders.
    subject_pattern: regular expression with one group for the person's name, which is searched in the path below
      `source`; "" if the people are unknown. Each video then counts as a different person.
    findings: counts and problems are added to it.

  Returns:
    (names, clips): the class names in ascending order, and the videos.

  Raises:
    UserError: there are fewer than two folders with videos, or the pattern is invalid.
  """
  pattern = compile_subject_pattern(subject_pattern)
  folders = {
    folder.name: [path for path in sorted(tree.walk(folder, findings=findings)) if video.is_video(path)]
    for folder in visible(source)
    if folder.is_dir()
  }
  names = sort_names([name for name, paths in folders.items() if paths])
  if len(names) < 2:
    raise UserError(
      f"source {source} holds {len(names)} folders with videos: expected two or more, <class>/*.mp4 (mov, avi, ...)"
    )
  findings.odd += [
    Problem(str(source / name), "a folder without videos was left out")
    for name, paths in folders.items()
    if not paths
  ]
  clips = []
  for label, name in enumerate(names):
    for path in folders[name]:
      key = path.relative_to(source).as_posix()
      try:
        key.encode()
        clips.append(Clip(key, subject(key, pattern), label, path))
      except ValueError as error:
        reason = "its name is not UTF-8" if isinstance(error, UnicodeError) else str(error)
        findings.bad.append(Problem(ascii(str(path))[1:-1], reason))
  by_class = Counter(clip.label for clip in clips)
  findings.counts += [Count("videos", len(clips)), Count("classes", len(names))]
  findings.counts += [Count(f"  {name}", by_class[label]) for label, name in enumerate(names)]
  if pattern is None:
    findings.notes.append(
      "people are unknown: each video counts as a different person, so folds cannot keep people apart"
    )
  else:
    findings.counts.append(Count("subjects", len({clip.subject for clip in clips})))
  return names, clips
