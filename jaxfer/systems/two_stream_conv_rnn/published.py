"""The published accuracies of paper 001, Table 1.

The paper pools its folds, so each accuracy is a whole number of correct sequences divided by 327.
"""

from collections.abc import Mapping
from typing import Any

SEQUENCES = 327  # Number of test sequences over all folds.

_ENHANCED = {"temporal_gate": True, "temporal_skip": True, "spatial_skip": True}
_PLAIN = dict.fromkeys(_ENHANCED, False)

# (name, attributes of the model, accuracy in [0, 1]), as `System.published` takes them.
VARIANTS: tuple[tuple[str, Mapping[str, Any], float], ...] = (
  ("ConvGRU", {"cell": "conv_gru", **_PLAIN}, 283 / SEQUENCES),
  ("ConvLSTM", {"cell": "conv_lstm", **_PLAIN}, 281 / SEQUENCES),
  ("enhanced ConvGRU", {"cell": "conv_gru", **_ENHANCED}, 291 / SEQUENCES),
  ("enhanced ConvLSTM", {"cell": "conv_lstm", **_ENHANCED}, 296 / SEQUENCES),
)
