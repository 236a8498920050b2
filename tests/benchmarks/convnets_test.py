"""Tests the benchmark of nets at tiny size: ours, stock Flax and the reference agree, and FLOP counts are right."""

import types

import jax
import numpy as np
import pytest

from benchmarks import convnets, convnets_peers, harness
from benchmarks.convnets_problem import FACE, FUSION, VAE, Problem, flops, inputs_of, named, problems

SESSION = types.SimpleNamespace(platform="cpu", arguments=types.SimpleNamespace(precision="default"))
TOLERANCE = 1e-3  # Tiny nets have few activations at the kink of a ReLU.
TINY = {
  "decoder": Problem(VAE + "decoder", batch=2, width=0.125),
  "resnet18": Problem("resnet18", "train_step", batch=4, size=32, width=1 / 32, num_classes=5),
}


@pytest.mark.parametrize("name", TINY)
def test_ours_and_stock_flax_agree_with_the_reference(name):
  problem = TINY[name]
  inputs = inputs_of(problem)
  want = convnets.reference_result(problem, inputs)
  arrays = {
    "loss" if problem.operation == "train_step" else "x",
    *named({"params": inputs["variables"]["params"]}),
  }
  programs = [convnets.prepare(problem, inputs)]
  if name == "decoder":  # Of the ResNet the reference is stock Flax as well, and compiles long enough.
    programs.append(convnets_peers.flax(problem, inputs, SESSION))
  for program in programs:
    got = program.result()
    assert set(got) == arrays == set(want)
    assert harness.relative_error(got, want) < TOLERANCE
    program.call()
    program.call()


def test_headline_comes_first_and_names_are_unique():
  for platform, quick in (("cpu", False), ("gpu", False), ("cpu", True)):
    names = [problem.name for problem in problems(platform, quick)]
    assert len(set(names)) == len(names)
    assert names[0].startswith("identity_expression_vae/decoder_gradient/")
  assert problems("cpu", False)[0].name == "identity_expression_vae/decoder_gradient/b32-s64/float32"


def test_work_by_the_formula():
  """Multiplications per image: by hand for the decoder; torchvision publishes 1.814e9 and 4.089e9 for the others."""
  convs = 16 * 256 * 128 * 16 + 64 * 128 * 128 * 9 + 64 * 128 * 64 * 16 + 256 * 64 * 64 * 9
  convs += (
    256 * 64 * 32 * 9 + 1024 * 32 * 32 * 9 + 1024 * 32 * 16 * 9 + 4096 * 16 * 16 * 9 + 4096 * 16 * 3 * 9
  )
  assert work(Problem(batch=1)) == 3 * 2 * (128 * 4096 + convs)
  for net, macs in (("resnet18", 1.814e9), ("resnet50", 4.089e9)):
    forward = work(Problem(net, "forward", 1, 224))
    assert forward == pytest.approx(2 * macs, rel=1e-3)
    stem = 2 * 112 * 112 * 64 * 3 * 49
    assert work(Problem(net, "train_step", 1, 224)) == 3 * forward - stem
  # InsightFace publishes 2.6e9 and 6.3e9 for its nets, which are nearly the same.
  for depth, macs in (("18", 2.6e9), ("50", 6.3e9)):
    assert work(Problem(FACE + depth, "forward", 1, 112)) == pytest.approx(2 * macs, rel=0.02)


def test_work_of_the_fusion():
  """RGB net, landmark net and head have the sizes of paper 002's Table 1; a step does not train the RGB net."""
  table = (
    (220, 32, 25),
    (108, 64 * 32, 9),
    (52, 128 * 64, 9),
    (24, 256 * 128, 9),
    (10, 512 * 256, 9),
    (7, 512 * 512, 16),
  )
  convolutions = [side**2 * pairs * area for side, pairs, area in table]
  arm_and_fc = 2 * 121 * 1024 + 121 * 7
  landmark = sum(convolutions) + arm_and_fc
  rgb = 1.814e9 - 512_000 + arm_and_fc
  forward, step = (
    work(Problem(FUSION, operation, 1, 224, num_classes=7)) for operation in ("forward", "train_step")
  )
  assert forward == pytest.approx(2 * (rgb + landmark + 242 * 7), rel=1e-3)
  assert step == forward + 4 * (landmark + 242 * 7) - 2 * convolutions[0]


def work(problem):
  """Returns `flops` for inputs of zeros."""
  net = problem.module
  shapes = (
    [(1, 128)] if "vae" in problem.net else [(1, problem.size, problem.size, channels) for channels in (3, 1)]
  )
  x = [np.zeros(shape, np.float32) for shape in (shapes if problem.net == FUSION else shapes[:1])]
  variables = jax.eval_shape(lambda *x: net.init(jax.random.key(0), *x, **problem.trained), *x)
  return flops(problem, {"variables": variables, "x": x})


def test_variables_have_the_dtypes_of_the_net():
  """A flag drawn as a float would be a bool after the first step, and the compiled step would refuse its state."""
  drawn = inputs_of(Problem(FUSION, "train_step", 2, 112, "float32", 0.125, 7))
  flags = jax.tree.leaves(drawn["variables"]["affinity"])
  assert {leaf.dtype.name for leaf in flags} == {"float32", "bool"}
