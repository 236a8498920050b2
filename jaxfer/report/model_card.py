"""Writes the model card of a run: the model, its data, its test results, and the limits of its use."""

import pathlib
from collections.abc import Mapping
from typing import Any

from jaxfer import files
from jaxfer.data.datasets import DATASETS
from jaxfer.report import tables

LIMITS = (
  "The classes are labels that people gave to pictures of faces. They describe how a face looks, and not what a person "
  "feels, thinks or intends.",
  "The accuracy holds for people, cameras and poses like those of the test records. Other faces may be classified "
  "worse, and some groups of people worse than others.",
  "Do not use the predictions to judge or monitor people, or for decisions about them.",
)


def write(
  path: pathlib.Path,
  result: Mapping[str, Any],
  model: str,
  splits: Mapping[str, str],
  inputs: Mapping[str, Any],
) -> None:
  """Writes `model_card.md`.

  Args:
    path: file to write.
    result: contents of `evaluation.json`.
    model: name of the model, with its options.
    splits: name of a training -> description of its training, validation and test records.
    inputs: preprocessing of the model's inputs, by name.
  """
  files.write_atomic(path, _text(result, model, splits, inputs))


def _text(result: Mapping[str, Any], model: str, splits: Mapping[str, str], inputs: Mapping[str, Any]) -> str:
  data, (low, high) = result["data"], result["interval_95"]
  known = DATASETS.get(data["name"])
  options = {name: value for name, value in data.items() if name not in ("name", "fingerprint")}
  folds = list(result["accuracy_by_fold"].values())
  spread = f"; single folds {min(folds):.1%} to {max(folds):.1%}" if len(folds) > 1 else ""
  calibration = result["calibration"] or {}
  tested = [
    f"Accuracy {result['accuracy']:.1%} ({round(result['correct'], 1)} of {result['count']}; 95 % interval {low:.1%} "
    f"to {high:.1%}; chance {result['chance']:.1%}){spread}.",
    f"The test records show {result['unseen']} that the training never saw.",
    *([f"Expected calibration error: {calibration['error']:.3f}."] if calibration else []),
    *(f"{name or 'Split'}: {line}." for name, line in splits.items()),
  ]
  recall = tables.markdown(["class", "recall"], [[*pair] for pair in result["recall"].items()], digits=3)
  groups = [tables.markdown(*table, digits=3) for table in tables.group_tables(result["accuracy_by_group"])]
  described = f"{known.description[0].upper()}{known.description[1:]} ({known.licence})." if known else ""
  sections = {
    "Model": [f"`{model}`, trained by jaxfer {result['revision']}.", *_list(inputs)],
    "Data": [
      f"`{data['name']}`, fingerprint `{data['fingerprint']}`. {described}".strip(),
      *_list(options),
    ],
    "Test": [*(f"- {line}" for line in tested), "", "\n".join([recall, *groups]).rstrip()],
    "Limits": [f"- {line}" for line in LIMITS],
  }
  body = [f"## {title}\n\n" + "\n".join(lines) for title, lines in sections.items()]
  return f"# {model.partition('(')[0]} on {data['name']}\n\n" + "\n\n".join(body) + "\n"


def _list(values: Mapping[str, Any]) -> list[str]:
  """Returns a Markdown list of names and values, with an empty line before it."""
  return ["", *(f"- {name}: {value}" for name, value in values.items())] if values else []
