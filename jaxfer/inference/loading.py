"""`load` finds the weights in a folder and builds the model that they belong to."""

import pathlib

from jaxfer import folders
from jaxfer.errors import UserError
from jaxfer.inference import export
from jaxfer.inference.converted import converted, load_face_net, trained_model
from jaxfer.inference.predictor import Predictor
from jaxfer.inference.trained import trained
from jaxfer.train.weights import load_weights

__all__ = ["load", "load_face_net"]
_LISTED = 6  # Maximum number of folders that an error message lists.


def load(path: str | pathlib.Path) -> Predictor:
  """Loads a model that was trained by jaxfer, or converted from published weights.

  Args:
    path: the work directory of a run without folds; `WORKDIR/weights/fold0` or the like of a run with folds;
      `WORKDIR/rows/ROW/weights/MEMBER` of a study that kept its weights; or the output of `jaxfer convert`, or of
      `jaxfer export --format safetensors`.

  Returns:
    The model; see `Predictor` for its methods.

  Raises:
    UserError: the folder holds no weights, or the weights of several trainings, which the message lists; a file is
      missing or damaged; the weights contain NaN, or do not fit the model that they describe.
  """
  folder = pathlib.Path(path)
  if (exported := folder / "model.safetensors").exists():
    variables, meta = export.read_safetensors(exported)
  else:
    folder = _weights(folder)
    variables, meta = load_weights(folder)
  if trained_model(meta) and "model" not in meta:
    return trained(folder, variables, meta)
  return converted(folder, variables, meta)


def _weights(path: pathlib.Path) -> pathlib.Path:
  """Returns the folder of weights at or below a path."""
  for folder in (path, path / "weights"):
    if (folder / "weights.json").exists():
      return folder
  # The path may be a run with folds, a row of a study, or a whole study.
  patterns = ("*/weights.json", "weights/*/weights.json", "rows/*/weights/*/weights.json")
  found = sorted(file.parent for pattern in patterns for file in path.glob(pattern))
  if len(found) == 1:
    return found[0]
  if found:
    listed = ", ".join(f"'{folder}'" for folder in found[:_LISTED])
    more = f" and {len(found) - _LISTED} more" if len(found) > _LISTED else ""
    raise UserError(f"{path} holds the weights of {len(found)} trainings: give one of {listed}{more}")
  if (path / folders.RUN).exists():
    raise UserError(f"{path} is a run without weights: finish it with `jaxfer train ... --resume`")
  return path  # The error of reading it says what is missing.
