"""Tests that the peers' training steps equal ours, and that every case can be traced; nothing is compiled for a TPU."""

import dataclasses
import functools

import chex
import jax
import numpy as np

from benchmarks import conv_rnn, conv_rnn_problem, tpu_cases, tpu_steps, train_step
from jaxfer.train import step as engine
from jaxfer.train.stage import Context
from jaxfer.train.state import begin


def test_plain_step_moves_as_the_engine_does():
  setup = train_step.tiny(1)
  batch = {name: array[:8] for name, array in setup.data.items()}
  keys = jax.random.split(jax.random.key(0), 8)
  moved = [
    jax.jit(step, static_argnums=0)(
      setup.stage, begin(setup.stage, setup.variables), batch, keys, Context({})
    )
    for step in (functools.partial(engine.step, reject=False), tpu_steps.plain_step)
  ]
  chex.assert_trees_all_close(*moved, rtol=1e-6)
  before = setup.variables["params"]["dense"]["kernel"]
  assert np.abs(moved[1][0].variables["params"]["dense"]["kernel"] - before).max() > 0


def test_stock_two_stream_net_has_our_convolutions():
  shapes = {}
  for name, make in tpu_steps.two_stream(2, 2, 8, (4, 6), "bfloat16").items():
    state = make().arguments[0]
    params = state[0] if name == "flax" else state.variables["params"]
    shapes[name] = sorted(leaf.shape for leaf in jax.tree.leaves(params) if len(leaf.shape) in (2, 4))
  assert shapes["jaxfer"] == shapes["flax"] == shapes["jaxfer_pallas"]


def test_a_layer_that_stays_in_the_packed_layout_computes_the_same():
  problem = conv_rnn_problem.Problem("forward", batch=2, time=2, size=4, channels=3, features=(4,))
  inputs = conv_rnn_problem.inputs_of(problem)
  program = conv_rnn.prepare_packed(problem, inputs)
  x = program.arguments[1]
  packed = dataclasses.replace(x, data=x.layout.pack(inputs["x"]))
  with jax.default_matmul_precision("highest"):
    found = jax.jit(program.fn)(inputs["params"], packed, None)["output"]
  want = conv_rnn.reference_result(problem, inputs)["output"]
  np.testing.assert_allclose(x.layout.unpack(found, 4), want, atol=1e-5)


def test_names_are_unique_and_the_headline_is_first():
  cases = tpu_cases.cases()
  assert len({case.name for case in cases}) == len(cases)
  assert cases[0].name == f"{tpu_cases.V5E}/conv_lstm/gradient/b8-t16-s32-c32-f32/bfloat16"
  assert all(next(iter(case.programs)) == "jaxfer" for case in cases)


def test_batches_are_split_over_devices_and_the_state_is_not():
  (case,) = [case for case in tpu_cases.quick_cases() if case.topology == tpu_cases.FOUR]
  text = case.programs["flax"].lower(tuple(jax.devices()[:4])).as_text()
  (signature,) = [line for line in text.splitlines() if "func.func public @main" in line]
  arguments = signature.split(") -> (")[0].split("%arg")[1:]
  split = [argument for argument in arguments if '{"data"}' in argument]
  assert len(split) == 3  # Frames, flow and label.
  assert all("tensor<4x" in argument for argument in split)
  assert len(arguments) > 30
