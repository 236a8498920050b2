"""Enhanced ConvLSTM, small, on embedded synthetic sequences: minutes on two CPU cores.

jaxfer train configs/quickstart.py --workdir runs/quickstart
"""

from jaxfer.config import Call, RunConfig, Split


def get_config() -> RunConfig:
  return RunConfig(
    recipe=Call("two_stream_conv_rnn", epochs=12, learning_rate=3e-3, schedule="cosine"),
    model=Call(
      "two_stream_conv_rnn",
      cell="conv_lstm",
      temporal_gate=True,
      temporal_skip=True,
      spatial_skip=True,
      features=(8, 16, 32),
      dense=(64, 32),
      dropout_rate=0.2,
      flow_gain=50.0,  # At 24 pixels a face moves by less than a tenth of a pixel a frame.
    ),
    data=Call("synthetic_sequences", num_subjects=60, num_frames=8, image_size=24),
    split=Split(test=0.25, validation=0.15),
    batch_size=8,
  )
