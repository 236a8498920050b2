import jax
import jax.numpy as jnp
import pytest

from jaxfer.errors import UserError
from jaxfer.layers.resnet import ResNet, ResNetTrunk


def count(tree):
  return sum(leaf.size for leaf in jax.tree.leaves(tree))


def shapes(net, size=224):
  x = jnp.zeros((1, size, size, 3))
  variables = jax.eval_shape(lambda x: net.init(jax.random.key(0), x, train=False), x)
  return variables, jax.eval_shape(lambda v, x: net.apply(v, x, train=False), variables, x)


@pytest.mark.parametrize(
  ("depth", "num_classes", "total"),
  [(18, 1000, 11_689_512), (50, 1000, 25_557_032), (18, 9, 11_181_129), (50, 9, 23_526_473)],
)
def test_parameter_counts_of_torchvision(depth, num_classes, total):
  variables, logits = shapes(ResNet(num_classes, depth))
  assert count(variables["params"]) == total
  assert logits.shape == (1, num_classes)


# Specs 5.2: of the stem and each layer; the size of the map at 224 and 112 px.
STAGES = {
  18: (9_536, 147_968, 525_568, 2_099_712, 8_393_728),
  50: (9_536, 215_808, 1_219_584, 7_098_368, 14_964_736),
}


@pytest.mark.parametrize("depth", STAGES)
def test_stages_of_the_specification(depth):
  variables, features = shapes(ResNetTrunk(depth))
  params = variables["params"]
  stem = count(params["conv1"]) + count(params["bn1"])
  assert (stem, *(count(params[f"layer{k}"]) for k in (1, 2, 3, 4))) == STAGES[depth]
  assert features.shape == (1, 7, 7, 512 if depth == 18 else 2048)
  assert shapes(ResNetTrunk(depth), 112)[1].shape[1:3] == (4, 4)
  assert "downsample_conv" in params["layer2"]["block0"]
  assert ("downsample_conv" in params["layer1"]["block0"]) == (depth == 50)


def test_an_eighth_of_the_widths_and_what_does_not_exist():
  variables, features = shapes(ResNetTrunk(50, 0.125), 32)
  assert variables["params"]["layer4"]["block2"]["conv3"]["kernel"].shape == (1, 1, 64, 256)
  assert features.shape == (1, 1, 1, 256)
  with pytest.raises(UserError, match="ResNet of depth 34: there is 18 and 50"):
    shapes(ResNetTrunk(34))
  with pytest.raises(UserError, match=r"width 0\.3: 64 channels times it must be a whole number"):
    shapes(ResNetTrunk(18, 0.3))
