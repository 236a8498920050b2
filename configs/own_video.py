"""An enhanced ConvLSTM on your own short videos, in one folder per class, each from neutral to the expression.

jaxfer prepare video_folder num_frames=8 image_size=48 --source path/to/videos
jaxfer train configs/own_video.py --workdir runs/own_video
jaxfer predict runs/own_video film.mp4

If file or folder names identify the person in a video, give both commands the pattern. Then nobody is in both training
and test:
subject_pattern='(S[0-9]+)_' for prepare, and data.subject_pattern='(S[0-9]+)_' for train.
"""

from jaxfer.config import Call, RunConfig, Split


def get_config() -> RunConfig:
  return RunConfig(
    recipe=Call("two_stream_conv_rnn", epochs=40, learning_rate=2e-3, schedule="cosine"),
    model=Call(
      "two_stream_conv_rnn",
      cell="conv_lstm",
      temporal_gate=True,
      temporal_skip=True,
      spatial_skip=True,
      features=(8, 16, 32),
      dense=(64, 32),
      dropout_rate=0.2,
    ),
    data=Call("video_folder", num_frames=8, image_size=48),
    split=Split(test=0.2, validation=0.15),
    batch_size=8,
  )
