"""The systems. Each is a package with a model, a recipe, published numbers, tables and figures."""

import dataclasses
import importlib
import os
import sys
import typing
from typing import Any

import flax.linen as nn

from jaxfer.errors import UserError, unknown
from jaxfer.systems import (
  classifier,
  elderly_transfer,
  identity_expression_vae,
  landmark_fusion,
  stacked_autoencoder,
  two_stream_conv_rnn,
)
from jaxfer.systems.system import System
from jaxfer.values import check

SYSTEMS: dict[str, System] = {
  "classifier": classifier.SYSTEM,
  "elderly_transfer": elderly_transfer.SYSTEM,
  "identity_expression_vae": identity_expression_vae.SYSTEM,
  "landmark_fusion": landmark_fusion.SYSTEM,
  "stacked_autoencoder": stacked_autoencoder.SYSTEM,
  "two_stream_conv_rnn": two_stream_conv_rnn.SYSTEM,
}
MODELS: dict[str, type[nn.Module]] = {
  name: model for system in SYSTEMS.values() for name, model in system.models.items()
}


def model_class(name: str) -> type[nn.Module]:
  """The Linen module of a name: a key of `MODELS`, or the import path of your own module, such as "my_models:CNN".

  An import path is looked up like any import, and then in the current directory.

  Raises:
    UserError: there is no such model, or importing its module fails.
  """
  module, colon, attribute = name.partition(":")
  if not colon:
    if name not in MODELS:
      raise unknown("model", name, MODELS)
    return MODELS[name]
  folder = os.getcwd()
  added = folder not in sys.path
  if added:
    sys.path.append(folder)
  try:
    found = getattr(importlib.import_module(module), attribute)
  except (ImportError, AttributeError, ValueError) as error:
    raise UserError(
      f"model '{name}': {error}; write MODULE:CLASS, and run jaxfer where Python finds MODULE, such as the folder of "
      f"{module.rpartition('.')[2]}.py"
    ) from error
  except Exception as error:  # The user's own code may raise anything.
    raise UserError(
      f"model '{name}': {module} cannot be imported: {type(error).__name__}: {error}"
    ) from error
  finally:
    if added:
      sys.path.remove(folder)
  if not (isinstance(found, type) and issubclass(found, nn.Module)):
    raise UserError(f"model '{name}' is not a Flax Linen module: name a subclass of flax.linen.Module")
  return found


def create_model(name: str, **kwargs: Any) -> nn.Module:
  """Creates the model of a name (see `model_class`) with the attributes `kwargs`.

  Raises:
    UserError: there is no such model or attribute, or a value has the wrong type or is outside its range. For unknown
      names the message suggests the nearest valid one.
  """
  model = model_class(name)
  attributes = {f.name for f in dataclasses.fields(model)} - {"parent", "name"}
  kinds = typing.get_type_hints(model, include_extras=True)
  for key, value in kwargs.items():
    if key not in attributes:
      raise unknown(f"attribute of model {name}", key, attributes)
    check(value, kinds[key], f"model.{key}")
  try:
    return model(**kwargs)
  except TypeError as error:
    raise UserError(f"model {name}: {error}") from error
