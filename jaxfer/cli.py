"""The command line: `jaxfer train | evaluate | study | predict | explain | export | prepare | ...`."""

import argparse
import contextlib
import errno
import importlib.util
import io
import os
import pathlib
import select
import signal
import sys
from collections.abc import Collection, Mapping, Sequence
from typing import Any, TextIO

from jaxfer import cli_inference, cluster, files
from jaxfer.errors import Interrupted, UserError

# Errors caused by the machine or its configuration. Any other OSError is a bug in jaxfer and shows its traceback.
_FAULTS = {
  errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.ESTALE,
  errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.EMFILE, errno.ENFILE, errno.ENOMEM,
}  # fmt: skip


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog="jaxfer", description="Facial-expression recognition on accelerators: five published methods."
  )
  commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
  where = argparse.ArgumentParser(add_help=False)
  where.add_argument(
    "--data-dir",
    type=pathlib.Path,
    help="folder of prepared data (default: $JAXFER_DATA_DIR, else ~/jaxfer_data)",
  )

  train = commands.add_parser(
    "train",
    parents=[where],
    help="train a config and evaluate it",
    description="Trains the model that CONFIG describes, on every fold unless split.fold is given, and evaluates it on "
    "people that the training never saw.",
  )
  train.add_argument(
    "config",
    type=pathlib.Path,
    metavar="CONFIG",
    help="a Python file, or one that comes with jaxfer, such as configs/quickstart.py",
  )
  train.add_argument(
    "overrides",
    nargs="*",
    metavar="a.b=value",
    help="change a value, such as batch_size=8 or model.cell=conv_gru",
  )
  train.add_argument(
    "--workdir", type=pathlib.Path, required=True, help="folder for metrics, checkpoints, figures"
  )
  train.add_argument("--resume", action="store_true", help="continue the run in --workdir")
  cluster.add_flags(train)
  train.add_argument(
    "--profile",
    type=pathlib.Path,
    metavar="DIR",
    help="record a trace of the second chunk of steps for xprof or Perfetto (the first chunk includes compilation); a "
    "chunk has execution.steps_per_call steps",
  )

  evaluate = commands.add_parser("evaluate", parents=[where], help="evaluate a trained run again")
  evaluate.add_argument("workdir", type=pathlib.Path, metavar="WORKDIR")
  cluster.add_flags(evaluate)

  study = commands.add_parser(
    "study",
    parents=[where],
    help="train a whole table and print it beside the paper's",
    description="Trains every row of the table that CONFIG describes with all folds and seeds, evaluates it with the "
    "paper's protocol, and prints the published numbers beside ours.",
  )
  study.add_argument(
    "config",
    type=pathlib.Path,
    metavar="CONFIG",
    nargs="?",
    help="a Python file; `jaxfer study --list` lists them",
  )
  study.add_argument(
    "overrides",
    nargs="*",
    metavar="a.b=value",
    help="change a value that all rows share, such as seeds=5 or recipe.epochs=20",
  )
  study.add_argument("--workdir", type=pathlib.Path, help="folder for the table, figures, trainings")
  study.add_argument(
    "--preset", help="size of the study: smoke, small or paper (default: the one that CONFIG chooses)"
  )
  study.add_argument("--resume", action="store_true", help="continue the study in --workdir")
  study.add_argument(
    "--people",
    type=pathlib.Path,
    metavar="DIR",
    help="train nothing; write a printable test, in which people name the study's test images, and its key to DIR",
  )
  study.add_argument(
    "--score",
    type=pathlib.Path,
    nargs="+",
    metavar="CSV",
    help="with --people DIR: count the correct answers in each filled-in answers.csv",
  )
  study.add_argument(
    "--list",
    action="store_true",
    help="list every study with the table that it reproduces and the data that it needs",
  )
  cluster.add_flags(study)

  cli_inference.add_parsers(commands)
  prepare = commands.add_parser(
    "prepare",
    parents=[where],
    help="import a data set from its distributor's files",
    description="Reads a data set in the form in which it is distributed, checks it, and writes it for training.",
  )
  prepare.add_argument("dataset", metavar="DATASET", help="a name that `jaxfer list datasets` shows")
  prepare.add_argument(
    "options", nargs="*", metavar="option=value", help="options of the data set, such as num_frames=8"
  )
  prepare.add_argument(
    "--source",
    type=pathlib.Path,
    required=True,
    metavar="DIR",
    help="folder of the data set; for a data set that is composed of others, the folder of each, such as "
    "mug=DIR ckplus=DIR ravdess=DIR",
  )
  prepare.add_argument("--skip-bad", action="store_true", help="leave out bad files instead of stopping")

  convert = commands.add_parser(
    "convert",
    help="convert published weights to a folder that jaxfer.load reads",
    description="Reads a checkpoint (.pth, .pt, .ckpt or .safetensors) without PyTorch, checks that it contains "
    "exactly the tensors of the model, and writes weights.npz and weights.json to OUT.",
  )
  convert.add_argument(
    "importer", metavar="arm|adaface|insightface|torchvision_resnet18|torchvision_resnet50"
  )
  convert.add_argument("weights", type=pathlib.Path, metavar="WEIGHTS")
  convert.add_argument("out", type=pathlib.Path, metavar="OUT", help="a new folder")

  verify = commands.add_parser(
    "verify", help="test a face network on pairs of faces with the protocol of LFW"
  )
  verify.add_argument(
    "weights", metavar="WEIGHTS", help="output of `jaxfer convert`, or the weights of a face_classifier"
  )
  verify.add_argument(
    "pairs", metavar="PAIRS.bin", help="a file such as lfw.bin, or `embedded` for drawn people"
  )
  verify.add_argument("--folds", type=int, default=10, help="number of folds of the pairs (default: 10)")

  listing = commands.add_parser("list", help="list models, data sets, configs or studies")
  listing.add_argument("what", choices=["models", "datasets", "configs", "studies"])
  return parser


def _data_dir(args: argparse.Namespace) -> pathlib.Path:
  from jaxfer.data.records import default_data_dir

  return args.data_dir.expanduser() if args.data_dir else default_data_dir()


def _cache_compilations() -> None:
  """Caches compiled programs on disk between runs, unless the user has set a cache folder for JAX."""
  import jax

  if jax.config.values["jax_compilation_cache_dir"] is None:
    home = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    jax.config.update("jax_compilation_cache_dir", str(home / "jaxfer" / "xla"))


def _quieten_xla() -> None:
  """Hides XLA's log on a machine without an accelerator, before JAX is imported.

  For every program from the cache, XLA logs two lines of two thousand characters, because it mistakes tuning flags for
  features of the processor (openxla/xla#44565). Errors that matter on CPU also raise an exception.
  """
  platforms = os.environ.get("JAX_PLATFORMS") or os.environ.get("JAX_PLATFORM_NAME")
  accelerated = any(importlib.util.find_spec(plugin) for plugin in ("jax_plugins", "libtpu"))
  if platforms == "cpu" or not (platforms or accelerated):
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def _train(args: argparse.Namespace) -> None:
  from jaxfer import config
  from jaxfer.study import run

  configured = config.override(config.load(args.config), args.overrides, run.options_of)
  cluster.start(args, configured.execution.distributed)
  _cache_compilations()
  run.train(configured, args.workdir, _data_dir(args), resume=args.resume, profile=args.profile)
  print(
    f"written to {args.workdir}: metrics.jsonl, evaluation.json, predictions.csv, confusion.png, curves.png, "
    "examples.png, report.html"
  )


def _evaluate(args: argparse.Namespace) -> None:
  from jaxfer.study import run

  cluster.start(args, False)
  _cache_compilations()
  run.evaluate(args.workdir, _data_dir(args))


def _study(args: argparse.Namespace) -> None:
  from jaxfer import config, config_file
  from jaxfer.study import listing, run, study

  if args.list:
    print(listing.studies(config_file.folder()))
    return
  if args.people is not None or args.score:
    _people(args)
    return
  if args.config is None or args.workdir is None:
    raise UserError("a study needs CONFIG and --workdir: `jaxfer study --list` lists the studies")
  configured = config.load_study(args.config)
  _, rows = config.resolve(configured, args.preset, args.overrides, run.options_of)
  cluster.start(args, any(row.execution.distributed for row in rows.values()))
  _cache_compilations()
  study.run(configured, args.preset, args.overrides, args.workdir, _data_dir(args), resume=args.resume)
  print(
    f"written to {args.workdir}: report.html, table.json, table.md, accuracy.png, and below rows/ confusion.png and "
    "curves.png of each"
  )


def _people(args: argparse.Namespace) -> None:
  from jaxfer import config
  from jaxfer.study import people

  if args.people is None:
    raise UserError("--score needs --people DIR, the folder of the people's test that was answered")
  if args.score:
    print(people.scored(args.people, args.score), end="")
    return
  if args.config is None:
    raise UserError("a people's test needs CONFIG: `jaxfer study --list` lists the studies")
  study = config.load_study(args.config)
  count = people.write_test(study, args.preset, args.overrides, args.people, _data_dir(args))
  print(
    f"written to {args.people}: sheet.html, to print; answers.csv, to fill in for its {count} pictures, one copy per "
    f"person; key.csv, which they must not see. Then: jaxfer study --people {args.people} --score CSV [CSV ...]"
  )


def _predict(args: argparse.Namespace) -> None:
  _cache_compilations()
  cli_inference.predict(args)


def _explain(args: argparse.Namespace) -> None:
  _cache_compilations()
  cli_inference.explain(args)


def _prepare(args: argparse.Namespace) -> None:
  from jaxfer.data.interrupt import stopping

  with stopping("what was not finished is removed: run the command again"):
    _import(args)


def _import(args: argparse.Namespace) -> None:
  from jaxfer.config import Call
  from jaxfer.data import mixed, records
  from jaxfer.data.datasets import DATASETS
  from jaxfer.data.prepare import prepare
  from jaxfer.study import run

  name, data_dir, skip = args.dataset, _data_dir(args), args.skip_bad
  valid = run.options_of("data", Call(name))
  if not DATASETS[name].parts:
    options = _data_options(name, args.options, valid)
    print(prepare(name, args.source, data_dir, skip_bad=skip, **options).table())
    return
  sources, assignments = _sources_of(args, valid)
  options = _data_options(name, assignments, valid)
  for report in mixed.prepare(name, sources, data_dir, skip_bad=skip, **options):
    print(report.table(), end="\n\n", flush=True)
  print(f"{name}, composed of these:", *records.load(name, data_dir, **options).notes, sep="\n")


def _sources_of(args: argparse.Namespace, valid: Collection[str]) -> tuple[dict[str, str], list[str]]:
  """Returns the folders of a mixture's parts by name, such as "mug", and the assignments that remain.

  Args:
    args: the arguments of `prepare`. argparse takes all folders but the first for options.
    valid: the names of the mixture's options.
  """
  words = [str(args.source), *args.options]
  pairs = [word.partition("=") for word in words]
  sources = {key: folder for key, equals, folder in pairs if equals and key not in valid}
  return sources, [word for word in words if word.partition("=")[0] not in sources]


def _data_options(name: str, assignments: Sequence[str], valid: Mapping[str, Any]) -> dict[str, Any]:
  """Parses the options of a data set, such as "num_frames=8"; `valid` has their types by name."""
  from jaxfer import values
  from jaxfer.errors import unknown

  options = {}
  for assignment in assignments:
    option, equals, text = assignment.partition("=")
    if not equals:
      raise UserError(f"option '{assignment}' has no '=': write option=value, such as num_frames=8")
    if option not in valid:
      raise unknown(f"option of data set '{name}'", option, valid)
    options[option] = values.parse(text, valid[option], option)
  return options


def _convert(args: argparse.Namespace) -> None:
  from jaxfer.convert import importers

  print(importers.convert(args.importer, args.weights, args.out))


def _verify(args: argparse.Namespace) -> None:
  from jaxfer import inference, verification

  net = inference.load_face_net(args.weights)
  _cache_compilations()
  if args.pairs == "embedded":
    print(verification.verify_drawn(net.outputs, net.meta, args.folds), verification.DRAWN, sep="\n")
  else:
    print(verification.verify(net.outputs, net.meta, pathlib.Path(args.pairs), args.folds))


def _list(args: argparse.Namespace) -> None:
  if args.what == "studies":
    from jaxfer import config_file
    from jaxfer.study import listing

    print(listing.studies(config_file.folder()))
    return
  for name, line in {"models": _models, "datasets": _datasets, "configs": _configs}[args.what]().items():
    print(f"{name:<50}  {line}" if args.what == "configs" else f"{name:<22}  {line}")


def _models() -> dict[str, str]:
  from jaxfer.systems import MODELS

  return {name: (model.__doc__ or "").strip().splitlines()[0] for name, model in MODELS.items()}


def _datasets() -> dict[str, str]:
  from jaxfer.data.datasets import DATASETS

  return {name: f"{dataset.description} ({dataset.licence})" for name, dataset in DATASETS.items()}


def _configs() -> dict[str, str]:
  from jaxfer import config_file

  lines, broken = {}, 0
  root = config_file.folder()
  for path in sorted(root.rglob("*.py")):
    name = str(root.name / path.relative_to(root))
    try:
      lines[name] = config_file.summary(path)
    except UserError as error:
      lines[name], broken = f"cannot be read: {error}", broken + 1
  if not lines:
    raise UserError(f"no config in {root}: leave that folder, or name a config file to train")
  if broken:
    lines[f"{broken} of {len(lines)} configs cannot be read"] = ""
  return lines


def _streams() -> list[TextIO]:
  return [stream for stream in (sys.stdout, sys.stderr) if stream is not None and not stream.closed]


def _flush() -> None:
  """Flushes the output, so that a closed pipe or a full disk causes an error here and not when Python exits."""
  for stream in _streams():
    stream.flush()


def _ended(error: OSError) -> int:
  """Returns the exit code for an unhandled OSError, or raises it again if the machine did not cause it."""
  unread = isinstance(error, BrokenPipeError) and any(map(_unread, _streams()))
  if not unread:
    if error.errno not in _FAULTS and files.disk_error(error) is None:
      raise error
    with contextlib.suppress(OSError):
      print(f"jaxfer: {files.unusable(error.filename or 'the output', error)}", file=sys.stderr)
  for stream in _streams():
    try:
      stream.flush()
    except OSError:
      # Output that cannot be written is dropped. Otherwise Python would try again at exit and print an error.
      os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
  return 128 + signal.SIGPIPE if unread else 2


def _unread(stream: TextIO) -> bool:
  """Returns whether a stream is a pipe whose reader has closed it."""
  try:
    poll = select.poll()
    poll.register(stream.fileno(), select.POLLOUT)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))
  except (OSError, ValueError):  # The stream is not a file.
    return False


def main(argv: Sequence[str] | None = None) -> int:
  """Runs a command.

  Returns:
    The exit code: 0 for success; 2 after an error of the user or the machine, which is reported in one line on stderr;
    128 + signal if a signal stopped the command, including SIGPIPE if the reader of the output has closed it.
  """
  for stream in _streams():
    if isinstance(stream, io.TextIOWrapper):  # File names need not be valid in the encoding of the output.
      stream.reconfigure(errors="backslashreplace")
  try:
    try:
      code = _run(argv)
    except SystemExit:  # Raised by argparse after it has printed.
      _flush()
      raise
    _flush()
    return cluster.leave(code)
  except OSError as error:
    return cluster.leave(_ended(error))


def _run(argv: Sequence[str] | None) -> int:
  parser = _parser()
  args, late = parser.parse_known_args(argv)
  # argparse does not accept `a.b=value` after an option such as --workdir, so these are parsed here.
  if late and (
    args.command not in ("train", "study", "prepare") or any(word.startswith("-") for word in late)
  ):
    parser.error(f"unrecognized arguments: {' '.join(late)}")
  if late:
    (args.options if args.command == "prepare" else args.overrides).extend(late)
  command = {
    "train": _train, "evaluate": _evaluate, "study": _study, "predict": _predict, "explain": _explain,
    "export": cli_inference.export,
    "prepare": _prepare, "convert": _convert, "verify": _verify, "list": _list,
  }[args.command]  # fmt: skip
  _quieten_xla()
  try:
    command(args)
  except UserError as error:
    print(f"jaxfer: {error}", file=sys.stderr)
    return 2
  except Interrupted as error:
    print(f"jaxfer: {error}", file=sys.stderr)
    return 128 + error.signal
  except OSError:
    raise
  except Exception as error:
    cluster.failed(error)
    raise
  return 0


if __name__ == "__main__":
  sys.exit(main())
