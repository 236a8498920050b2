"""Operations of compiled TPU programs belong to layers, and their FLOPs are counted; libtpu is not needed."""

import pytest

from benchmarks import tpu_cost, tpu_hlo, tpu_layers
from tests.benchmarks.tpu_cost_test import CHIP, SCAN, TOY


@pytest.mark.parametrize(
  ("source", "layer"),
  [
    ("jit(train)/net/jvp(ResNet)/trunk/layer1/block0/conv1/conv/cond/branch_0_fun/conv_general_dilated",
     "trunk/layer1/block0/conv1"),
    ("jit(train)/net/transpose(jvp(ResNet))/trunk/bn1/reduce_sum", "trunk/bn1"),
    ("jit(train)/net/jvp(ResNet)/trunk/jit(relu)/max", "trunk"),
    ("jit(train)/net/transpose(net)/jvp(_Fusion)/_Fusion/landmark/arm/de_albino/conv/conv_general_dilated",
     "landmark/arm/de_albino"),
    ("jit(train)/transpose(jvp(ResNet))/trunk/conv1/Conv/conv_general_dilated", "trunk/conv1"),
    ("jit(train)/net/optimizer/mul", "optimizer"),
    ("jit(train)/net/add", "other"),
    ("", "other"),
  ],
)  # fmt: skip
def test_an_operation_belongs_to_the_layer_that_its_origin_names(source, layer):
  assert tpu_layers.layer(source) == layer


def product(operation, *types):
  """A program of one product of parameters of `types`."""
  lines = [f"  %p{k} = {type_} parameter({k})" for k, type_ in enumerate(types)]
  return "\n".join(
    ["HloModule m", "", "ENTRY %main (x: f32[]) -> f32[] {", *lines, f"  ROOT {operation}", "}"]
  )


FORWARD = ("%c = bf16[8,14,14,64]{3,2,1,0} convolution(%p0, %p1), window={size=3x3 stride=2x2 pad=1_1x1_1}, "
           "dim_labels=b01f_01io->b01f")  # fmt: skip
TO_INPUT = ("%c = bf16[8,28,28,32]{3,2,1,0} convolution(%p0, %p1), window={size=3x3 pad=1_2x1_2 lhs_dilate=2x2}, "
            "dim_labels=b01f_01oi->b01f")  # fmt: skip
TO_KERNEL = ("%c = f32[3,3,32,64]{3,2,1,0} convolution(%p0, %p1), window={size=14x14 pad=1_0x1_0 rhs_dilate=2x2}, "
             "dim_labels=f01b_i01o->01bf")  # fmt: skip
DOT = "%c = f32[8,196,64]{2,1,0} dot(%p0, %p1), lhs_contracting_dims={2}, rhs_contracting_dims={0}"


@pytest.mark.parametrize(
  ("text", "multiplications"),
  [
    (product(FORWARD, "bf16[8,28,28,32]", "bf16[3,3,32,64]"), 8 * 14 * 14 * 9 * 32 * 64),
    (product(TO_INPUT, "bf16[8,14,14,64]", "bf16[3,3,32,64]"), 8 * 14 * 14 * 9 * 32 * 64),
    (product(TO_KERNEL, "bf16[8,28,28,32]", "bf16[8,14,14,64]"), 8 * 14 * 14 * 9 * 32 * 64),
    (product(DOT, "bf16[8,196,32]", "bf16[32,64]"), 8 * 196 * 32 * 64),
    (SCAN, 5 * 2 * 8 * 8 * 9 * 16 * 16),
  ],
)
def test_the_three_maps_of_a_convolution_count_the_same_flops(text, multiplications):
  module = tpu_hlo.Module(text)
  assert sum(tpu_layers.flops(module, run) for run in module.runs()) == 2 * multiplications


def test_layers_add_up_to_the_program():
  module = tpu_hlo.Module(SCAN)
  cost = tpu_cost.cost(module, {"fusion.15": TOY}, CHIP)
  for measure in ("cycles", "schedule_cycles"):
    assert sum(layer[measure] for layer in cost.layers.values()) == getattr(cost, measure)
