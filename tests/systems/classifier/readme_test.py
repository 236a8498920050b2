"""The network and the config that the README shows train as they stand there, by the commands that it shows."""

import json
import pathlib
import re
import sys

import numpy as np
from PIL import Image

import jaxfer
from jaxfer import cli

README = pathlib.Path(jaxfer.__file__).parent / "systems/classifier/README.md"


def test_the_readme_trains_and_evaluates(tmp_path, monkeypatch):
  blocks = re.findall(r"```python\n(# (\w+\.py)\n.*?)```", README.read_text(), re.DOTALL)
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


def test_the_readmes_way_to_own_images(tmp_path, monkeypatch):
  blocks = dict(re.findall(r"```python\n# (\w+\.py)\n(.*?)```", README.read_text(), re.DOTALL))
  (data,) = re.findall(r"`(data=Call.*,)`", README.read_text())
  own, count = re.subn(r"data=.*", data, blocks["my_config.py"])
  assert count == 1
  (tmp_path / "my_models.py").write_text(blocks["my_models.py"])
  (tmp_path / "my_config.py").write_text(own)
  monkeypatch.chdir(tmp_path)
  monkeypatch.delitem(sys.modules, "my_models", raising=False)
  rng = np.random.default_rng(0)
  for label, brightness in (("dark", 0), ("light", 120)):
    (tmp_path / "path/to/images" / label).mkdir(parents=True)
    for k in range(20):
      pixels = rng.integers(0, 120, (16, 16, 3)) + brightness
      Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / f"path/to/images/{label}/{k}.png")
  (prepare,) = re.findall(r"^jaxfer (prepare .*)$", README.read_text(), re.MULTILINE)
  assert cli.main([*prepare.split(), "--data-dir", "data"]) == 0
  small = ["model.features=(4,)", "recipe.epochs=2", "execution.devices=1", "--data-dir", "data"]
  assert cli.main(["train", "my_config.py", "--workdir", "runs/own", *small]) == 0
