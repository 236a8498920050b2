"""Paper 001's nets where the expression is gone again at the end: onset-apex-offset against onset-apex, embedded.

  jaxfer study configs/two_stream_conv_rnn/time_course_synthetic.py --workdir runs/time_course_synthetic

The nets read out at the last frame. CK+ ends at the apex, which that frame shows; where the face has relaxed by then,
what it showed is in the memory alone. The same people show the same expressions in both.
"""

from jaxfer.config import Call, Row, RunConfig, Split, StudyConfig

_ENHANCED = ("model.temporal_gate=true", "model.temporal_skip=true", "model.spatial_skip=true")
_APEX, _OFFSET = "data.time_course=onset_apex", "data.time_course=onset_apex_offset"


def get_config() -> StudyConfig:
  return StudyConfig(
    title="ConvLSTM and enhanced ConvLSTM on clips that end at the apex or after it",
    source="paper 001, Table 1, both ConvLSTMs: CK+, onset to apex, ten person-independent folds, pooled",
    base=RunConfig(
      recipe=Call("two_stream_conv_rnn", learning_rate=3e-3, schedule="cosine"),
      model=Call(
        "two_stream_conv_rnn",
        cell="conv_lstm",
        features=(8, 16),
        dense=(64, 32),
        dropout_rate=0.2,
        flow_gain=50.0,  # At 16 pixels a face moves by less than a tenth of a pixel a frame.
      ),
      data=Call("synthetic_sequences", num_frames=8, image_size=16),
      split=Split(folds=5),
      batch_size=8,
    ),
    rows=(
      Row("plain, onset-apex", (_APEX,), 281 / 327),
      Row("enhanced, onset-apex", (_APEX, *_ENHANCED), 296 / 327),
      Row("plain, onset-apex-offset", (_OFFSET,)),
      Row("enhanced, onset-apex-offset", (_OFFSET, *_ENHANCED)),
    ),
    compared=(
      ("plain, onset-apex-offset", "plain, onset-apex"),
      ("enhanced, onset-apex-offset", "enhanced, onset-apex"),
      ("enhanced, onset-apex", "plain, onset-apex"),
      ("enhanced, onset-apex-offset", "plain, onset-apex-offset"),
    ),
    presets={
      "smoke": (
        "split.folds=2",
        "recipe.epochs=1",
        "data.num_subjects=6",
        "data.num_frames=3",
        "model.features=(4,)",
        "model.kernel_size=(1, 1)",  # Compiles faster.
        "model.dense=(8, 8)",
      ),
      "small": ("seeds=3", "recipe.epochs=8", "data.num_subjects=30"),
      "paper": (
        "split.folds=10",
        "recipe.epochs=100",
        "data.num_subjects=118",
        "data.num_frames=16",
        "data.image_size=64",
        "batch_size=16",
        "model.features=(16, 32, 64, 128)",
        "model.dense=(256, 128)",
        "model.dropout_rate=0.5",
      ),
    },
    note="synthetic faces, not the paper's data: only the order of the rows can be compared",
  )
