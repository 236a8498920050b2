"""Describes the inputs of a model, which `jaxfer.load` needs in addition to the config and the weights."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxfer.data.records import make_config, option_fields
from jaxfer.study.task import Task
from jaxfer.train.stage import Variables

# Arrays of records that a system may read. All other arrays hold labels and further information.
ARRAYS = ("image", "frames", "flow", "landmarks")
STATE = "inference"  # Collection of the arrays of `System.inference_state`.


def description(task: Task) -> dict[str, Any]:
  """Returns the metadata of a training's inputs.

  Its keys are "inputs" (shape and dtype of each array of a record), "preparation" (the options of the data set, such as
  "crop" and "image_size", with defaults filled in and without the paths it was read from) and "subjects" (number of
  people in the data).
  """
  arrays = {name: task.records.arrays[name] for name in ARRAYS if name in task.records.arrays}
  data = task.config.data
  chosen = make_config(data.name, data.options)
  return {
    "inputs": {
      name: {"shape": list(array.shape[1:]), "dtype": str(array.dtype)} for name, array in arrays.items()
    },
    "preparation": {
      name: getattr(chosen, name)
      for name, field in option_fields(type(chosen)).items()
      if field.metadata.get("in_name", True)
    },
    "subjects": len(task.records.subject_names),
  }


def with_state(variables: Variables, state: Mapping[str, np.ndarray]) -> dict[str, Any]:
  """Returns variables with the arrays of `System.inference_state`, if there are any."""
  return {**variables, STATE: dict(state)} if state else dict(variables)
