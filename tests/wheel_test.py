"""Tests that the installed package includes the configs, under the names that they have in a checkout."""

import pathlib
import subprocess
import sys
import tomllib
import zipfile

import pytest

from jaxfer import cli, config, config_file
from jaxfer.errors import UserError

ROOT = pathlib.Path(__file__).parents[1]
CONFIGS = sorted(path.relative_to(ROOT / "configs").as_posix() for path in (ROOT / "configs").rglob("*.py"))


def test_the_build_takes_the_whole_folder_of_configs():
  wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
  assert wheel == {"packages": ["jaxfer"], "force-include": {"configs": "jaxfer/configs"}}
  assert not (ROOT / "jaxfer/configs").exists()
  assert len(CONFIGS) > 20


@pytest.fixture
def installed(tmp_path, monkeypatch):
  """Sets up an installed package with one run and one study, and another current directory."""
  package = tmp_path / "site-packages/jaxfer"
  (package / "configs/system").mkdir(parents=True)
  body = '"""A small run."""\nfrom jaxfer.config import Call, RunConfig\n\n\ndef get_config():\n  return RunConfig('
  body += 'recipe=Call("classifier"), model=Call("m:{}"), data=Call("image_folder"))\n'
  (package / "configs/own.py").write_text(body.format("Shipped"))
  (package / "configs/system/table.py").write_text(body.format("Table"))
  (tmp_path / "here").mkdir()
  monkeypatch.chdir(tmp_path / "here")
  monkeypatch.setattr(config_file, "__file__", str(package / "config_file.py"))
  return body


@pytest.mark.parametrize("name", ["own", "own.py", "configs/own.py", "configs/own"])
def test_a_config_is_found_in_the_installed_package(installed, name):
  assert config.load(name).model.name == "m:Shipped"
  assert config.load("configs/system/table.py").model.name == "m:Table"


def test_a_file_of_the_users_comes_first(installed):
  path = pathlib.Path("configs/own.py")
  path.parent.mkdir()
  path.write_text(installed.format("Mine"))
  assert config.load(path).model.name == "m:Mine"
  assert config.load("own").model.name == "m:Shipped"


@pytest.mark.parametrize(
  "name", ["configs/absent.py", "../configs/own.py", "/configs/own.py", "configs", "system"]
)
def test_other_names_are_refused(installed, name):
  with pytest.raises(UserError, match=f"no config at {name}: `jaxfer list configs`"):
    config.load(name)


def test_they_are_listed_by_the_names_that_find_them(installed, capsys):
  assert cli.main(["list", "configs"]) == 0
  lines = capsys.readouterr().out.splitlines()
  assert [line.split()[0] for line in lines] == ["configs/own.py", "configs/system/table.py"]
  assert all(line.endswith("A small run.") for line in lines)


def test_a_wheel_holds_every_config_and_runs_outside_the_checkout(tmp_path):
  """This needs the network, or hatchling in pip's cache."""
  pip = [sys.executable, "-m", "pip"]
  subprocess.run([*pip, "wheel", ROOT, "--no-deps", "-q", "-w", tmp_path], check=True)
  (wheel,) = tmp_path.glob("jaxfer-*.whl")
  with zipfile.ZipFile(wheel) as archive:
    names = archive.namelist()
    archive.extractall(tmp_path / "site")
  packed = sorted(
    name.removeprefix("jaxfer/configs/") for name in names if name.startswith("jaxfer/configs/")
  )
  assert packed == CONFIGS
  assert {"jaxfer/py.typed", "jaxfer/kernels/conv/choices.json"} <= {*names}
  assert not [name for name in names if name.startswith(("configs/", "tests/", "benchmarks/"))]
  code = "import sys; sys.path.insert(0, sys.argv[1]); from jaxfer import cli; cli.main(['list', 'configs'])"
  command = [sys.executable, "-c", code, tmp_path / "site"]
  listed = subprocess.run(command, check=True, cwd=tmp_path, capture_output=True, text=True, env={"PATH": ""})
  assert len(listed.stdout.splitlines()) == len(CONFIGS)
