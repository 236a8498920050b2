"""The small table of speed in the top README; `benchmarks.table` writes it from the committed results."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

from benchmarks import records
from benchmarks.records import Record

Latest = Mapping[tuple[str, str, str], Record]


@dataclasses.dataclass(frozen=True)
class Line:
  """One line of the table: a case of a benchmark, and its description."""

  benchmark: str
  case: str
  words: str


MEASURED = (
  Line("conv_rnn", "conv_lstm/gradient/b8-t16-s32-c32-f32/float32", "ConvLSTM layer, gradient"),
  Line(
    "conv_rnn", "enhanced_conv_lstm/gradient/b8-t16-s32-c32-f32/float32", "enhanced ConvLSTM layer, gradient"
  ),
  Line("vae_step", "vae_step/b32-s64/float32", "identity/expression VAE, training step"),
  Line("convnets", "resnet18/train_step/b8-s112/float32", "ResNet18, training step"),
  Line("convnets", "face_resnet18/train_step/b8-s112/float32", "Face-ResNet18, training step"),
  Line("convnets", "landmark_fusion/train_step/b8-s224/float32", "landmark fusion, training step"),
)
COMPILED = (
  Line("tpu", "v5e:1x1/conv_lstm/gradient/b8-t16-s32-c32-f32/bfloat16", "ConvLSTM layer, gradient, bfloat16"),
  Line(
    "tpu",
    "v5e:1x1/two_stream_conv_rnn/train_step/b16-t16-s64-f16-32-64-128/bfloat16",
    "two-stream conv-RNN, training step, bfloat16",
  ),
)
_NOTES = {
  "torch_channels_last": " (channels last)", "flax_unrolled": " (loop unrolled)",
  "flax_ynn_conv": " (YNNPACK's convolutions)", "flax_no_ynn": " (without YNNPACK)",
}  # fmt: skip


def _best(latest: Latest, line: Line, names: Iterable[str], status: str) -> str:
  """Returns the least cost of the implementations `names`, or "-" if none has one."""
  costs = {}
  for name in names:
    record = latest.get((line.benchmark, line.case, name))
    if record is not None and record["status"] == status:
      compiled = status == "compiled"
      costs[name] = record["compiled"]["schedule_cycles"] if compiled else record["seconds"]["median"]
  if not costs:
    return "-"
  name = min(costs, key=lambda key: costs[key])
  amount = f"{costs[name] / 1e6:,.2f} M" if status == "compiled" else f"{1e3 * costs[name]:,.0f} ms"
  return amount + _NOTES.get(name, "")


def measured(found: Sequence[Record]) -> str:
  """Returns the median times of one results file: ours, and the fastest variant of PyTorch and of stock Flax.

  It is empty if the file has none of the cases.
  """
  latest, env = records.latest(found), found[-1]["environment"]
  device = env["cpu"] if env["platform"] == "cpu" else env["device_kind"]
  lines = [
    f"| {device}, {env['threads']} threads, JAX {env['versions']['jax']}, float32 | jaxfer | PyTorch | stock Flax |",
    "|---|---|---|---|",
  ]
  for line in MEASURED:
    ours = _best(latest, line, ("jaxfer",), "ok")
    if ours != "-":
      torch = _best(latest, line, ("torch", "torch_channels_last"), "ok")
      flax = _best(latest, line, ("flax", "flax_unrolled", "flax_ynn_conv", "flax_no_ynn"), "ok")
      lines.append(f"| {line.words} | {ours} | {torch} | {flax} |")
  return "\n".join(lines) if len(lines) > 2 else ""


def compiled(found: Sequence[Record]) -> str:
  """Returns the cycles of the static schedule of programs that were compiled for a TPU and not run."""
  latest = records.latest(found)
  lines = [
    "| **compiled** for a TPU v5e, not run: cycles of the static schedule | jaxfer, default | jaxfer, Pallas kernels "
    "| stock Flax |",
    "|---|---|---|---|",
  ]
  for line in COMPILED:
    groups = (("jaxfer",), ("jaxfer_pallas",), ("flax", "flax_unrolled"))
    cells = " | ".join(_best(latest, line, names, "compiled") for names in groups)
    lines.append(f"| {line.words} | {cells} |")
  return "\n".join(lines)
