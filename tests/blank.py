"""Blank records with the arrays of any data set."""

import importlib
import tempfile

import numpy as np

from jaxfer.data import records
from jaxfer.data.datasets import DATASETS


def blank_records(data):
  """Returns sixty people with one record per class of a data set, as zeros without memory; nothing must be prepared."""
  name, made, names = data.name, records.make_config(data.name, data.options), None
  prefixes = [""]
  if DATASETS[name].parts:  # A mixture has the features of any of its parts.
    mixture = importlib.import_module(DATASETS[name].module).mixture(made)
    part, names = mixture.parts[0], mixture.label_names
    prefixes = [f"{prefix}/" for prefix in dict.fromkeys(part.prefix for part in mixture.parts)]
    name, made = part.name, records.make_config(part.name, part.options)
  with tempfile.TemporaryDirectory() as folder:
    builder = records.open_builder(name, made, folder)
  features = builder.info.features
  classes, people = names or features["label"].names, 60
  rows = np.arange(people * len(classes), dtype=np.int32)
  arrays = {
    name: np.broadcast_to(np.zeros((), feature.np_dtype), (len(rows), *feature.shape))
    for name, feature in features.items()
    if name not in ("key", "subject", "label", "split")
  }
  arrays |= {"label": rows % len(classes), "subject": rows // len(classes)}
  subjects = tuple(f"{prefixes[k % len(prefixes)]}{k:02d}" for k in range(people))
  texts = {"split": tuple("test" if k // len(classes) % 4 == 0 else "train" for k in rows)}
  return records.Records(arrays, tuple(f"{k:05d}" for k in rows), tuple(classes), subjects, "", texts)
