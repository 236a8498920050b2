"""The printed accuracies of paper 001, Table 1. They are exact multiples of 1/327, as the paper pools its folds."""

from collections.abc import Mapping
from typing import Any

SEQUENCES = 327

_ENHANCED = {"temporal_gate": True, "temporal_skip": True, "spatial_skip": True}
_PLAIN = dict.fromkeys(_ENHANCED, False)

ROWS: tuple[tuple[str, Mapping[str, Any], float], ...] = (
  ("ConvGRU", {"cell": "conv_gru", **_PLAIN}, 283 / SEQUENCES),
  ("ConvLSTM", {"cell": "conv_lstm", **_PLAIN}, 281 / SEQUENCES),
  ("enhanced ConvGRU", {"cell": "conv_gru", **_ENHANCED}, 291 / SEQUENCES),
  ("enhanced ConvLSTM", {"cell": "conv_lstm", **_ENHANCED}, 296 / SEQUENCES),
)
