"""Paper 004's table: four nets with six initialisations, on Nagoya University's expressions of elderly people.

  jaxfer study configs/elderly_transfer/table.py --workdir runs/elderly_transfer

The published numbers of correct test images, of 768:

               ResNet18   ResNet50   Face-ResNet18   Face-ResNet50   pretrained on
  scratch      185        110        218             215
  objects      249        266        240             229             ImageNet
  expressions  263        253        280             246             AffectNet, eight classes
  softmax      230        245        253             274             CASIA-WebFace
  cosface      191        failed     259             254             CASIA-WebFace
  adaface      192        160        281             265             CASIA-WebFace

Prepare the data sets first: nagoya, affectnet, casia_webface, and imagenet with image_size=112. `jaxfer list datasets`
says where to request them. Public weights can replace some of the pretrainings: torchvision's for the "objects"
variants of both ResNets, and AdaFace's (IR-18 and IR-50, CASIA-WebFace) for the "adaface" variants of both
Face-ResNets. Convert them with `jaxfer convert` and name the folder, for example:

  sources.adaface-face_resnet18=FOLDER

Torchvision's models were trained on images of 224 x 224 pixels. A ResNet pools globally, so that they can enter the
table at 112 pixels, with a warning:

  sources.objects-resnet18=FOLDER

A separate study compares them at 224 pixels, since all variants of a study read images of one size:

  jaxfer study configs/elderly_transfer/table.py --workdir runs/elderly_224 "rows=('ResNet18, objects',)" \\
    model.image_size=224 sources.objects-resnet18=FOLDER

Weights that were trained on images of another normalisation or colour order are refused, and those of a Face-ResNet of
another size too.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from jaxfer.config import Call, Row, RunConfig, Split, StudyConfig
from jaxfer.systems.elderly_transfer import table

_WATCH_NOBODY = {"split.validation": 0.0, "recipe.select": "last"}
# Our choices, after AdaFace's recipe. With casia_webface, `_DATA` sets recipe.label=label: its labels are people.
_PEOPLE = {
  **_WATCH_NOBODY,
  "split.kind": "per_class",
  "split.per_class": 2,
  "recipe.label": "subject",
  "recipe.optimizer": "sgd",
  "recipe.learning_rate": 0.1,
  "recipe.weight_decay": 5e-4,
  "recipe.augmentation": "adaface",
}
_LABELS = {**_WATCH_NOBODY, "recipe.learning_rate": 1e-3}
_DATA = {
  "objects": {
    "data": "imagenet",
    "data.image_size": 112,
    "split.kind": "distributed",
    "batch_size": 512,
    "recipe.augmentation": "imagenet",
  },
  "expressions": {"data": "affectnet", "split.kind": "distributed", "batch_size": 256},
  "people": {"data": "casia_webface", "recipe.label": "label", "recipe.epochs": 26, "batch_size": 512},
}


ONE_EACH = (
  "one pre-training each: intervals are over people and seeds of fine-tuning; another pre-training would move a row by "
  "what neither shows"
)


def rows(nets: Sequence[str]) -> tuple[Row, ...]:
  """Six variants per net, named as in `table.VARIANTS`."""
  return tuple(
    Row(
      name := f"{net}, {start}",
      {"model.net": table.NETS[net]},
      table.published_accuracy(name),
      None if start == "scratch" else f"{start}-{table.NETS[net]}",
    )
    for net in nets
    for start in table.INITIALISATIONS
  )


def sources(nets: Sequence[str], data: Mapping[str, Mapping[str, Any]]) -> tuple[Row, ...]:
  """Five pretrainings per net; `data` holds overrides for "objects", "expressions" and "people"."""
  made = []
  for net in map(table.NETS.__getitem__, nets):
    for start in ("objects", "expressions"):
      made.append(Row(f"{start}-{net}", {"model.net": net, **_LABELS, **data[start]}))
    for head in ("softmax", "cosface", "adaface"):
      own = {"model.net": net, "model.head": head, **_PEOPLE, **data["people"]}
      made.append(Row(f"{head}-{net}", own))
  return tuple(made)


def compared(nets: Sequence[str]) -> tuple[tuple[str, str], ...]:
  """The compared variants: each with its net from scratch, and the paper's best with three others."""
  starts = [start for start in table.INITIALISATIONS if start != "scratch"]
  pairs = [(f"{net}, {start}", f"{net}, scratch") for net in nets for start in starts]
  best, plain = "Face-ResNet18, adaface", "ResNet18, adaface"
  return (*pairs, (best, "Face-ResNet18, expressions"), (best, "Face-ResNet18, softmax"), (best, plain))


def get_config() -> StudyConfig:
  nets = tuple(table.NETS)
  return StudyConfig(
    title="Paper 004: what helps nets to understand elderly people",
    source="paper 004: 768 tested pictures of elderly people (counts follow from the printed rates)",
    base=RunConfig(
      recipe=Call("elderly_transfer"),
      model=Call("face_classifier"),
      data=Call("nagoya"),
      split=Split(test=0.2, validation=0.125),  # 70 % of the people train, 10 % validate, 20 % test.
      batch_size=64,
    ),
    rows=rows(nets),
    seeds=5,
    sources=sources(nets, _DATA),
    compared=compared(nets),
    presets={
      "smoke": {"rows": ("ResNet18, scratch",), "seeds": 1, "recipe.epochs": 1},
      "small": {"rows": ("ResNet18, scratch", "Face-ResNet18, scratch"), "seeds": 1},
      "paper": {},
    },
    preset="paper",
    note=f"our split is by people, 70 / 10 / 20 %; the paper's is not in its text; {ONE_EACH}",
  )
