"""The ConvLSTM models of paper 001 on embedded sequences with three time courses of the expression.

  jaxfer study configs/two_stream_conv_rnn/time_course_synthetic.py --workdir runs/time_course_synthetic

The models classify a clip by their output at the last frame. Clips of CK+ end at the apex, so the last frame shows the
expression ("onset_apex"). If the face has relaxed again by then ("onset_apex_offset"), a model can only remember the
expression. Clips with the time course "fleeting" end with motion that is unrelated to the label, and their expressions
have 0.7 of the strength. The people are the same in all three.
"""

from jaxfer.config import Call, Row, RunConfig, Split, StudyConfig

from .table1 import ENHANCED
from .table1_synthetic import PAPER, SMOKE

_COURSES = {"onset-apex": "onset_apex", "onset-apex-offset": "onset_apex_offset", "fleeting": "fleeting"}
_PUBLISHED = {"plain, onset-apex": 281 / 327, "enhanced, onset-apex": 296 / 327}
_NETS: dict[str, dict[str, bool]] = {"plain": {}, "enhanced": ENHANCED}


def get_config() -> StudyConfig:
  rows = [
    Row(name, {"data.time_course": course, **overrides}, _PUBLISHED.get(name))
    for words, course in _COURSES.items()
    for net, overrides in _NETS.items()
    for name in [f"{net}, {words}"]
  ]
  return StudyConfig(
    title="ConvLSTM and enhanced ConvLSTM on clips that end at the apex, after it, or with other motion",
    source="paper 001, Table 1, both ConvLSTMs: CK+, onset to apex, ten person-independent folds, pooled",
    base=RunConfig(
      recipe=Call("two_stream_conv_rnn", learning_rate=3e-3, schedule="cosine"),
      model=Call(
        "two_stream_conv_rnn",
        cell="conv_lstm",
        features=(8, 16),
        dense=(64, 32),
        dropout_rate=0.2,
        flow_gain=50.0,  # At 16 pixels a face moves by less than a tenth of a pixel per frame.
      ),
      data=Call("synthetic_sequences", num_frames=8, image_size=16),
      split=Split(folds=5),
      batch_size=8,
    ),
    rows=tuple(rows),
    compared=tuple((f"enhanced, {course}", f"plain, {course}") for course in _COURSES),
    presets={
      "smoke": SMOKE,
      "small": {"seeds": 1, "recipe.epochs": 30, "data.num_subjects": 30},
      "paper": PAPER,
    },
    note="synthetic faces, not the paper's data: only the order of the rows can be compared",
  )
