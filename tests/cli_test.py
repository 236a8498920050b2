"""Tests the command line end to end, with a training that takes seconds."""

import errno
import io
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import chex
import jax
import numpy as np
import pytest
from PIL import Image

from jaxfer import cli, config
from jaxfer.study import task, trainings
from jaxfer.systems import SYSTEMS
from jaxfer.train.trainer import Trainer

ROOT = pathlib.Path(__file__).parents[1]
TINY = [
  str(ROOT / "configs/quickstart.py"),
  "data.num_subjects=6",
  "data.num_frames=4",  # tests/data/synthetic_dataset_test.py compiles the same drawing program.
  "data.image_size=16",
  "model.features=(4,)",
  "model.dense=(8, 8)",
  "recipe.epochs=4",
  "batch_size=4",
  "split.test=0.34",
  "execution.devices=1",
  "execution.steps_per_call=2",
]


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
  return tmp_path_factory.mktemp("data")


def jaxfer(*arguments):
  return cli.main([str(a) for a in arguments])


@pytest.fixture(scope="module")
def trained(tmp_path_factory, data_dir):
  workdir = tmp_path_factory.mktemp("run") / "tiny"
  assert jaxfer("train", *TINY, "--workdir", workdir, "--data-dir", data_dir) == 0
  return workdir


def final_state(workdir, data_dir):
  configured = config.from_json((workdir / "config.json").read_text())
  made = trainings.prepare(configured, trainings.load_data(configured, data_dir))
  (result,) = Trainer(made.training, workdir).restore()
  return result.variables


def test_training_leaves_metrics_figures_and_a_checkpoint(trained):
  rows = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
  assert [(row["split"], row["epoch"]) for row in rows] == [
    (split, epoch) for epoch in range(1, 5) for split in ("train", "validation")
  ]
  assert all(np.isfinite(row["loss"]) and 0 <= row["accuracy"] <= 1 for row in rows)
  result = json.loads((trained / "evaluation.json").read_text())
  assert result["count"] == 14 == np.sum(result["confusion"])
  assert result["correct"] == np.trace(result["confusion"])
  assert result["published"] == {"enhanced ConvLSTM": 296 / 327}
  assert config.from_json((trained / "config.json").read_text()).dtype == "float32"  # And not "auto".
  for name in ("confusion.png", "curves.png", "examples.png", "gates.png"):
    assert (trained / name).read_bytes()[:4] == b"\x89PNG"
  assert (trained / "report.html").read_text().startswith("<!doctype html>")
  lines = (trained / "predictions.csv").read_text().splitlines()
  assert len(lines) == 15
  assert sum(line.split(",")[2] == line.split(",")[3] for line in lines[1:]) == result["correct"]


def test_evaluating_again_gives_the_same(trained, data_dir, capsys):
  before = (trained / "evaluation.json").read_text()
  assert jaxfer("evaluate", trained, "--data-dir", data_dir) == 0
  assert (trained / "evaluation.json").read_text() == before
  assert "on people that the training never saw" in capsys.readouterr().out


def test_warnings_of_the_system_are_printed(trained, data_dir, capsys, monkeypatch):
  warnings = lambda model, history, outputs: [f"{len(history)} rows, outputs {outputs.shape[1:]}"]  # noqa: E731
  monkeypatch.setattr(SYSTEMS["two_stream_conv_rnn"], "warnings", warnings)
  assert jaxfer("evaluate", trained, "--data-dir", data_dir) == 0
  assert capsys.readouterr().out.endswith("8 rows, outputs (7,)\n")


def test_of_many_classes_no_matrix_is_written(trained, data_dir, tmp_path, capsys, monkeypatch):
  monkeypatch.setattr(trainings, "MANY", 6)
  before = json.loads((trained / "evaluation.json").read_text())
  shutil.copytree(trained, tmp_path / "run", ignore=shutil.ignore_patterns("confusion.*", "examples.png"))
  assert jaxfer("evaluate", tmp_path / "run", "--data-dir", data_dir) == 0
  after = json.loads((tmp_path / "run/evaluation.json").read_text())
  assert after == {**before, "confusion": None, "calibration": None}
  assert not {path.stem for path in (tmp_path / "run").iterdir()} & {"confusion", "examples"}
  assert "7 classes: too many for a confusion matrix" in capsys.readouterr().out
  assert "classes are too many for a table" in (tmp_path / "run/report.html").read_text()


@pytest.mark.parametrize(
  ("platforms", "plugin", "own", "level"),
  [
    ("", "", "", "3"),
    ("cpu", "jax_plugins", "", "3"),
    ("", "jax_plugins", "", ""),
    ("", "libtpu", "", ""),
    ("cuda", "", "", ""),
    ("", "", "0", "0"),
  ],
)
def test_xlas_log_is_hidden_without_an_accelerator(monkeypatch, platforms, plugin, own, level):
  monkeypatch.setattr("importlib.util.find_spec", lambda name: name == plugin or None)
  values = {"JAX_PLATFORMS": platforms, "JAX_PLATFORM_NAME": "", "TF_CPP_MIN_LOG_LEVEL": own}
  environment = {name: value for name, value in values.items() if value}
  monkeypatch.setattr(cli.os, "environ", environment)
  cli._quieten_xla()
  assert environment.get("TF_CPP_MIN_LOG_LEVEL", "") == level


def test_folds_pool_their_counts(tmp_path, data_dir):
  arguments = [*TINY, "recipe.epochs=1", "split.folds=2", "split.validation=0.0"]
  assert jaxfer("train", *arguments, "--workdir", tmp_path / "r", "--data-dir", data_dir) == 0
  result = json.loads((tmp_path / "r/evaluation.json").read_text())
  assert result["count"] == 42  # Every clip is tested once.
  tested = [line.split(",") for line in (tmp_path / "r/predictions.csv").read_text().splitlines()[1:]]
  assert len({row[0] for row in tested}) == 42
  people = [{row[1] for row in tested if row[4] == fold} for fold in ("fold0", "fold1")]
  assert not people[0] & people[1]


def process(workdir, data_dir, *more, compilation_cache=True):
  """Starts a training in a separate process, which fails if TensorFlow or PyTorch is imported.

  Its output goes to the file `printed` beside the work directory. A pipe that nobody reads would be full after some
  lines from XLA, and block the process.
  """
  code = (
    "import sys; from jaxfer import cli; code = cli.main(sys.argv[1:]);"
    "assert not {'tensorflow', 'torch'} & set(sys.modules); sys.exit(code)"
  )
  environment = (
    os.environ
    | {
      "JAX_COMPILATION_CACHE_DIR": jax.config.jax_compilation_cache_dir,
      "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
      "JAX_ENABLE_COMPILATION_CACHE": str(compilation_cache),
      "JAX_NUM_CPU_DEVICES": str(jax.config.jax_num_cpu_devices),  # Rounding depends on it.
      "TF_CPP_MIN_LOG_LEVEL": "3",  # JAX sets 1 here, and XLA's warnings about cached programs would fill the pipe.
    }
  )
  arguments = ["train", *TINY, "--workdir", str(workdir), *more, "--data-dir", str(data_dir)]
  command = [sys.executable, "-c", code, *arguments]
  with open(workdir.parent / "printed", "wb") as file:
    return subprocess.Popen(command, env=environment, stdout=file, stderr=subprocess.STDOUT)


def test_a_stopped_process_resumes_to_the_same_bits(tmp_path, trained, data_dir):
  """A training stopped by SIGTERM and then by SIGKILL ends like one that was not disturbed.

  The last process compiles its programs itself, so that two compilations must agree as well.
  """
  often = ("execution.checkpoint_seconds=0", "--resume")
  workdir, printed = tmp_path / "run", tmp_path / "printed"
  for number in (signal.SIGTERM, signal.SIGKILL):
    saved = set((workdir / "digests").glob("*.json"))
    running = process(workdir, data_dir, *often)  # The first call begins, because there is nothing to resume.
    while set((workdir / "digests").glob("*.json")) <= saved:
      assert running.poll() is None, printed.read_text()
      time.sleep(0.02)
    running.send_signal(number)
    running.wait()
    if number == signal.SIGTERM:
      assert running.returncode == 128 + signal.SIGTERM
      assert "stopped by SIGTERM, state saved: go on with --resume" in printed.read_text()
    else:
      assert running.returncode == -signal.SIGKILL
    assert not (workdir / "evaluation.json").exists()
  assert process(workdir, data_dir, *often, compilation_cache=False).wait() == 0, printed.read_text()
  assert (workdir / "metrics.jsonl").read_bytes() == (trained / "metrics.jsonl").read_bytes()
  states = [jax.device_get(final_state(folder, data_dir)) for folder in (workdir, trained)]
  chex.assert_trees_all_equal(*states)


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (["train", "absent.py", "--workdir", "w"], "no config at absent.py"),
    (["train", TINY[0], "batchsize=3", "--workdir", "w"], "did you mean 'batch_size'"),
    (["train", TINY[0], "--workdir", "w", "batchsize=3"], "did you mean 'batch_size'"),
    (["prepare", "ckplus", "--source", ".", "frames=3"], "did you mean 'num_frames'"),
    (
      ["train", *TINY, "execution.devices=3", "--workdir", "w"],
      "does not divide batch_size=4: take batch_size 3 or 6",
    ),
    (["evaluate", "absent"], "absent holds no run"),
    (["prepare", "ckplu", "--source", "."], "did you mean 'ckplus'"),
    (["prepare", "ckplus", "frames=3", "--source", "."], "did you mean 'num_frames'"),
    (["prepare", "ckplus", "num_frames", "--source", "."], "has no '='"),
    (
      ["train", str(ROOT / "configs/two_stream_conv_rnn/conv_gru.py"), "--workdir", "w"],
      "jaxfer prepare ckplus",
    ),
  ],
)
def test_a_users_mistake_is_one_line_and_exit_code_2(
  arguments, message, data_dir, tmp_path, monkeypatch, capsys
):
  monkeypatch.chdir(tmp_path)
  monkeypatch.setenv("JAXFER_DATA_DIR", str(data_dir))
  assert jaxfer(*arguments) == 2
  captured = capsys.readouterr()
  assert message in captured.err
  assert captured.err.startswith("jaxfer: ")
  assert captured.err.count("\n") == 1


def test_a_directory_that_holds_a_run_is_not_trained_over(trained, data_dir, capsys):
  assert jaxfer("train", *TINY, "--workdir", trained, "--data-dir", data_dir) == 2
  assert "already holds a run: go on with --resume" in capsys.readouterr().err


def test_resuming_with_another_configuration_leaves_the_record_as_it_was(trained, data_dir, capsys):
  before = (trained / "config.json").read_text()
  assert jaxfer("train", *TINY, "seed=5", "--resume", "--workdir", trained, "--data-dir", data_dir) == 2
  assert "another configuration (seed differ)" in capsys.readouterr().err
  assert (trained / "config.json").read_text() == before


def test_a_run_resumes_in_its_own_dtype_on_a_device_with_another_default(trained, data_dir, monkeypatch):
  monkeypatch.setattr(task, "_fast_in_bfloat16", lambda device: True)
  before = (trained / "config.json").read_text()
  assert jaxfer("train", *TINY, "--resume", "--workdir", trained, "--data-dir", data_dir) == 0
  assert (trained / "config.json").read_text() == before


def test_a_profile_is_a_trace_of_the_named_parts_of_a_chunk(tmp_path, data_dir, capsys):
  traces = tmp_path / "traces"
  arguments = [*TINY, "--workdir", tmp_path / "run", "--profile", traces]
  assert jaxfer("train", *arguments, "--data-dir", data_dir) == 0
  line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("trace of"))
  assert f"`xprof --logdir {traces}`" in line
  assert "ui.perfetto.dev" in line
  (recorded,) = traces.rglob("*.xplane.pb")
  assert list(recorded.parent.glob("*.trace.json.gz"))
  # Names in the programs, among them that of the enhanced cell's recurrence in the RGB stream.
  assert b"rgb/layer1/recurrence" in recorded.read_bytes()


def test_a_training_too_short_to_be_profiled_says_so_and_is_saved(tmp_path, data_dir, capsys):
  arguments = [*TINY, "recipe.epochs=1", "execution.steps_per_call=99", "--workdir", tmp_path / "run"]
  assert jaxfer("train", *arguments, "--data-dir", data_dir, "--profile", tmp_path / "traces") == 2
  error = capsys.readouterr().err
  assert "nothing recorded in" in error
  assert "lower execution.steps_per_call or train for more epochs" in error
  assert jaxfer("evaluate", tmp_path / "run", "--data-dir", data_dir) == 0
  (tmp_path / "file").touch()
  arguments[-1] = tmp_path / "other"
  assert jaxfer("train", *arguments, "--data-dir", data_dir, "--profile", tmp_path / "file") == 2
  assert f"--profile {tmp_path / 'file'} cannot be written" in capsys.readouterr().err


def test_a_listing_goes_on_after_a_broken_file_and_counts_it(tmp_path, monkeypatch, capsys):
  shutil.copytree(ROOT / "configs/two_stream_conv_rnn", tmp_path / "configs")
  (tmp_path / "configs/a.py").write_text("def get_config(:")
  (tmp_path / "configs/b.py").write_bytes(b"\x00\xff")
  count = len(list((tmp_path / "configs").glob("*.py")))
  monkeypatch.chdir(tmp_path)
  for what in ("configs", "studies"):
    assert jaxfer("list", what) == 0
    printed = capsys.readouterr().out
    assert "cannot be read: configs/a.py, line 1: SyntaxError: invalid syntax" in printed
    assert "cannot be read: configs/b.py" in printed
    assert "configs/table1_synthetic.py" in printed
    assert printed.rstrip().endswith(f"2 of {count} configs cannot be read")


@pytest.mark.parametrize(
  ("arguments", "codes"),
  [
    (["list", "datasets"], {128 + signal.SIGPIPE}),
    (["train", "absent.py", "--workdir", "w"], {128 + signal.SIGPIPE}),
    # argparse does not report that its text could not be written, unless it was buffered.
    (["list", "nonsense"], {2, 128 + signal.SIGPIPE}),
    (["--help"], {0, 128 + signal.SIGPIPE}),
  ],
)
def test_a_closed_pipe_ends_a_command_quietly(arguments, codes, tmp_path):
  """If nobody reads the output, there is no traceback, even when Python exits, and the exit code is that of SIGPIPE."""
  command = [sys.executable, "-m", "jaxfer.cli", *arguments]
  paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
  started = {"cwd": tmp_path, "env": os.environ | {"PYTHONPATH": paths}}

  def run_into_a_closed_pipe(**streams):
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as closed:
      return subprocess.run(command, stdout=closed, **{"stderr": closed, **streams}, **started, check=False)

  assert run_into_a_closed_pipe().returncode in codes
  errors = run_into_a_closed_pipe(stderr=subprocess.PIPE).stderr
  assert b"Traceback" not in errors
  assert b"Exception ignored" not in errors


def test_a_fault_of_the_machine_is_one_line_and_a_bug_of_ours_a_traceback(monkeypatch, capsys):
  def raising(error):
    def command(args):
      raise error

    return command

  full = OSError(errno.ENOSPC, "No space left on device")
  closed = PermissionError(errno.EACCES, "Permission denied", "there/file")
  for error, message in (
    (full, "jaxfer: the output cannot be used (No space left on device): make room"),
    (closed, "jaxfer: there/file cannot be used (Permission denied): change its permissions"),
  ):
    monkeypatch.setattr(cli, "_list", raising(error))
    assert jaxfer("list", "models") == 2
    error_text = capsys.readouterr().err
    assert error_text.startswith(message)
    assert error_text.count("\n") == 1
  for error in (
    FileNotFoundError(errno.ENOENT, "No such file", "x"),
    BrokenPipeError(errno.EPIPE, "of a worker"),
  ):
    monkeypatch.setattr(cli, "_list", raising(error))
    with pytest.raises(type(error)):
      jaxfer("list", "models")


def own_pictures(folder, classes, count=6):
  for label, name in enumerate(classes):
    (folder / name).mkdir(parents=True)
    for k in range(count):
      pixels = np.random.default_rng(100 * label + k).integers(0, 255, (16, 16, 3), np.uint8)
      Image.fromarray(pixels).save(folder / name / f"p{k}_{label}.png")


OWN = """
from jaxfer.config import Call, RunConfig, Split
def get_config():
  return RunConfig(
    recipe=Call("stacked_autoencoder", pretrain_epochs=1, epochs=1),
    model=Call("stacked_autoencoder", sizes=(4, 4)),
    data=Call("image_folder", image_size=16, crop="whole"), split=Split(test=0.3), batch_size=8)
"""


def test_for_a_users_pictures_no_published_number_is_printed(tmp_path, capsys):
  own_pictures(tmp_path / "source", ("happy", "sad", "angry"))
  (tmp_path / "own.py").write_text(OWN)
  options = ("image_size=16", "crop=whole", "--data-dir", tmp_path / "data")
  assert jaxfer("prepare", "image_folder", "--source", tmp_path / "source", *options) == 0
  arguments = ["train", tmp_path / "own.py", "--workdir", tmp_path / "run", "--data-dir", tmp_path / "data"]
  assert jaxfer(*arguments, "model.num_classes=2") == 2
  message = "model.num_classes=2: data set 'image_folder' has 3 classes; give 3, or leave it out"
  assert message in capsys.readouterr().err
  arguments[3] = tmp_path / "other"
  assert jaxfer(*arguments) == 0
  assert jaxfer("evaluate", tmp_path / "other", "--data-dir", tmp_path / "data") == 0
  assert "ublished" not in capsys.readouterr().out
  assert "ublished" not in (tmp_path / "other/report.html").read_text()
  result = json.loads((tmp_path / "other/evaluation.json").read_text())
  assert (result["published"], result["source"], result["papers_data"]) == ({}, "", False)


@pytest.mark.parametrize("what", ["models", "datasets", "configs"])
def test_listing_names_what_there_is(what, capsys, monkeypatch):
  monkeypatch.chdir(ROOT)
  assert jaxfer("list", what) == 0
  expected = {"models": "two_stream_conv_rnn", "datasets": "ckplus", "configs": "configs/quickstart.py"}
  assert expected[what] in capsys.readouterr().out


def test_a_file_name_that_the_output_cannot_encode(monkeypatch):
  out = io.TextIOWrapper(io.BytesIO(), "utf-8", errors="strict")
  monkeypatch.setattr(sys, "stdout", out)
  monkeypatch.setattr(cli, "_models", lambda: {"gr\udcfc\udcdfe.png": "a name that is not UTF-8"})
  assert jaxfer("list", "models") == 0
  assert out.buffer.getvalue().startswith(rb"gr\udcfc\udcdfe.png")
