"""Checks that this machine reproduces the goldens of the tests. Run it before any timing.

Each case compares one of our nets with its file in tests/golden (tests/golden/README.md says where the numbers come
from): `conv_rnn/...` compares outputs and directional derivatives, `layers` those of every kind of convolution, and the
others outputs only. Derivatives through ReLUs are left out, because rounding decides on which side of the kink some
units are. `--precision highest` is the default here: the goldens are float64, and TF32 or bfloat16 products differ by
1e-3. The cases are tiny, so their times are meaningless. The exit code is 1 if a case does not run or differs by at
least 2 %. Smaller differences beyond the tolerance of the back end (tests/golden/tolerances.py) are only recorded as
a mismatch. If a recurrence has a special implementation on some platform, add it to this list.
"""

import functools
import sys
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import harness, machine, records

sys.path.insert(0, str(machine.ROOT / "tests" / "golden"))

import conv_rnn_cases
import face_cases
import landmark_fusion_cases
import nets_cases
import tolerances
import vae_cases

CONV_RNN = (
  "lstm_baseline", "gru_baseline", "lstm_tg_ts_ss", "gru_tg_ts_ss", "lstm_tg_ts_ss_masked", "gru_tg_ts_ss_masked",
  "lstm_tg_ts_ss_peephole", "lstm_tg_ts_ss_output",
)  # fmt: skip
NETS = ("layers", "encoder", "decoder", "resnet18_train", "resnet50_train", "resnet50_eval")
FACES = ("adaface50", "insightface18_train")


class Golden(NamedTuple):
  """A computation, fn(*arguments) -> arrays by name, and its expected results."""

  fn: Callable[..., Mapping[str, Any]]
  arguments: tuple[Any, ...]
  want: Mapping[str, Any]


def conv_rnn(label: str) -> Golden:
  """Outputs of a conv-RNN layer; `slopes` are the directional derivatives in all parameters and in the input."""
  golden, case = conv_rnn_cases.GOLDEN, conv_rnn_cases.CASES[label]
  cell, x = case["cell"], golden["x"]
  layer = conv_rnn_cases.LAYERS[cell](4, **case["options"])
  mask = jnp.asarray(golden["mask"]) if case["masked"] else None
  names = jax.eval_shape(layer.init, jax.random.key(0), x)["params"]
  params, directions = (
    conv_rnn_cases.ours(cell, conv_rnn_cases.from_golden(f"{cell}/{which}/"), names)
    for which in ("params", "direction")
  )

  def fn(params, x):
    outputs, pull = jax.vjp(lambda p, x: layer.apply({"params": p}, x, mask), params, x)
    d_params, d_x = pull(jnp.asarray(golden["cotangent"]))
    along = sum((directions[name] * d_params[name]).sum() for name in names)
    return {"outputs": outputs, "slopes": jnp.stack([along, (golden["direction/x"] * d_x).sum()])}

  slopes = conv_rnn_cases.from_golden(f"{label}/slope/")
  of_params = sum(float(slope) for name, slope in slopes.items() if name != "x")
  return Golden(
    fn, (params, x), {"outputs": golden[f"{label}/Y"], "slopes": np.array([of_params, slopes["x"]])}
  )


def net(label: str) -> Golden:
  """Outputs of a net of nets.npz, and for `layers` also the derivatives along each parameter and the input."""
  case, own, golden = nets_cases.CASES[label], nets_cases.drawn(label), nets_cases.golden()
  want = {"outputs": golden[f"{label}/output"]}
  if label != "layers":
    return Golden(lambda *at: {"outputs": case.apply(*at)[0]}, (own["variables"], own["x"]), want)
  names = [str(name) for name in golden["layers/names"]]

  def fn(variables, x):
    def scalar(params, x):
      y, _ = case.apply({"params": params}, x)
      return (y * own["cotangent"]).sum(), y

    (_, y), (d_params, d_x) = jax.value_and_grad(scalar, (0, 1), has_aux=True)(variables["params"], x)
    gradients = nets_cases.gradients_of(d_params, d_x)
    return {
      "outputs": y,
      "slopes": jnp.stack([(own["directions"][name] * gradients[name]).sum() for name in names]),
    }

  return Golden(fn, (own["variables"], own["x"]), want | {"slopes": golden["layers/slopes"]})


def face(label: str) -> Golden:
  """The features of a face network."""
  case, own = face_cases.CASES[label], face_cases.drawn(label)

  def fn(variables, x):
    return {"outputs": case.net.apply(variables, x, train=case.train, mutable=["batch_stats"])[0]}

  return Golden(fn, (own["variables"], own["x"]), {"outputs": face_cases.golden()[f"{label}/output"]})


def fusion() -> Golden:
  """All logits and ARM features of paper 002's nets at 224 px, landmark net and head in training."""
  cases = landmark_fusion_cases
  images, heatmaps, _ = cases.batches("fusion")[0]

  def fn(variables, images, heatmaps):
    outputs, _ = cases.NETS["fusion"].apply(
      variables,
      images,
      heatmaps,
      cases.WEIGHT,
      train=("landmark", "head"),
      mutable=["batch_stats", "affinity"],
    )
    return outputs._asdict()

  fields = jax.eval_shape(fn, cases.variables("fusion"), images, heatmaps)
  want = {name: cases.golden()[f"fusion/{name}"] for name in fields}
  return Golden(fn, (cases.variables("fusion"), images, heatmaps), want)


def vae() -> Golden:
  """All losses of paper 003, from one pass through its four nets."""
  own = vae_cases.drawn()
  with np.load(vae_cases.PATH) as file:
    want = {name.removeprefix("loss/"): file[name] for name in file.files if name.startswith("loss/")}
  return Golden(vae_cases.losses, (own["variables"], own["images"], own["noise"]), want)


CASES: dict[str, Callable[[], Golden]] = {
  **{f"conv_rnn/{label}": functools.partial(conv_rnn, label) for label in CONV_RNN},
  **{f"nets/{label}": functools.partial(net, label) for label in NETS},
  "vae/losses": vae,
  **{f"faces/{label}": functools.partial(face, label) for label in FACES},
  "landmark_fusion/logits": fusion,
}


def prepare(golden: Golden) -> harness.JaxProgram:
  """Prepares the computation on this machine."""
  return harness.JaxProgram(golden.fn, *golden.arguments, named=lambda found: found)


def wrong(record: records.Record) -> bool:
  """Whether a case did not run, or differs by more than rounding can explain, so that timing it is pointless."""
  agreement = record["agreement"]
  if record["status"] not in ("ok", "mismatch"):
    return True
  return agreement["error"] is None or agreement["error"] > tolerances.WRONG


def main() -> None:
  flags = harness.parser(__doc__)
  flags.set_defaults(runs=harness.LEAST_RUNS, precision="highest")
  session = harness.session("goldens", flags.parse_args())
  tolerance = tolerances.here().net
  done: list[records.Record] = []
  for name, make in CASES.items():
    if (found := session.recorded(name, ["jaxfer"])) is None:
      golden = make()
      case = harness.Case(name, {}, {}, tolerance, budget=1.0)
      file = f"tests/golden/{name.partition('/')[0]}.npz"
      ours = harness.Contender("jaxfer", functools.partial(prepare, golden))
      found = session.measure(case, [ours], functools.partial(dict, golden.want), file)
    done += found
  off = sum(record["status"] != "ok" for record in done)
  print(f"  {len(done)} goldens, {off} beyond {tolerance:g}, {sum(map(wrong, done))} wrong")
  sys.exit(1 if any(map(wrong, done)) else 0)


if __name__ == "__main__":
  main()
