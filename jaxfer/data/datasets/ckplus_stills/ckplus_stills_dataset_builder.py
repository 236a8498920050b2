"""Frames of CK+ (Lucey et al. 2010) as stills, for papers 000 and 003.

Sequences run from onset to peak. Paper 003 evaluates on the last frames of the labelled sequences without contempt
(`frames="last:3"`), and trains on equally spaced frames of all sequences (`frames="equal:10" contempt=true
unlabelled=true`). Paper 000 has one picture per sequence ("last:1"; its Table 1 counts 305, four fewer than the 309
sequences without contempt). All frames of a sequence are cropped to one square around the landmarks of the first frame.
The scan and the checks are those of the data set `ckplus`.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from jaxfer.data import align, frame_rules, stills_builder
from jaxfer.data.datasets.ckplus import frames, scan
from jaxfer.data.datasets.ckplus.scan import Sequence as Recorded
from jaxfer.data.prepare import Findings, Problem
from jaxfer.data.stills import UNLABELLED, File, Still
from jaxfer.errors import UserError
from jaxfer.ranges import StoredSize


@dataclasses.dataclass
class Config(stills_builder.Config):
  """The options of the data set.

  Attributes:
    frames: which frames of a sequence, see `frame_rules`.
    contempt: whether to keep the sequences of contempt.
    unlabelled: whether to keep the sequences without a label, as a class of that name: 266 of 593 sequences. Five of
      the 123 people have no labelled sequence.
  """

  image_size: StoredSize = 128
  frames: str = "last:3"
  contempt: bool = False
  unlabelled: bool = False

  def __post_init__(self) -> None:
    super().__post_init__()
    frame_rules.parse(self.frames)


class Builder(stills_builder.Builder):
  """CK+ as stills: peak frames of the labelled sequences of 118 people, or of all 123 people; six to eight classes."""

  VERSION = tfds.core.Version("1.0.0")
  HOMEPAGE = "http://www.pitt.edu/~emotion/ck-spread.htm"

  def label_names(self) -> Sequence[str]:
    """Six emotions, and optionally contempt and a class for unlabelled sequences."""
    names = tuple(name for name in scan.LABELS if name != "contempt" or self.builder_config.contempt)
    return (*names, UNLABELLED) if self.builder_config.unlabelled else names

  def extras(self) -> Mapping[str, Any]:
    """The sequence of a still, and the number of the still in it."""
    return {"sequence": tfds.features.Text(), "frame": tfds.features.Scalar(dtype=np.int32)}

  def scan(self, source: Path, findings: Findings) -> list[Still]:
    """Scans and checks the folders as `ckplus` does, then selects frames by the rule."""
    config, names = self.builder_config, list(self.label_names())
    tree = scan.scan(source, findings)
    sequences = [*tree.sequences, *(scan.unlabelled(tree, findings) if config.unlabelled else ())]
    wanted = frozenset(tree.frames) if config.unlabelled else tree.labelled
    damaged = frames.check_headers(tree.frames, wanted, findings)
    stills, dropped, taken = [], 0, 0
    for sequence in sorted(sequences, key=lambda sequence: sequence.key):
      name = UNLABELLED if sequence.label < 0 else scan.LABELS[sequence.label]
      if name not in names:
        dropped += 1
        continue
      if sequence.key in damaged:
        continue
      try:
        stills += self._stills(sequence, names.index(name))
        taken += 1
      except UserError as error:
        findings.bad.append(Problem(str(sequence.frames[0]), str(error)))
    if dropped:
      findings.notes.append(f"{dropped} sequences of contempt left out; contempt=true keeps them")
    findings.notes.append(f"{len(stills)} frames of {taken} sequences by the rule {config.frames}")
    return stills

  def _stills(self, sequence: Recorded, label: int) -> list[Still]:
    """Returns the frames that the rule selects; raises UserError if the landmarks do not give a square."""
    square = None if sequence.landmarks is None else align.landmark_square(sequence.landmarks, frames.MARGIN)
    stills = []
    for i in frame_rules.choose(self.builder_config.frames, len(sequence.frames)):
      number = scan.frame_number(sequence.frames[i])
      stills.append(
        Still(
          key=f"{sequence.key}_{number:08d}",
          subject=sequence.subject,
          label=label,
          source=File(sequence.frames[i]),
          square=square,
          where=f"landmarks of {sequence.key}" if square else "",
          extras={"sequence": sequence.key, "frame": number},
        )
      )
    return stills
