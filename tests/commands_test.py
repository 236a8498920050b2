"""Tests that commands in READMEs and docstrings of configs can be parsed, and that their files and data match."""

import ast
import dataclasses
import importlib
import re
import shlex

import pytest

from jaxfer import cli, config
from jaxfer.config import Call
from jaxfer.convert import importers
from jaxfer.data import mixed, records
from jaxfer.data.datasets import DATASETS
from jaxfer.errors import UserError
from jaxfer.study.task import options_of
from tests import readme_test

ROOT = readme_test.ROOT
CONFIGS = sorted(path.relative_to(ROOT) for path in (ROOT / "configs").rglob("*.py"))
PAGES = [*readme_test.PAGES, *CONFIGS]


@dataclasses.dataclass(frozen=True)
class Page:
  """A README or the docstring of a config.

  Attributes:
    text: the text.
    fallback: the README of the config's system, which lists the preparations that the docstring leaves out.
  """

  text: str
  fallback: str = ""


def page_of(path):
  text = (ROOT / path).read_text()
  if path.suffix == ".md":
    rows = re.findall(r"^\|.*$", text, re.MULTILINE)
    return Page("\n".join([blocks(text), *rows]))
  readme = ROOT / "jaxfer/systems" / path.parent.name / "README.md"
  fallback = blocks(readme.read_text()) if readme.exists() else ""
  return Page(ast.get_docstring(ast.parse(text)) or "", fallback)


def blocks(text):
  """Returns the code blocks of a README."""
  return "\n".join(re.findall(r"^ *```\w*\n(.*?)^ *```", text, re.MULTILINE | re.DOTALL))


def commands(text):
  """Returns the arguments of lines that begin with `jaxfer`, without comments, and of commands in cells of tables.

  A comment begins with # or after three spaces. A placeholder such as <folder> becomes one word. Lines with [...] or
  a|b describe a command and are left out.
  """
  joined = re.sub(r"\s*\\\n\s*", " ", text)
  lines = re.findall(r"^ *(?:\.venv/bin/)?jaxfer (.+)$", joined, re.MULTILINE)
  rows = re.findall(r"^\|.*$", text, re.MULTILINE)
  lines += [line for row in rows for line in re.findall(r"`jaxfer ([^`]+)`", row)]
  plain = [re.sub(r"<[^>]*>", "PLACEHOLDER", re.sub(r" {3}.*", "", line)) for line in lines]
  found = [shlex.split(line, comments=True) for line in plain]
  return [words for words in found if not any(mark in word for word in words for mark in "[|")]


def parsed(words):
  """Returns the parsed arguments, as in `cli.main`."""
  args, late = cli._parser().parse_known_args(words)
  assert not any(word.startswith("-") for word in late), f"unknown {late} in: jaxfer {' '.join(words)}"
  if late:  # Overrides after an option.
    (args.options if args.command == "prepare" else args.overrides).extend(late)
  return args


def stored(call):
  """Returns the prepared data sets that a `data` entry reads, as (name, name of the builder's configuration)."""
  if DATASETS[call.name].generated:
    return set()
  made = records.make_config(call.name, call.options)
  if not DATASETS[call.name].parts:
    return {(call.name, made.name)}
  parts = importlib.import_module(DATASETS[call.name].module).mixture(made).parts
  return {(part.name, records.make_config(part.name, part.options).name) for part in parts}


def prepared(args):
  """Returns the data sets that a `prepare` command writes, in the form of `stored`."""
  valid = options_of("data", Call(args.dataset))
  if not DATASETS[args.dataset].parts:
    return stored(Call(args.dataset, **cli._data_options(args.dataset, args.options, valid)))
  sources, rest = cli._sources_of(args, valid)
  assert set(sources) == set(mixed.source_names(args.dataset)), (
    f"folders of {args.dataset}: {sorted(sources)}"
  )
  parts = mixed.forms(args.dataset, cli._data_options(args.dataset, rest, valid))
  return {(part.name, records.make_config(part.name, part.options).name) for part in parts}


def read(args):
  """Returns the prepared data sets that a `train` or `study` command reads, in the form of `stored`."""
  if args.command == "train":
    own = [config.override(config.load(ROOT / args.config), args.overrides, options_of)]
  else:
    study, rows = config.resolve(
      config.load_study(ROOT / args.config), args.preset, args.overrides, options_of
    )
    own = [*rows.values(), *(config.sources_of(study, options_of) if study.sources else {}).values()]
  return set().union(*(stored(each.data) for each in own))


def prepared_by(text):
  every = [parsed(words) for words in commands(text)]
  return set().union(*(prepared(args) for args in every if args.command == "prepare"))


def begun_from(args):
  """Returns the folders of earlier trainings or of converted weights that a command reads."""
  if args.command in ("evaluate", "predict", "explain", "export"):
    return [str(args.workdir if args.command == "evaluate" else args.model)]
  pairs = [text.partition("=") for text in getattr(args, "overrides", ())]
  return [value for key, _, value in pairs if key == "init_from" or key.startswith("sources.")]


def problems(page):
  """Returns the problems of a page, one line each."""
  found, written = [], []
  available = prepared_by(page.text) or prepared_by(page.fallback)
  for words in commands(page.text):
    args, line = parsed(words), f"jaxfer {' '.join(words)}"
    for folder in begun_from(args):
      if folder.startswith("runs/") and not any(f"{folder}/".startswith(f"{made}/") for made in written):
        found.append(f"{line}: no command before it writes {folder}")
    if args.command == "convert" and args.importer not in importers.IMPORTERS:
      found.append(f"{line}: no importer {args.importer}")
    if args.command in ("train", "study") and args.config is not None:
      if (ROOT / args.config).exists():
        found += [f"{line}: {data} is not prepared" for data in sorted(read(args) - available)]
      elif f"# {args.config}\n" not in page.text:
        found.append(f"{line}: no such config")
    written += [str(made) for name in ("workdir", "out") if (made := getattr(args, name, None)) is not None]
  return found


@pytest.mark.parametrize("path", PAGES, ids=str)
def test_the_commands_of_a_page_fit_together(path):
  assert problems(page_of(path)) == []


@pytest.mark.parametrize("path", CONFIGS, ids=str)
def test_every_config_names_the_command_that_runs_it(path):
  every = [parsed(words) for words in commands(page_of(path).text)]
  assert str(path) in {str(args.config) for args in every if args.command in ("train", "study")}


def test_what_does_not_fit_is_found():
  study = "jaxfer study configs/stacked_autoencoder/table2.py --workdir runs/table2"
  lines = [
    f"jaxfer prepare {name} --source <some folder> channels=1 crop=middle {more}  # one part"
    for name, more in (("jaffe", "label_source=ratings"), ("ckplus_stills", "frames=last:1"), ("msfde", ""))
  ]
  missing = problems(Page("\n".join([*lines, study])))
  assert [re.findall(r"\('(\w+)'", line) for line in missing] == [["ckplus_stills"], ["kdef"]]
  assert problems(Page("jaxfer train configs/nothing.py --workdir runs/a")) == [
    "jaxfer train configs/nothing.py --workdir runs/a: no such config"
  ]
  (unwritten,) = problems(Page("jaxfer train configs/quickstart.py --workdir runs/a\njaxfer evaluate runs/b"))
  assert "no command before it writes runs/b" in unwritten
  for wrong in ("recipe.epohs=3", "batch_size=many"):
    with pytest.raises(UserError, match=wrong.partition("=")[0]):
      problems(Page(f"jaxfer train configs/quickstart.py \\\n  --workdir runs/a {wrong}"))
  with pytest.raises(SystemExit):
    problems(Page("jaxfer prepare jaffe"))


def test_descriptions_and_prose_are_no_commands():
  text = "jaxfer list models|datasets\njaxfer train X [a=b]\nsee `jaxfer train y`\n  jaxfer evaluate runs/a  # again"
  text += "\njaxfer evaluate runs/b    evaluate again\n| Table 1 | `jaxfer list models`, or `y` |"
  assert commands(text) == [["evaluate", "runs/a"], ["evaluate", "runs/b"], ["list", "models"]]
