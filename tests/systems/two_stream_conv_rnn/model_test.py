"""The two-stream model: parameter counts, options, masks, and its output against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfer.config import Call, RunConfig, override
from jaxfer.errors import UserError
from jaxfer.layers.conv_rnn import ConvGRU, ConvLSTM
from jaxfer.study.task import options_of
from jaxfer.systems import create_model
from jaxfer.systems.two_stream_conv_rnn import SYSTEM
from jaxfer.systems.two_stream_conv_rnn.model import _pool
from tests import drawn

ENHANCED = {"temporal_gate": True, "temporal_skip": True, "spatial_skip": True}
# Number of parameters: in total, in each layer of the RGB stream, and in the first layer of the flow stream.
# The other layers of the flow stream have as many as those of the RGB stream.
COUNTS = {
  ("conv_gru", False): (1_858_839, (8_256, 41_568, 166_080, 663_936), 7_824),
  ("conv_gru", True): (2_598_359, (11_856, 59_072, 235_904, 942_848), 11_264),
  ("conv_lstm", False): (2_445_255, (11_008, 55_424, 221_440, 885_248), 10_432),
  ("conv_lstm", True): (3_184_775, (14_608, 72_928, 291_264, 1_164_160), 13_872),
}


def count(tree):
  return sum(leaf.size for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize(("cell", "enhanced"), COUNTS)
def test_parameter_counts_of_the_default_sizes(cell, enhanced):
  model = create_model("two_stream_conv_rnn", cell=cell, **(ENHANCED if enhanced else {}))
  clip = [jnp.zeros((1, 2, 64, 64, channels)) for channels in (3, 2)]
  params = jax.eval_shape(model.init, jax.random.key(0), *clip)["params"]
  total, rgb, flow = COUNTS[cell, enhanced]
  assert count(params) == total
  assert tuple(count(params["rgb"][f"layer{k}"]) for k in (1, 2, 3, 4)) == rgb
  assert tuple(count(params["flow"][f"layer{k}"]) for k in (1, 2, 3, 4)) == (flow, *rgb[1:])
  assert [count(params[f"fc{k}"]) for k in (1, 2, 3)] == [65_792, 32_896, 903]


def test_parameter_counts_with_peepholes_and_with_pointwise_fusion():
  """Peepholes add three weights per feature and pixel. The fusion adds P [256, 128] and its bias, and halves fc1."""
  clip = [jnp.zeros((1, 2, 64, 64, channels)) for channels in (3, 2)]

  def shapes(**options):
    return jax.eval_shape(create_model("two_stream_conv_rnn", **options).init, jax.random.key(0), *clip)[
      "params"
    ]

  plain = count(shapes())
  peepholes = sum(3 * features * size**2 for features, size in ((16, 64), (32, 32), (64, 16), (128, 8)))
  assert count(shapes(peephole=True)) == plain + 2 * peepholes
  fused = shapes(fusion="concat_pointwise")
  assert fused["fusion"]["kernel"].shape == (256, 128)
  assert count(fused) == plain + 256 * 128 + 128 - 128 * 256


def test_names_of_the_parameters_of_an_enhanced_model():
  clip = [jnp.zeros((1, 2, 8, 8, channels)) for channels in (3, 2)]
  model = create_model("two_stream_conv_rnn", features=(2,), dense=(3, 3), **ENHANCED)
  params = jax.eval_shape(model.init, jax.random.key(0), *clip)["params"]
  assert set(params) == {"rgb", "flow", "fc1", "fc2", "fc3"} == set(model.parts)
  assert set(params["rgb"]["layer1"]) == {
    "input_kernel", "input_bias", "state_kernel", "gate_input_kernel", "gate_state_kernel", "gate_bias",
    "temporal_skip_kernel", "temporal_skip_bias", "spatial_skip_kernel", "spatial_skip_bias",
  }  # fmt: skip


@pytest.mark.parametrize("fusion", ["average_concat", "concat_pointwise"])
def test_the_recipe_trains_every_submodule(fusion):
  model = create_model("two_stream_conv_rnn", features=(2,), dense=(3, 3), fusion=fusion)
  clip = [jnp.zeros((1, 2, 8, 8, channels)) for channels in (3, 2)]
  params = jax.eval_shape(model.init, jax.random.key(0), *clip)["params"]
  (stage,), _ = SYSTEM.recipe(model, 1)
  assert set(stage.updates[0].trainable) == set(params)


@pytest.mark.parametrize("pool", ["last", "mean"])
def test_pointwise_fusion_equals_numpy(pool):
  """The reference takes the maps of the recurrent layers, and computes the rest of the model in NumPy."""
  options = {"features": (4,), "dense": (6, 5), "pool": pool, "fusion": "concat_pointwise", "flow_gain": 3.0}
  model = create_model("two_stream_conv_rnn", cell="conv_gru", **options)
  clip = [jax.random.normal(jax.random.key(k), (2, 3, 5, 4, channels)) for k, channels in enumerate((3, 2))]
  shapes = jax.eval_shape(model.init, jax.random.key(0), *clip)["params"]
  rng = np.random.default_rng(0)
  params = jax.tree.map(lambda a: np.asarray(rng.normal(0, 0.5, a.shape), np.float32), shapes)
  maps = [
    np.asarray(ConvGRU(4).apply({"params": params[name]["layer1"]}, x), np.float64)
    for name, x in (("rgb", clip[0]), ("flow", 3 * clip[1]))
  ]
  fused = np.concatenate(maps, -1) @ params["fusion"]["kernel"] + params["fusion"]["bias"]
  x = np.maximum(fused, 0).mean((2, 3))
  x = x[:, -1] if pool == "last" else x.mean(1)
  for k in (1, 2, 3):
    x = x @ params[f"fc{k}"]["kernel"] + params[f"fc{k}"]["bias"]
    x = np.maximum(x, 0) if k < 3 else x
  np.testing.assert_allclose(model.apply({"params": params}, *clip), x, rtol=1e-4, atol=1e-5)


# Every option of the cells and of the fusion, with another value than its default.
OPTIONS = ENHANCED | {
  "temporal_merge": "output",
  "merge_init": "sum",
  "peephole": True,
  "fusion": "concat_pointwise",
  "features": (4,),
  "dense": (8, 8),
}


def test_every_option_of_the_cells_reaches_both_streams():
  """The reference applies the recurrent layers with the same options, and computes the rest in NumPy."""
  options = {"spatial_skip": True, "temporal_gate": True, "gate_sees_x": False, "temporal_skip": True}
  options |= {"temporal_merge": "output", "peephole": True}
  model = create_model("two_stream_conv_rnn", **options, merge_init="sum", features=(3,), dense=(4, 4))
  clip = [jax.random.normal(jax.random.key(k), (2, 3, 4, 4, channels)) for k, channels in enumerate((3, 2))]
  params = jax.jit(model.init)(jax.random.key(0), *clip)["params"]
  for stream in ("rgb", "flow"):
    merge = params[stream]["layer1"]["temporal_skip_kernel"]
    np.testing.assert_allclose(merge, np.concatenate([np.eye(3)] * 2), rtol=0, atol=0.06)
  rng = np.random.default_rng(0)
  params = jax.tree.map(lambda a: np.asarray(rng.normal(0, 0.5, a.shape), np.float32), params)
  maps = [
    ConvLSTM(3, **options).apply({"params": params[name]["layer1"]}, x)
    for name, x in zip(("rgb", "flow"), clip, strict=True)
  ]
  x = np.concatenate([a[:, -1].mean((1, 2)) for a in maps], -1)
  for k in (1, 2, 3):
    x = x @ params[f"fc{k}"]["kernel"] + params[f"fc{k}"]["bias"]
    x = np.maximum(x, 0) if k < 3 else x
  np.testing.assert_allclose(model.apply({"params": params}, *clip), x, rtol=1e-4, atol=1e-5)


def test_a_model_with_every_option_is_mapped_over_devices_and_members_and_exported_for_accelerators():
  model = create_model("two_stream_conv_rnn", **OPTIONS)
  clip = [jax.random.normal(jax.random.key(k), (2, 3, 4, 4, channels)) for k, channels in enumerate((3, 2))]
  mask = jnp.asarray([[True, True, True], [True, True, False]])
  several = jax.jit(jax.vmap(lambda key: model.init(key, *clip)))(jax.random.split(jax.random.key(0), 2))

  def gradient(variables, frames, flow, mask):
    return jax.grad(lambda v: model.apply(v, frames, flow, mask).sum())(variables)

  one, program = jax.tree.map(lambda a: a[0], several), jax.jit(gradient)
  want = program(one, *clip, mask)
  assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(want))
  together = jax.jit(jax.vmap(gradient, (0, None, None, None)))(several, *clip, mask)
  assert_close(jax.tree.map(lambda a: a[0], together), want)
  sharded = (a[:, None] for a in (*clip, mask))  # One clip per device.
  parts = jax.pmap(gradient, in_axes=(None, 0, 0, 0), devices=jax.devices()[:2])(one, *sharded)
  assert_close(jax.tree.map(lambda a: a.sum(0), parts), want)
  exported = jax.export.export(program, platforms=("tpu", "cuda"))(one, *clip, mask)
  assert exported.platforms == ("tpu", "cuda")


def assert_close(got, want):
  for (path, a), b in zip(jax.tree.leaves_with_path(got), jax.tree.leaves(want), strict=True):
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * np.abs(b).max(), err_msg=jax.tree_util.keystr(path))


def test_options_are_read_from_the_command_line():
  base = RunConfig(recipe=Call("two_stream_conv_rnn"), model=Call("two_stream_conv_rnn"), data=Call("ckplus"))
  given = ("temporal_merge=output", "merge_init=sum", "peephole=true", "fusion=concat_pointwise")
  model = override(base, [f"model.{each}" for each in given], options_of).model
  built = create_model(model.name, **model.options)
  assert (built.temporal_merge, built.merge_init, built.peephole, built.fusion) == (
    "output", "sum", True, "concat_pointwise",
  )  # fmt: skip
  with pytest.raises(UserError, match=r"model\.temporal_merge 'outptu': did you mean 'output'"):
    override(base, ["model.temporal_merge=outptu"], options_of)


@pytest.mark.parametrize(
  ("wrong", "message"),
  [
    ({"temporal_merge": "out"}, "unknown value of model.temporal_merge 'out': .*valid are input, output"),
    ({"merge_init": "add"}, "model.merge_init 'add': .*valid are glorot, identity, sum"),
    ({"fusion": "concat"}, "model.fusion 'concat': .*valid are average_concat, concat_pointwise"),
    ({"pool": "max"}, "model.pool 'max': .*valid are last, mean"),
    ({"cell": "lstm"}, "model.cell 'lstm': did you mean 'conv_lstm'"),
    ({"cell": None}, "model.cell 'None': .*valid are conv_gru, conv_lstm"),
    ({"cell": "conv_gru", "peephole": True}, "peephole=True: a ConvGRU"),
  ],
)
def test_unknown_values_are_refused_when_the_model_is_created(wrong, message):
  with pytest.raises(UserError, match=message):
    create_model("two_stream_conv_rnn", **wrong)


@pytest.mark.parametrize(("pool", "fusion"), [("last", "average_concat"), ("mean", "concat_pointwise")])
def test_masked_clips_equal_shorter_clips(pool, fusion):
  model = create_model("two_stream_conv_rnn", features=(4, 4), dense=(8, 8), pool=pool, fusion=fusion)
  clip = [jax.random.normal(jax.random.key(k), (2, 4, 8, 8, channels)) for k, channels in enumerate((3, 2))]
  variables, apply = drawn.variables(model.init, *clip), jax.jit(model.apply)
  mask = jnp.arange(4) < jnp.asarray([[4], [2]])
  masked = apply(variables, *clip, mask)
  np.testing.assert_allclose(masked[1], apply(variables, *(x[1:, :2] for x in clip))[0], atol=1e-5)
  np.testing.assert_allclose(masked[0], apply(variables, *clip)[0], atol=1e-5)


def test_pooling_takes_the_largest_of_four_and_drops_an_odd_edge():
  x = jnp.arange(15.0).reshape(3, 5, 1)
  np.testing.assert_array_equal(_pool(x)[:, :, 0], [[6, 8]])


def test_streams_of_different_lengths_and_images_that_are_too_small_are_refused():
  model = create_model("two_stream_conv_rnn")
  with pytest.raises(UserError, match="differ in batch, time"):
    model.init(jax.random.key(0), jnp.zeros((1, 3, 64, 64, 3)), jnp.zeros((1, 2, 64, 64, 2)))
  with pytest.raises(UserError, match="too small to be pooled 3 times"):
    model.init(jax.random.key(0), jnp.zeros((1, 2, 4, 4, 3)), jnp.zeros((1, 2, 4, 4, 2)))
