"""The nets' benchmark at tiny size: ours, stock Flax and the reference agree, and the work is counted right."""

import types

import jax
import numpy as np
import pytest

from benchmarks import convnets, convnets_peers, harness
from benchmarks.convnets_problem import VAE, Problem, flops, inputs_of, named, problems

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
  """Multiplications of an image, by hand for the decoder; torchvision publishes 1.814e9 and 4.089e9 for the others."""
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


def work(problem):
  """`flops` of zeros."""
  net = problem.module
  x = np.zeros((1, 128) if "vae" in problem.net else (1, problem.size, problem.size, 3), np.float32)
  variables = jax.eval_shape(lambda x: net.init(jax.random.key(0), x, **problem.trained), x)
  return flops(problem, {"variables": variables, "x": (x,)})
