"""Every system at a size that compiles in seconds, on random records that can replace any data set.

A new system needs an entry in `SYSTEMS` here, in `RATES` of `tests/study/accuracy_test.py` and, for each of its
models, in `SPECS` of `tests/systems/models_test.py` and in `parameters.json` beside it. `tests/train/contract_test.py`
then compares its steps on one device and on four. Add a system with published numbers also to `SYSTEMS` of
`tests/readme_test.py`.
"""

import contextlib
import functools
from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfer import config as configuration
from jaxfer.config import Call, Execution, RunConfig, Split
from jaxfer.data.records import Records
from jaxfer.study import trainings
from jaxfer.study.task import Task, options_of, task_of
from jaxfer.systems.elderly_transfer import model as face_classifier
from jaxfer.systems.identity_expression_vae import model as identity_expression_vae
from jaxfer.systems.landmark_fusion import model as landmark_fusion
from tests.landmark_toy import Trunk

CLASSES = ("anger", "disgust", "happiness", "surprise")


def _config(recipe, model, **more):
  return RunConfig(
    recipe=recipe,
    model=model,
    data=Call("synthetic_faces"),  # Only the name is used; `records` are read instead.
    split=Split(test=0.34, validation=0.3),
    batch_size=8,
    execution=Execution(driver="steps", devices=1),
    **more,
  )


def _vae(name, norm):
  model = Call(name, width=1 / 32, image_size=32, latent=4, norm=norm)
  return _config(Call("identity_expression_vae", epochs=1), model)


# Dropout is off in all of them, for the comparison of one device with four (tests/train/contract_test.py).
SYSTEMS = {
  "stacked_autoencoder": _config(
    Call("stacked_autoencoder", pretrain_epochs=1, epochs=1), Call("stacked_autoencoder", sizes=(6, 5))
  ),
  "two_stream_conv_rnn": _config(
    Call("two_stream_conv_rnn", epochs=1),
    Call("two_stream_conv_rnn", features=(2,), dense=(5, 4), temporal_gate=True, dropout_rate=0.0),
  ),
  "landmark_fusion": _config(
    Call("landmark_fusion", rgb_epochs=1, epochs=1),
    Call("landmark_fusion", width=0.0625, block=4, kernel_sizes=(5, 3, 3, 1, 1, 1), image_size=66),
  ),
  "identity_expression_vae": _vae("identity_expression_vae", "none"),  # Norms double its time to compile.
  "vae": _vae("vae", "batch"),
  "conditional_vae": _vae("conditional_vae", "none"),
  "classifier": _config(Call("classifier", epochs=1), Call("tests.cnn:CNN", features=4)),
  "elderly_transfer": _config(
    Call("elderly_transfer", epochs=1, select="last"), Call("face_classifier", width=1 / 16, image_size=32)
  ),
  "elderly_transfer, people": _config(
    Call("elderly_transfer", epochs=1, optimizer="sgd", label="subject", select="last"),
    Call("face_classifier", width=1 / 16, image_size=32, head="adaface"),
  ),
}


@functools.cache
def records() -> Records:
  """Records of nine people, twelve each. The brightness depends on the class. The last record has no landmarks."""
  rng = np.random.default_rng(0)
  count = 108
  label = np.tile(np.arange(len(CLASSES)), count // len(CLASSES))
  brighter = 30 * label[:, None, None, None]
  landmarks = rng.uniform(10, 60, (count, 37, 2)).astype(np.float32)
  landmarks[-1] = np.nan
  frames = rng.integers(0, 120, (count, 3, 4, 4, 3)) + brighter[..., None]
  arrays = {
    "image": (rng.integers(0, 120, (count, 32, 32, 3)) + brighter).astype(np.uint8),
    "landmarks": landmarks,
    "frames": frames.astype(np.uint8),
    "flow": rng.integers(-9000, 9000, (count, 3, 4, 4, 2)).astype(np.int16),
    "label": label.astype(np.int32),
  }
  subjects = [f"P{k // 12}" for k in range(count)]
  return Records.from_arrays(arrays, [f"{k:03d}" for k in range(count)], CLASSES, subjects)


def made(name: str, *overrides: str) -> Task:
  """Creates the task of `SYSTEMS[name]`, with overrides such as "recipe.epochs=2"."""
  return task_of(configuration.override(SYSTEMS[name], overrides, options_of), records())


class Upsampled(nn.Module):
  """Replaces `ConvTranspose` from 4 x 4 to 32 x 32 pixels. Each input pixel becomes 8 x 8 equal output pixels."""

  features: int
  kernel: int
  strides: int
  padding: int
  use_bias: bool
  output_padding: int = 0
  dtype: str | None = None
  param_dtype: type = jnp.float32
  kernel_init: Callable = nn.initializers.lecun_normal()

  @nn.compact
  def __call__(self, x):
    dense = nn.Dense(
      self.features, self.use_bias, self.dtype, self.param_dtype, kernel_init=self.kernel_init, name="pixels"
    )
    return dense(x).repeat(8, 1).repeat(8, 2)


@contextlib.contextmanager
def shallow():
  """The networks of paper 003 have one stage, and compile in a third of the time."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(identity_expression_vae, "_stages", lambda size: 1)
    patch.setattr(identity_expression_vae, "ConvTranspose", Upsampled)
    yield


@contextlib.contextmanager
def installed():
  """Replaces every data set by `records`, and deep networks by shallow ones that compile fast.

  A single layer replaces each ResNet trunk; the networks of paper 003 are `shallow`.
  """
  with shallow(), pytest.MonkeyPatch.context() as patch:
    patch.setattr(landmark_fusion, "ResNetTrunk", Trunk)
    patch.setattr(face_classifier, "ResNetTrunk", Trunk)
    patch.setattr(trainings, "load_data", lambda config, data_dir: records())
    yield
