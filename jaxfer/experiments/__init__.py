"""One file a system: its stages, its evaluation, its published table."""

from jaxfer.experiments import (
  elderly_transfer,
  identity_expression_vae,
  landmark_fusion,
  stacked_autoencoder,
  two_stream_conv_rnn,
)
from jaxfer.experiments.experiment import Experiment

EXPERIMENTS: dict[str, Experiment] = {
  "elderly_transfer": elderly_transfer.EXPERIMENT,
  "identity_expression_vae": identity_expression_vae.EXPERIMENT,
  "landmark_fusion": landmark_fusion.EXPERIMENT,
  "stacked_autoencoder": stacked_autoencoder.EXPERIMENT,
  "two_stream_conv_rnn": two_stream_conv_rnn.EXPERIMENT,
}
