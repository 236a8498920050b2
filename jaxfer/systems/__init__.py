"""The systems. Each is a package with a model, a recipe, published numbers, tables and figures."""

import dataclasses
import typing
from typing import Any

import flax.linen as nn

from jaxfer.errors import UserError, unknown
from jaxfer.systems import (
  elderly_transfer,
  identity_expression_vae,
  landmark_fusion,
  stacked_autoencoder,
  two_stream_conv_rnn,
)
from jaxfer.systems.system import System
from jaxfer.values import check

SYSTEMS: dict[str, System] = {
  "elderly_transfer": elderly_transfer.SYSTEM,
  "identity_expression_vae": identity_expression_vae.SYSTEM,
  "landmark_fusion": landmark_fusion.SYSTEM,
  "stacked_autoencoder": stacked_autoencoder.SYSTEM,
  "two_stream_conv_rnn": two_stream_conv_rnn.SYSTEM,
}
MODELS: dict[str, type[nn.Module]] = {
  name: model for system in SYSTEMS.values() for name, model in system.models.items()
}


def create_model(name: str, **kwargs: Any) -> nn.Module:
  """Creates the model `name` of `MODELS` with the attributes `kwargs`.

  Raises:
    UserError: there is no such model or attribute, or a value has the wrong type or is outside its range. For unknown
      names the message suggests the nearest valid one.
  """
  if name not in MODELS:
    raise unknown("model", name, MODELS)
  attributes = {f.name for f in dataclasses.fields(MODELS[name])} - {"parent", "name"}
  kinds = typing.get_type_hints(MODELS[name], include_extras=True)
  for key, value in kwargs.items():
    if key not in attributes:
      raise unknown(f"attribute of model {name}", key, attributes)
    check(value, kinds[key], f"model.{key}")
  try:
    return MODELS[name](**kwargs)
  except TypeError as error:
    raise UserError(f"model {name}: {error}") from error
