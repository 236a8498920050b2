import face_cases
import flax.linen as nn
import jax
import jax.numpy as jnp
import nets_cases
import numpy as np
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


# Parameters of the stem and each layer, and sizes of the maps at 224 and 112 px.
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
  with pytest.raises(UserError, match="ResNet of depth 34: choose 18 or 50"):
    shapes(ResNetTrunk(34))
  with pytest.raises(UserError, match=r"width 0\.3: 64 \* width must be a whole number"):
    shapes(ResNetTrunk(18, 0.3))


@pytest.mark.golden
@pytest.mark.parametrize("depth", STAGES)
def test_every_stage_equals_pytorch(depth):
  label = f"resnet{depth}_eval"
  case, own, want = nets_cases.CASES[label], nets_cases.drawn(label), nets_cases.golden()

  def caught(module, method):
    return method == "__call__" and len(module.path) == 1 and module.name in nets_cases.TAPS

  def apply(variables, x):
    return case.net.apply(variables, x, train=False, capture_intermediates=caught, mutable=["intermediates"])

  y, found = jax.jit(apply)(own["variables"], own["x"])
  nets_cases.compare(label, y)
  for name in nets_cases.TAPS:
    tap = found["intermediates"][name]["__call__"][0]
    nets_cases.close(face_cases.thinned(np.asarray(tap)), want[f"{label}/taps/{name}"])


def counts(label):
  """Returns the number of values per channel that each norm of a case reads: name -> n."""
  case, own, found = nets_cases.CASES[label], nets_cases.drawn(label), {}

  def note(call, args, kwargs, context):
    if isinstance(context.module, nn.BatchNorm):
      found["/".join(context.module.path)] = args[0][..., 0].size
    return call(*args, **kwargs)

  with nn.intercept_methods(note):
    jax.eval_shape(case.apply, own["variables"], own["x"])
  return found


def compare_statistics(label, new):
  """Means equal PyTorch's; the batch's part of the variance is (n - 1) / n of PyTorch's unbiased estimate."""
  want, old, norms = nets_cases.golden(), nets_cases.drawn(label)["variables"]["batch_stats"], counts(label)
  got = {nets_cases.name(path): leaf for path, leaf in jax.tree.leaves_with_path(new["batch_stats"])}
  before = {nets_cases.name(path): leaf for path, leaf in jax.tree.leaves_with_path(old)}
  assert {name.rpartition("/")[0] for name in got} == set(norms)
  assert len(got) == sum(name.startswith(f"{label}/statistics/") for name in want)
  for name, value in got.items():
    norm, _, kind = name.rpartition("/")
    theirs = want[f"{label}/statistics/{name}"]
    if kind == "var":
      kept = np.float32(0.9) * before[name]
      theirs = kept + (theirs - kept) * (norms[norm] - 1) / norms[norm]
    nets_cases.close(value, theirs)


@pytest.mark.golden
def test_a_training_pass_equals_pytorch():
  y, gradients, new = nets_cases.run("resnet50_train")
  nets_cases.compare("resnet50_train", y, gradients)
  compare_statistics("resnet50_train", new)


@pytest.mark.golden
def test_a_training_pass_on_two_devices_equals_pytorch_on_the_whole_batch():
  label = "resnet18_train"
  own, net = nets_cases.drawn(label), nets_cases.CASES[label].net

  @nets_cases.precise
  @jax.jit
  def program(variables, x):
    def scalar(params, x):
      def share(x):
        return net.apply(
          {**variables, "params": params}, x, train=True, axis_name="data", mutable=["batch_stats"]
        )

      y, new = jax.vmap(share, axis_name="data")(x.reshape(2, -1, *x.shape[1:]))
      y = y.reshape(-1, *y.shape[2:])
      return (y * own["cotangent"]).sum(), (y, new)

    (_, (y, new)), (d_params, d_x) = jax.value_and_grad(scalar, (0, 1), has_aux=True)(variables["params"], x)
    return y, nets_cases.gradients_of(d_params, d_x), new

  y, gradients, new = program(own["variables"], own["x"])
  nets_cases.compare(label, y, gradients)
  for device in (0, 1):
    compare_statistics(label, jax.tree.map(lambda leaf, device=device: leaf[device], new))
