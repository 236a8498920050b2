"""The models by name: one Linen file a system."""

import dataclasses
import typing
from typing import Any

import flax.linen as nn

from jaxfer.errors import UserError, unknown
from jaxfer.models.face_classifier import FaceClassifier
from jaxfer.models.identity_expression_vae import IdentityExpressionVAE
from jaxfer.models.landmark_fusion import LandmarkFusion
from jaxfer.models.stacked_autoencoder import StackedAutoencoder
from jaxfer.models.two_stream_conv_rnn import TwoStreamConvRNN
from jaxfer.models.vae_baselines import VAE, ConditionalVAE
from jaxfer.values import check

MODELS: dict[str, type[nn.Module]] = {
  "conditional_vae": ConditionalVAE,
  "face_classifier": FaceClassifier,
  "identity_expression_vae": IdentityExpressionVAE,
  "landmark_fusion": LandmarkFusion,
  "stacked_autoencoder": StackedAutoencoder,
  "two_stream_conv_rnn": TwoStreamConvRNN,
  "vae": VAE,
}


def create_model(name: str, **kwargs: Any) -> nn.Module:
  """Returns the model `name` of `MODELS` with `kwargs` as its attributes.

  Raises:
    UserError: there is no such model or attribute (names the nearest valid one), or a value is not of its type or
      outside its range.
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
