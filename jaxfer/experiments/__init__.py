"""One file a system: its stages, its evaluation, its published table."""

from jaxfer.experiments import two_stream_conv_rnn
from jaxfer.experiments.experiment import Experiment

EXPERIMENTS: dict[str, Experiment] = {
  "two_stream_conv_rnn": two_stream_conv_rnn.EXPERIMENT,
}
