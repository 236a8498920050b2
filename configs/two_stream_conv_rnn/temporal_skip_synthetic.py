"""Compares both readings of paper 001's temporal skip on embedded synthetic sequences of 16 frames.

  jaxfer study configs/two_stream_conv_rnn/temporal_skip_synthetic.py --workdir runs/temporal_skip_synthetic

The paper calls the temporal skip a path for gradients over time, but does not say where the path ends. Each variant
with the skip is trained in both readings (README, section 3). In one, the skip ends at the input of the gates. In the
other, it ends at the output, and the initial merge is [I; I], so that the path is open from the start. The other
variants are those of the ablation without a temporal skip and with at most one addition.

The clips have the time course of `table1_synthetic.py` and twice as many frames, so an expression must be remembered
for about eight steps. All other settings are those of `table1_synthetic.py`, except for the 30 people and two folds,
which keep the study short.
"""

import dataclasses
from typing import Any

from jaxfer.config import Call, Row, Split, StudyConfig

from . import table1_synthetic
from .table1 import ENHANCED

_SKIP = "temporal skip at the {}"
_ALL = "all three, temporal skip at the {}"
_READINGS = {
  "input": {"model.temporal_merge": "input", "model.merge_init": "identity"},
  "output": {"model.temporal_merge": "output", "model.merge_init": "sum"},
}


def _changed(call: Call, **options: Any) -> Call:
  return Call(call.name, **{**call.options, **options})


def get_config() -> StudyConfig:
  table = table1_synthetic.get_config()
  with_skip = [
    Row(name.format(place), {**additions, **reading})
    for name, additions in ((_SKIP, {"model.temporal_skip": True}), (_ALL, ENHANCED))
    for place, reading in _READINGS.items()
  ]
  rows = (
    Row("plain"),
    Row("temporal gate", {"model.temporal_gate": True}),
    Row("spatial skip", {"model.spatial_skip": True}),
    *with_skip,
  )
  return dataclasses.replace(
    table,
    title="ConvLSTM with the temporal skip at the input and at the output, on embedded sequences",
    base=dataclasses.replace(
      table.base,
      model=_changed(table.base.model, cell="conv_lstm"),
      data=_changed(table.base.data, num_frames=16),
      split=Split(folds=2),
    ),
    rows=rows,
    compared=(
      *((row.name, "plain") for row in rows[1:]),
      *((name.format("output"), name.format("input")) for name in (_SKIP, _ALL)),
    ),
    presets={
      **table.presets,
      "small": {**table.presets["small"], "data.num_subjects": 30},
    },
  )
