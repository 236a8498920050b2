"""One file a system: its stages, its evaluation, its published table."""

from jaxfer.experiments import stacked_autoencoder, two_stream_conv_rnn
from jaxfer.experiments.experiment import Experiment

EXPERIMENTS: dict[str, Experiment] = {
  "stacked_autoencoder": stacked_autoencoder.EXPERIMENT,
  "two_stream_conv_rnn": two_stream_conv_rnn.EXPERIMENT,
}
