"""The commands that use a trained model: `jaxfer predict | explain | export`. Heavy imports wait for a command."""

import argparse
import pathlib
import sys
from typing import Any

from jaxfer.errors import UserError


def add_parsers(commands: Any) -> None:
  """Adds the commands to the subparsers of `jaxfer`."""
  model = argparse.ArgumentParser(add_help=False)
  model.add_argument(
    "model",
    metavar="MODEL",
    help="a run, a fold of it (RUN/weights/fold0), or the output of `jaxfer convert`",
  )
  given = argparse.ArgumentParser(add_help=False)
  given.add_argument(
    "paths", nargs="+", metavar="PATH", help="photographs, videos, folders, or patterns such as 'in/**/*.jpg'"
  )
  given.add_argument(
    "--rate",
    type=float,
    default=5.0,
    help="frames per second that a model of still images reads from a video (default: 5; 0: every frame)",
  )
  given.add_argument(
    "--window",
    type=float,
    default=1.0,
    help="seconds of a video that a model of clips reads at a time (default: 1)",
  )
  given.add_argument(
    "--crop",
    choices=("auto", "middle", "whole"),
    help="find faces (auto), or take the middle square or the whole picture for a face (default: as in the training "
    "data of MODEL)",
  )
  predict = commands.add_parser(
    "predict",
    parents=[model, given],
    help="classify the faces in photographs and videos",
    description="Finds every face, cuts it out in the same way as the training data of MODEL, and classifies it. A "
    "model that reads clips classifies windows of a video, and treats a photograph as a clip without motion.",
  )
  predict.add_argument("--csv", type=pathlib.Path, metavar="FILE", help="write one line for each face")
  predict.add_argument("--json", type=pathlib.Path, metavar="FILE", help="write one object for each face")
  predict.add_argument(
    "--draw",
    type=pathlib.Path,
    metavar="DIR",
    help="draw boxes and classes: a PNG for each photograph, and one with up to 16 frames for each video",
  )
  explain = commands.add_parser(
    "explain",
    parents=[model, given],
    help="draw what a model looks at in photographs and videos",
    description="Finds faces as `jaxfer predict` does, and draws what MODEL looks at: Grad-CAM++ of the predicted "
    "class for a convolutional network, effective pixels for a stacked autoencoder, temporal gates for a two-stream "
    "model, and swapped codes for an identity/expression VAE.",
  )
  explain.add_argument(
    "--out", type=pathlib.Path, required=True, metavar="DIR", help="folder for the PNG files"
  )
  explain.add_argument(
    "--layer",
    metavar="NAME",
    help="layer of the maps, such as trunk/layer3, or of the gates, such as layer2; a wrong name lists the layers",
  )
  export = commands.add_parser(
    "export",
    parents=[model],
    help="write a model for other programs",
    description="Writes MODEL to the folder OUT, either as a StableHLO program from images to probabilities, or as "
    "weights in safetensors. The file model.json names the classes and describes the inputs.",
  )
  export.add_argument("out", type=pathlib.Path, metavar="OUT", help="a folder")
  export.add_argument("--format", choices=["stablehlo", "safetensors"], default="stablehlo")


def predict(args: argparse.Namespace) -> None:
  """Runs `jaxfer predict`."""
  import jaxfer
  from jaxfer.data.interrupt import stopping
  from jaxfer.inference import predicting

  reading = _reading(args)
  model = jaxfer.load(args.model)
  with stopping("what was written so far is complete"):
    predicting.run(
      model,
      args.paths,
      csv=args.csv,
      json=args.json,
      draw=args.draw,
      **reading,
    )


def explain(args: argparse.Namespace) -> None:
  """Runs `jaxfer explain`."""
  import jaxfer
  from jaxfer.data.interrupt import stopping
  from jaxfer.inference import explaining

  reading = _reading(args)
  model = jaxfer.load(args.model)
  with stopping("the files written so far are complete"):
    explaining.run(
      model,
      args.paths,
      args.out,
      layer=args.layer,
      **reading,
    )


def _reading(args: argparse.Namespace) -> dict[str, Any]:
  """Returns how files are read, as arguments of `predicting.run` and `explaining.run`."""
  if not 0 <= args.rate < float("inf"):
    raise UserError(f"--rate {args.rate:g}: give 0, to read every frame, or a number above 0")
  if not 0 < args.window < float("inf"):
    raise UserError(f"--window {args.window:g}: give a number above 0")
  return {"rate": args.rate, "window": args.window, "crop": args.crop, "complain": _complain}


def _complain(line: str) -> None:
  print(f"jaxfer: {line}", file=sys.stderr)


def export(args: argparse.Namespace) -> None:
  """Runs `jaxfer export`."""
  import jaxfer
  from jaxfer.inference.export import export as write

  for path in write(jaxfer.load(args.model), args.out, args.format):
    print(f"written: {path}")
