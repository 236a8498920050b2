"""Tests that the networks and configs in the READMEs train exactly as shown, with the commands shown."""

import csv
import json
import pathlib
import re
import sys

import numpy as np
from PIL import Image

import jaxfer
from jaxfer import cli
from jaxfer.train import weights

README = pathlib.Path(jaxfer.__file__).parent / "systems/classifier/README.md"


def write_images(folder):
  """Writes 20 images of each of two classes, dark and light."""
  rng = np.random.default_rng(0)
  for label, brightness in (("dark", 0), ("light", 120)):
    (folder / label).mkdir(parents=True)
    for k in range(20):
      pixels = rng.integers(0, 120, (16, 16, 3)) + brightness
      Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{label}/{k}.png")


def test_the_readme_trains_evaluates_and_classifies(tmp_path, monkeypatch, capsys):
  *blocks, (classify, _) = re.findall(r"```python\n(# (\w+\.py)\n.*?)```", README.read_text(), re.DOTALL)
  assert [name for _, name in blocks] == ["my_models.py", "my_config.py"]
  for text, name in blocks:
    (tmp_path / name).write_text(text)
  monkeypatch.chdir(tmp_path)
  monkeypatch.delitem(sys.modules, "my_models", raising=False)
  small = ["data.num_subjects=10", "data.image_size=16", "model.features=(4,)", "recipe.epochs=2"]
  more = [*small, "execution.devices=2", "--data-dir", "data"]
  assert cli.main(["train", "my_config.py", "--workdir", "runs/cnn", *more]) == 0
  assert cli.main(["evaluate", "runs/cnn", "--data-dir", "data"]) == 0
  assert json.loads(pathlib.Path("runs/cnn/evaluation.json").read_text())["count"] == 63
  Image.fromarray(np.arange(40 * 40).reshape(40, 40).astype(np.uint8)).save("new.png")
  monkeypatch.syspath_prepend(str(tmp_path))
  exec(classify, {})
  assert (
    capsys.readouterr().out.splitlines()[-1] in weights.load_weights("runs/cnn/weights")[1]["label_names"]
  )


def test_the_readmes_way_to_own_images(tmp_path, monkeypatch):
  blocks = dict(re.findall(r"```python\n# (\w+\.py)\n(.*?)```", README.read_text(), re.DOTALL))
  (data,) = re.findall(r"`(data=Call.*,)`", README.read_text())
  own, count = re.subn(r"data=.*", data, blocks["my_config.py"])
  assert count == 1
  (tmp_path / "my_models.py").write_text(blocks["my_models.py"])
  (tmp_path / "my_config.py").write_text(own)
  monkeypatch.chdir(tmp_path)
  monkeypatch.delitem(sys.modules, "my_models", raising=False)
  write_images(tmp_path / "path/to/images")
  (prepare,) = re.findall(r"^jaxfer (prepare .*)$", README.read_text(), re.MULTILINE)
  assert cli.main([*prepare.split(), "--data-dir", "data"]) == 0
  small = ["model.features=(4,)", "recipe.epochs=2", "execution.devices=1", "--data-dir", "data"]
  assert cli.main(["train", "my_config.py", "--workdir", "runs/own", *small]) == 0


def test_the_front_page_trains_a_network_on_own_images(tmp_path, monkeypatch):
  text = (pathlib.Path(__file__).parents[3] / "README.md").read_text()
  blocks = dict(re.findall(r"```python\n# (\w+\.py)[^\n]*\n(.*?)```", text, re.DOTALL))
  for name, code in blocks.items():
    (tmp_path / name).write_text(code)
  monkeypatch.chdir(tmp_path)
  monkeypatch.delitem(sys.modules, "my_models", raising=False)
  write_images(tmp_path / "path/to/images")
  (prepare,) = re.findall(r"^jaxfer (prepare image_folder .*)$", text, re.MULTILINE)
  (train,) = re.findall(r"run it with: jaxfer (train .*)$", text, re.MULTILINE)
  assert cli.main([*prepare.split(), "--data-dir", "data"]) == 0
  small = ["recipe.epochs=2", "batch_size=8", "execution.devices=2", "execution.driver=steps"]
  assert cli.main([*train.split(), *small, "--data-dir", "data"]) == 0
  assert pathlib.Path("runs/mine/evaluation.json").exists()


def test_the_config_for_own_images_trains_and_its_model_predicts_and_is_exported(
  tmp_path, monkeypatch, capsys
):
  """Runs the commands in the config's docstring on pictures without faces."""
  path = pathlib.Path(__file__).parents[3] / "configs/own_images.py"
  monkeypatch.chdir(tmp_path)
  write_images(tmp_path / "path/to/pictures")
  commands = re.findall(r"^jaxfer (.*)$", path.read_text(), re.MULTILINE)
  prepare, train, predict = (command.split() for command in commands)
  options = ["crop=whole", "image_size=16"]
  assert cli.main([*prepare, *options, "--data-dir", "data"]) == 0
  small = [
    "model.features=(4,)",
    "recipe.epochs=3",
    "batch_size=8",
    "execution.devices=1",
    "--data-dir",
    "data",
  ]
  train[1] = str(path)
  assert cli.main([*train, *small, *(f"data.{option}" for option in options)]) == 0
  assert "the people are unknown" in capsys.readouterr().out
  predict[-1] = "path/to/pictures"
  assert cli.main([*predict, "--csv", "faces.csv"]) == 0
  with open("faces.csv", newline="") as file:
    predicted = {row["file"]: row["predicted"] for row in csv.DictReader(file)}
  assert len(predicted) == 40
  with open("runs/own/predictions.csv", newline="") as file:
    for row in csv.DictReader(file):
      assert predicted[f"path/to/pictures/{row['key']}"] == row["predicted"]
  assert cli.main(["export", "runs/own", "out", "--format", "safetensors"]) == 0
  assert jaxfer.load("out").label_names == ("dark", "light")
