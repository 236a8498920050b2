"""Common code of the PyTorch peers: settings for our device, and a program that is run and compared like ours."""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks import harness, machine


@dataclasses.dataclass(frozen=True)
class Torch:
  """PyTorch, set up for one session.

  Attributes:
    library: the module `torch`.
    device: "cpu" or "cuda".
    layout: memory format of images and kernels.
    compiled: whether nets are compiled with `torch.compile`.
  """

  library: Any
  device: str
  layout: Any
  compiled: bool

  def place(self, net: Any) -> Any:
    """Puts a net on the device, with its kernels in the layout."""
    return net.to(self.device).to(memory_format=self.layout)

  def images(self, array: Any) -> Any:
    """Converts a NumPy array [batch, height, width, channels] to [batch, channels, height, width] in the layout."""
    moved = self.library.from_numpy(array).to(self.device).permute(0, 3, 1, 2)
    return moved.contiguous(memory_format=self.layout)

  def numpy(self, tensor: Any) -> Any:
    """Converts a tensor to a float32 array."""
    return tensor.detach().float().cpu().numpy()

  def wait(self) -> None:
    """Waits until the device has finished its work."""
    if self.device == "cuda":
      self.library.cuda.synchronize()


def begin(session: harness.Session, *, channels_last: bool = False, compiled: bool = False) -> Torch:
  """Returns PyTorch for the session's kind of device and precision, with as many threads as XLA.

  Raises:
    harness.Missing: PyTorch is not installed, or has no such device.
  """
  try:
    import torch as library
  except ImportError as error:
    raise harness.Missing(f"torch is not installed ({error})") from error
  if session.platform not in ("cpu", "gpu"):
    raise harness.Missing(f"torch is not compared on {session.platform}")
  if session.platform == "gpu" and not library.cuda.is_available():
    raise harness.Missing("this torch has no CUDA")
  library.set_num_threads(machine.threads())
  exact = session.arguments.precision == "highest"
  library.set_float32_matmul_precision("highest" if exact else "high")
  library.backends.cudnn.allow_tf32 = not exact
  library.backends.cudnn.benchmark = True
  device = "cuda" if session.platform == "gpu" else "cpu"
  layout = library.channels_last if channels_last else library.contiguous_format
  return Torch(library, device, layout, compiled)


def program(
  torch: Torch,
  net: Any,
  inputs: Sequence[Any],
  *,
  operation: str,
  dtype: str,
  scalar: Callable[[Any], Any],
  sgd: Mapping[str, float],
  named: Callable[[Any], harness.Arrays],
) -> harness.Program:
  """Runs `forward`, `gradient` or `train_step` of a net.

  Args:
    torch: result of `begin`.
    net: net, placed on the device.
    inputs: inputs of the net; those that require a gradient get one.
    operation: see above; a training step uses SGD.
    dtype: "bfloat16" runs the net under autocast.
    scalar: function of the net's outputs that gradient and training step differentiate.
    sgd: "learning_rate" and "momentum" of the training step.
    named: outputs (forward) or scalar (otherwise) of the first call -> arrays by name; gradients are in `.grad`.
  """
  library = torch.library
  if torch.compiled:
    # PyTorch counts recompilations of a function over all cases of a session, and stops compiling after eight.
    library.compiler.reset()
  run = library.compile(net) if torch.compiled else net
  optimizer = library.optim.SGD(net.parameters(), sgd["learning_rate"], momentum=sgd["momentum"])

  def amp():
    return library.autocast(torch.device, library.bfloat16, enabled=dtype == "bfloat16")

  def once():
    net.zero_grad(set_to_none=True)
    for leaf in inputs:
      leaf.grad = None
    if operation == "forward":
      with library.no_grad(), amp():
        return run(*inputs)
    with amp():
      y = run(*inputs)
    value = scalar(y)
    value.backward()
    if operation == "train_step":
      optimizer.step()
    return value

  def call():
    once()
    torch.wait()

  start = time.perf_counter()
  first = once()
  torch.wait()
  first_seconds = time.perf_counter() - start
  found = named(first)
  facts: dict[str, Any] = {"compile_seconds": first_seconds} if torch.compiled else {}
  if torch.device == "cuda":
    facts["memory"] = {"peak_bytes": library.cuda.max_memory_allocated()}
    library.cuda.reset_peak_memory_stats()
  return harness.Program(call, lambda: found, facts)
