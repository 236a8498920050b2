"""The command line: `jaxfer train | evaluate | study | predict | export | prepare | convert | verify | list`."""

import argparse
import contextlib
import errno
import importlib.util
import os
import pathlib
import select
import signal
import sys
from collections.abc import Sequence
from typing import TextIO

from jaxfer import cli_inference, files
from jaxfer.errors import Interrupted, UserError

# Faults of the machine or of how it is set up. Any other OSError is a bug of ours and shows its traceback.
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
    help="train a config and judge it",
    description="Trains what CONFIG describes, every fold of it unless split.fold is given, and judges it on people "
    "that the training never saw.",
  )
  train.add_argument(
    "config", type=pathlib.Path, metavar="CONFIG", help="a Python file, such as configs/quickstart.py"
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
  train.add_argument("--resume", action="store_true", help="go on with the run in --workdir")
  train.add_argument(
    "--profile",
    type=pathlib.Path,
    metavar="DIR",
    help="record the second chunk of steps (the first one compiles) for xprof or Perfetto; chunks are "
    "execution.steps_per_call steps long",
  )

  evaluate = commands.add_parser("evaluate", parents=[where], help="judge a trained run again")
  evaluate.add_argument("workdir", type=pathlib.Path, metavar="WORKDIR")

  study = commands.add_parser(
    "study",
    parents=[where],
    help="train a whole table and print it beside the paper's",
    description="Trains every row of the table that CONFIG describes, folds x seeds each, judges them by the paper's "
    "protocol, and prints the published numbers beside ours.",
  )
  study.add_argument(
    "config", type=pathlib.Path, metavar="CONFIG", nargs="?", help="`jaxfer study --list` names them"
  )
  study.add_argument(
    "overrides",
    nargs="*",
    metavar="a.b=value",
    help="change a value that all rows share, such as seeds=5 or recipe.epochs=20",
  )
  study.add_argument("--workdir", type=pathlib.Path, help="folder for the table, figures, trainings")
  study.add_argument("--preset", help="size of the study: smoke, small or paper (default: as CONFIG says)")
  study.add_argument("--resume", action="store_true", help="go on with the study in --workdir")
  study.add_argument(
    "--people",
    type=pathlib.Path,
    metavar="DIR",
    help="train nothing: write a test for people of what the study tests, to print, and its key, to DIR",
  )
  study.add_argument(
    "--score",
    type=pathlib.Path,
    nargs="+",
    metavar="CSV",
    help="with --people DIR: count what each filled answers.csv has right",
  )
  study.add_argument(
    "--list", action="store_true", help="name every study, what it repeats and which data it needs"
  )

  cli_inference.add_parsers(commands)
  prepare = commands.add_parser(
    "prepare",
    parents=[where],
    help="import a data set from its distributor's files",
    description="Reads a data set as its distributor ships it, checks it, and writes it for training.",
  )
  prepare.add_argument("dataset", metavar="DATASET", help="a name that `jaxfer list datasets` shows")
  prepare.add_argument(
    "options", nargs="*", metavar="option=value", help="options of the data set, such as num_frames=8"
  )
  prepare.add_argument(
    "--source", type=pathlib.Path, required=True, metavar="DIR", help="folder of the data set"
  )
  prepare.add_argument(
    "--skip-bad", action="store_true", help="leave bad files out instead of stopping at them"
  )

  convert = commands.add_parser(
    "convert",
    help="bring published weights into a folder that jaxfer.load reads",
    description="Reads a checkpoint (.pth, .pt, .ckpt or .safetensors) without PyTorch, checks that every tensor of "
    "the model is in it and no other, and writes weights.npz and weights.json to OUT.",
  )
  convert.add_argument("importer", metavar="arm|torchvision_resnet18|torchvision_resnet50")
  convert.add_argument("weights", type=pathlib.Path, metavar="WEIGHTS")
  convert.add_argument("out", type=pathlib.Path, metavar="OUT", help="a new folder")

  verify = commands.add_parser("verify", help="judge a face net by pairs of faces, by LFW's protocol")
  verify.add_argument("weights", metavar="WEIGHTS", help="of `jaxfer convert`, or of a face_classifier")
  verify.add_argument("pairs", metavar="PAIRS.bin", help="such as lfw.bin; or `embedded`: drawn people")
  verify.add_argument("--folds", type=int, default=10, help="parts of the pairs (default: 10)")

  listing = commands.add_parser("list", help="show what there is")
  listing.add_argument("what", choices=["models", "datasets", "configs", "studies"])
  return parser


def _data_dir(args: argparse.Namespace) -> pathlib.Path:
  from jaxfer.data.records import default_data_dir

  return args.data_dir.expanduser() if args.data_dir else default_data_dir()


def _cache_compilations() -> None:
  """Keeps compiled programs between runs, unless JAX was told where to keep them."""
  import jax

  if jax.config.values["jax_compilation_cache_dir"] is None:
    home = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    jax.config.update("jax_compilation_cache_dir", str(home / "jaxfer" / "xla"))


def _quieten_xla() -> None:
  """Hides XLA's log on a machine without an accelerator, before JAX is imported.

  For every program from the cache, XLA logs two lines of two thousand characters about tuning flags that it takes for
  features of the processor (openxla/xla#44565). What matters on CPU also raises an exception.
  """
  platforms = os.environ.get("JAX_PLATFORMS") or os.environ.get("JAX_PLATFORM_NAME")
  accelerated = any(importlib.util.find_spec(plugin) for plugin in ("jax_plugins", "libtpu"))
  if platforms == "cpu" or not (platforms or accelerated):
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def _train(args: argparse.Namespace) -> None:
  from jaxfer import config
  from jaxfer.study import run

  configured = config.override(config.load(args.config), args.overrides, run.options_of)
  _cache_compilations()
  run.train(configured, args.workdir, _data_dir(args), resume=args.resume, profile=args.profile)
  print(
    f"written to {args.workdir}: metrics.jsonl, evaluation.json, predictions.csv, confusion.png, curves.png, "
    "examples.png, report.html"
  )


def _evaluate(args: argparse.Namespace) -> None:
  from jaxfer.study import run

  _cache_compilations()
  run.evaluate(args.workdir, _data_dir(args))


def _study(args: argparse.Namespace) -> None:
  from jaxfer import config
  from jaxfer.study import listing, study

  if args.list:
    print(listing.studies(pathlib.Path("configs")))
    return
  if args.people is not None or args.score:
    _people(args)
    return
  if args.config is None or args.workdir is None:
    raise UserError(
      "a study needs CONFIG and --workdir: `jaxfer study --list` names the configs of this directory"
    )
  _cache_compilations()
  configured = config.load_study(args.config)
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
    raise UserError("a people's test needs CONFIG: `jaxfer study --list` names the configs of this directory")
  study = config.load_study(args.config)
  count = people.write_test(study, args.preset, args.overrides, args.people, _data_dir(args))
  print(
    f"written to {args.people}: sheet.html, to print; answers.csv, to fill in for its {count} pictures, one copy a "
    f"person; key.csv, to keep from them. Then: jaxfer study --people {args.people} --score CSV [CSV ...]"
  )


def _predict(args: argparse.Namespace) -> None:
  _cache_compilations()
  cli_inference.predict(args)


def _prepare(args: argparse.Namespace) -> None:
  from jaxfer.data.interrupt import stopping

  with stopping("what was not finished is removed: run the command again"):
    _import(args)


def _import(args: argparse.Namespace) -> None:
  from jaxfer import values
  from jaxfer.config import Call
  from jaxfer.data.prepare import prepare
  from jaxfer.errors import unknown
  from jaxfer.study import run

  valid, options = run.options_of("data", Call(args.dataset)), {}
  for assignment in args.options:
    name, equals, text = assignment.partition("=")
    if not equals:
      raise UserError(f"option '{assignment}' has no '=': write option=value, such as num_frames=8")
    if name not in valid:
      raise unknown(f"option of data set '{args.dataset}'", name, valid)
    options[name] = values.parse(text, valid[name], name)
  print(prepare(args.dataset, args.source, _data_dir(args), skip_bad=args.skip_bad, **options).table())


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
    from jaxfer.study import listing

    print(listing.studies(pathlib.Path("configs")))
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
  for path in sorted(pathlib.Path("configs").rglob("*.py")):
    try:
      lines[str(path)] = config_file.summary(path)
    except UserError as error:
      lines[str(path)], broken = f"cannot be read: {error}", broken + 1
  if not lines:
    raise UserError(
      "no configs/ in this directory: run from a checkout of jaxfer, or name a config file to train"
    )
  if broken:
    lines[f"{broken} of {len(lines)} configs cannot be read"] = ""
  return lines


def _streams() -> list[TextIO]:
  return [stream for stream in (sys.stdout, sys.stderr) if stream is not None and not stream.closed]


def _flush() -> None:
  """Writes out what was printed, so that a closed pipe or a full disk is met here and not when Python ends."""
  for stream in _streams():
    stream.flush()


def _ended(error: OSError) -> int:
  """The exit code after an OSError that no command has dealt with; raises it again unless the machine is at fault."""
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
      # What cannot be written is dropped, or Python would try once more at its end and fail aloud.
      os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
  return 128 + signal.SIGPIPE if unread else 2


def _unread(stream: TextIO) -> bool:
  """Whether a stream is a pipe that nobody reads."""
  try:
    poll = select.poll()
    poll.register(stream.fileno(), select.POLLOUT)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))
  except (OSError, ValueError):  # Not a file.
    return False


def main(argv: Sequence[str] | None = None) -> int:
  """Runs a command.

  Returns:
    0; 2 after a mistake of the user's or a fault of the machine, told by one line on stderr; 128 + signal when stopped,
    also where nobody reads what is printed any more (SIGPIPE).
  """
  try:
    try:
      code = _run(argv)
    except SystemExit:  # argparse's, after it has printed.
      _flush()
      raise
    _flush()
    return code
  except OSError as error:
    return _ended(error)


def _run(argv: Sequence[str] | None) -> int:
  parser = _parser()
  args, late = parser.parse_known_args(argv)
  # argparse takes no `a.b=value` after an option such as --workdir; we do.
  if late and (
    args.command not in ("train", "study", "prepare") or any(word.startswith("-") for word in late)
  ):
    parser.error(f"unrecognized arguments: {' '.join(late)}")
  if late:
    (args.options if args.command == "prepare" else args.overrides).extend(late)
  command = {
    "train": _train, "evaluate": _evaluate, "study": _study, "predict": _predict, "export": cli_inference.export,
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
  return 0


if __name__ == "__main__":
  sys.exit(main())
