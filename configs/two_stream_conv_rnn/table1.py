"""Table 1 of paper 001 on CK+: four conv-RNNs, ten person-independent folds, accuracy pooled over folds.

  jaxfer prepare ckplus --source <the distributor's folder>
  jaxfer study configs/two_stream_conv_rnn/table1.py --workdir runs/table1

We have not run this study, because we do not have CK+, which is available on request. The presets "smoke" and "small"
need smaller clips, which `jaxfer prepare ckplus num_frames=8 image_size=24` writes.
"""

from jaxfer.config import Call, Row, RunConfig, Split, StudyConfig

ENHANCED = {"model.temporal_gate": True, "model.temporal_skip": True, "model.spatial_skip": True}
ROWS = (
  Row("ConvGRU", {"model.cell": "conv_gru"}, 283 / 327),
  Row("ConvLSTM", {"model.cell": "conv_lstm"}, 281 / 327),
  Row("enhanced ConvGRU", {"model.cell": "conv_gru", **ENHANCED}, 291 / 327),
  Row("enhanced ConvLSTM", {"model.cell": "conv_lstm", **ENHANCED}, 296 / 327),
)
COMPARED = (("enhanced ConvGRU", "ConvGRU"), ("enhanced ConvLSTM", "ConvLSTM"))


def get_config() -> StudyConfig:
  return StudyConfig(
    title="Paper 001, Table 1: four conv-RNNs on CK+",
    source="paper 001, Table 1: CK+, ten person-independent folds, pooled",
    base=RunConfig(
      recipe=Call("two_stream_conv_rnn"),
      model=Call(
        "two_stream_conv_rnn",
        flow_gain=20.0,  # The model sees the flow in pixels (our choice).
      ),
      data=Call("ckplus"),
      split=Split(folds=10),
    ),
    rows=ROWS,
    compared=COMPARED,
    presets={
      "smoke": {
        "split.folds": 2,
        "recipe.epochs": 1,
        "data.num_frames": 8,
        "data.image_size": 24,
        "model.features": (4,),
        "model.kernel_size": (1, 1),  # Compiles faster,
        "execution.driver": "steps",  # and so does this.
        "model.dense": (8, 8),
      },
      "small": {
        "seeds": 3,
        "split.folds": 5,
        "recipe.epochs": 20,
        "recipe.learning_rate": 3e-3,
        "recipe.schedule": "cosine",
        "data.num_frames": 8,
        "data.image_size": 24,
        "batch_size": 8,
        "model.features": (8, 16, 32),
        "model.dense": (64, 32),
        "model.dropout_rate": 0.2,
      },
      "paper": {},
    },
    preset="paper",
    note="the paper gives neither sizes nor training: those are ours, and so is the flow (see the README)",
  )
