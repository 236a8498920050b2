"""Paper 001, Table 1, ConvLSTM on CK+: ten person-independent folds, accuracy pooled.

  jaxfer prepare ckplus --source <the distributor's folder>
  jaxfer train configs/two_stream_conv_rnn/conv_lstm.py --workdir runs/conv_lstm

Published: 85.93 % (281 of 327). Ours: not yet run, for want of the data (CK+ is given out on
request); see the README for the same nets on embedded sequences. The paper states neither sizes nor training; ours are
in the docstrings of the model and of `jaxfer.experiments.two_stream_conv_rnn`.
"""

from jaxfer.config import Call, RunConfig, Split


def get_config() -> RunConfig:
  return RunConfig(
    recipe=Call("two_stream_conv_rnn"),
    model=Call(
      "two_stream_conv_rnn",
      cell="conv_lstm",
      flow_gain=20.0,  # Flow in pixels. Our choice, as is everything about the flow.
    ),
    data=Call("ckplus"),
    split=Split(folds=10),
  )
