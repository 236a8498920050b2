"""The enhanced ConvGRU of paper 001 (Table 1) on CK+: ten person-independent folds, accuracy pooled over folds.

  jaxfer prepare ckplus --source <the distributor's folder>
  jaxfer train configs/two_stream_conv_rnn/enhanced_conv_gru.py --workdir runs/enhanced_conv_gru

The published accuracy is 88.99 % (291 of 327). We have not run this config, because we do not have CK+, which is
available on request. jaxfer/systems/two_stream_conv_rnn/README.md has results of smaller models on embedded sequences
(section 6). The paper gives neither layer sizes nor the training; our choices are in section 3.
"""

from jaxfer.config import Call, RunConfig, Split


def get_config() -> RunConfig:
  return RunConfig(
    recipe=Call("two_stream_conv_rnn"),
    model=Call(
      "two_stream_conv_rnn",
      cell="conv_gru",
      temporal_gate=True,
      temporal_skip=True,
      spatial_skip=True,
      flow_gain=20.0,  # The model sees the flow in pixels (our choice).
    ),
    data=Call("ckplus"),
    split=Split(folds=10),
  )
