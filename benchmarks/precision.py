"""Compares trainings in bfloat16 with trainings in float32 on embedded data, to choose the default on accelerators.

  python -m benchmarks.precision --write [--only SYSTEM] [--data-dir FOLDER]

The base config of each system's study on embedded data (for two_stream_conv_rnn, the quickstart) is trained with three
seeds in both dtypes. Trainings of one seed have the same split, initial parameters and order of examples, so the
differences of accuracy are taken by seed. The dtypes agree if the mean difference, bfloat16 minus float32, is not below
minus one standard error. `System.bfloat16` says which systems agree. The script runs on any device. Products of
bfloat16 are exact in float32, so a CPU differs from an accelerator only in the order of sums and the rounding of
intermediate results.

With --write, the results are written to benchmarks/results/precision.json, where they replace those of the same system,
and the table to benchmarks/README.md.
"""

import argparse
import dataclasses
import math
import pathlib
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks import machine, table
from jaxfer import config as configuration
from jaxfer import files
from jaxfer.config import Row, RunConfig, StudyConfig
from jaxfer.data import records
from jaxfer.study import study

RESULTS = machine.ROOT / "benchmarks" / "results" / "precision.json"
README = machine.ROOT / "benchmarks" / "README.md"
SEEDS = 3
DTYPES = ("float32", "bfloat16")
_ENVIRONMENT = ("cpu", "device_kind", "python", "versions", "commit", "uncommitted_changes", "time")
CONFIGS = {
  "stacked_autoencoder": "stacked_autoencoder/table2_synthetic.py",
  "two_stream_conv_rnn": "quickstart.py",
  "landmark_fusion": "landmark_fusion/ablation_synthetic.py",
  "identity_expression_vae": "identity_expression_vae/table3_synthetic.py",
  "elderly_transfer": "elderly_transfer/table_synthetic.py",
}


def base(path: pathlib.Path) -> RunConfig:
  """Returns a config, or the base of a study."""
  if path.name == "quickstart.py":
    return configuration.load(path)
  return configuration.load_study(path).base


def train(system: str, data_dir: pathlib.Path) -> dict[str, Any]:
  """Trains the config of a system in both dtypes, and returns the accuracies by dtype and seed."""
  own = base(machine.ROOT / "configs" / CONFIGS[system])
  compared = StudyConfig(
    title=f"{system} in bfloat16 and float32",
    source="",
    base=dataclasses.replace(own, seed=0),
    rows=tuple(Row(dtype, {"dtype": dtype}) for dtype in DTYPES),
    seeds=SEEDS,
    presets={"all": {}},
    preset="all",
  )
  with tempfile.TemporaryDirectory() as folder:
    made = study.run(compared, None, (), pathlib.Path(folder) / system, data_dir)
  environment = machine.environment()
  return {
    "config": CONFIGS[system],
    "tested": made["rows"][0]["count"] // SEEDS,
    "accuracies": {row["name"]: row["per_seed"] for row in made["rows"]},
    "environment": {name: environment[name] for name in _ENVIRONMENT},
  }


def difference(accuracies: Mapping[str, Sequence[float]]) -> tuple[float, float]:
  """Returns the mean over seeds of the accuracy in bfloat16 minus that in float32, and its standard error."""
  pairs = zip(*(accuracies[dtype] for dtype in DTYPES), strict=True)
  differences = [narrow - wide for wide, narrow in pairs]
  return statistics.mean(differences), statistics.stdev(differences) / math.sqrt(len(differences))


def agrees(accuracies: Mapping[str, Sequence[float]]) -> bool:
  """Returns whether the mean difference is not below minus one standard error."""
  found, error = difference(accuracies)
  return found >= -error


def markdown(results: Mapping[str, Mapping[str, Any]]) -> str:
  """Returns the table of the results."""
  lines = [
    "| system | config | tested | float32 | bfloat16 | difference | standard error | bfloat16 by default |",
    "| --- | --- | --- | --- | --- | --- | --- | --- |",
  ]
  for system, result in results.items():
    found, error = difference(result["accuracies"])
    means = [
      f"{100 * statistics.mean(a):.1f} ± {100 * statistics.stdev(a):.1f}"
      for a in (result["accuracies"][dtype] for dtype in DTYPES)
    ]
    lines.append(
      f"| {system} | `configs/{result['config']}` | {result['tested']} | {' | '.join(means)} | {100 * found:+.1f} | "
      f"{100 * error:.1f} | {'yes' if agrees(result['accuracies']) else 'no'} |"
    )
  return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
  flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  flags.add_argument("--only", choices=CONFIGS, help="train this system alone")
  flags.add_argument("--write", action="store_true", help="write the results and the table")
  flags.add_argument(
    "--data-dir",
    type=pathlib.Path,
    default=records.default_data_dir(),
    help="folder of the prepared data sets",
  )
  given = flags.parse_args(arguments)
  for system in [given.only] if given.only else CONFIGS:
    result = train(system, given.data_dir)
    print(markdown({system: result}))
    if given.write:
      known = files.read_json(RESULTS, "run the script again") if RESULTS.exists() else {}
      known[system] = result
      files.write_json(RESULTS, {name: known[name] for name in CONFIGS if name in known})
      table.write(README, markdown(known), "precision")


if __name__ == "__main__":
  main()
