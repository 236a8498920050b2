"""All benchmarks with all peers, most important first, in one command and a limited time.

Each script runs in a process of its own, for its share of the time at most, and appends what it has measured case by
case: what a limit cuts off is named at the end, and what was measured stays.
"""

import argparse
import subprocess
import sys
import time

# Script, its share of the time, its own flags.
SUITE: list[tuple[str, float, list[str]]] = [
  ("conv_rnn", 0.40, ["--peers"]),
  ("convnets", 0.21, ["--peers"]),
  ("vae_step", 0.06, ["--peers"]),
  ("members", 0.10, []),
  ("kmeans", 0.04, ["--peers"]),
  ("train_step", 0.09, []),
  ("memory", 0.06, []),
  ("compile_time", 0.04, []),
]
MINUTES = 8.0


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--device", choices=["cpu", "gpu"], help="default: what JAX takes by itself")
  parser.add_argument(
    "--quick", action="store_true", help="tiny sizes and 3 runs, to see that everything works"
  )
  parser.add_argument("--minutes", type=float, default=MINUTES, help=f"in all (default {MINUTES:g})")
  parser.add_argument("--output", help="JSON lines to append to (default: benchmarks/results/...)")
  arguments = parser.parse_args()
  shared = [f"--device={arguments.device}"] if arguments.device else []
  shared += ["--quick"] if arguments.quick else []
  shared += [f"--output={arguments.output}"] if arguments.output else []

  deadline, unspent, failed = time.monotonic() + 60 * arguments.minutes, 0.0, []
  for name, share, flags in SUITE:
    allowed = min(60 * arguments.minutes * share + unspent, deadline - time.monotonic())
    start = time.monotonic()
    try:
      code = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{name}", *flags, *shared], timeout=allowed, check=False
      ).returncode
      if code:
        failed.append(f"{name}: exit code {code}")
    except subprocess.TimeoutExpired:
      failed.append(f"{name}: stopped after its {allowed:.0f} s; the cases printed above are on record")
    unspent = max(0.0, allowed - (time.monotonic() - start))
  print("\n".join(failed) if failed else "All benchmarks ran to their end.")
  sys.exit(bool(failed))


if __name__ == "__main__":
  main()
