"""All combinations of the three additions of paper 001 on embedded synthetic sequences.

The additions are the temporal gate, the temporal skip and the spatial skip.

  jaxfer study configs/two_stream_conv_rnn/ablation_synthetic.py --workdir runs/ablation_synthetic

The paper reports only the model without any addition and the model with all three. The clips are those of
`table1_synthetic.py`.
"""

import itertools

from jaxfer.config import Call, Row, RunConfig, Split, StudyConfig

from .table1_synthetic import PAPER, SMOKE

_ADDITIONS = ("temporal_gate", "temporal_skip", "spatial_skip")
_PUBLISHED = {(): 281 / 327, _ADDITIONS: 296 / 327}


def _row(chosen: tuple[str, ...]) -> Row:
  overrides = {f"model.{name}": name in chosen for name in _ADDITIONS}
  return Row(" + ".join(chosen).replace("_", " ") or "plain", overrides, _PUBLISHED.get(chosen))


def get_config() -> StudyConfig:
  rows = [_row(chosen) for k in range(4) for chosen in itertools.combinations(_ADDITIONS, k)]
  return StudyConfig(
    title="ConvLSTM with temporal gate, temporal skip and spatial skip on embedded sequences",
    source="paper 001, Table 1, ConvLSTM and enhanced ConvLSTM: CK+, ten person-independent folds, pooled",
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
      data=Call("synthetic_sequences", num_frames=8, image_size=16, time_course="fleeting"),
      split=Split(folds=5),
      batch_size=8,
    ),
    rows=tuple(rows),
    compared=tuple((row.name, "plain") for row in rows[1:]),
    presets={
      "smoke": SMOKE,
      "small": {"seeds": 1, "recipe.epochs": 30, "data.num_subjects": 30},
      "paper": PAPER,
    },
    note="synthetic faces, not the paper's data: only the order of the rows can be compared",
  )
