"""Scans a copy of MSFDE in class folders, or with a table of paths, labels and people.

No public source gives file names or folders (data/README.md, section 4), so the owner of a copy names the classes,
either by folders such as anger/ or by a csv with the header path,label,subject. Source: Beaupre and Hess (2005).
"""

import dataclasses
from collections import Counter
from pathlib import Path

from jaxfer.data import emotions, tree
from jaxfer.data.datasets.image_folder import scan as image_folder
from jaxfer.data.datasets.manifest import scan as manifest
from jaxfer.data.prepare import Belief, Findings
from jaxfer.data.stills import Still

# Paper 000 uses all classes but neutral and shame (159 pictures).
LABELS = ("anger", "disgust", "fear", "happiness", "neutral", "sadness", "shame")


def scan(source: Path, subject_pattern: str, findings: Findings) -> list[Still]:
  """Reads the table, or the class folders if there is no table.

  Args:
    source: a table; the folder that holds it; or the folder of the classes.
    subject_pattern: for class folders, see `image_folder.scan`.
    findings: counts and problems are added to it.

  Raises:
    UserError: there is neither, or a class is not one of MSFDE.
  """
  if tree.tables(source):
    names, stills = manifest.scan(source, 0, findings)
  else:
    names, stills = image_folder.scan(source, subject_pattern, findings)
  labels = emotions.match(source, names, LABELS)
  stills = [dataclasses.replace(still, label=labels[still.label], extras={}) for still in stills]
  by_class = Counter(still.label for still in stills)
  findings.beliefs.append(
    Belief(
      "224 pictures, 32 of each of seven classes, of 32 people",
      len(stills) == 224
      and set(by_class.values()) == {32}
      and len({still.subject for still in stills}) == 32,
      f"{len(stills)} pictures, "
      + ", ".join(f"{by_class[i]} {name}" for i, name in enumerate(LABELS) if by_class[i]),
    )
  )
  return stills
