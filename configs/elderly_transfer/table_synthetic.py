"""Paper 004's table on embedded faces: two nets with six initialisations, for few elderly people and nine classes.

  jaxfer study configs/elderly_transfer/table_synthetic.py --workdir runs/elderly_synthetic

These data sets stand for the paper's. The sizes are those of the small preset, whose nets have a quarter of the width
and read images of 32 x 32 pixels:

               paper                               here
  target       111 people aged 73 on average,      60 elderly people, 36 images each; 20 % of the people train,
               36 images each                      23 % validate and 57 % test
  objects      ImageNet, 1000 classes              20 classes of drawn shapes and textures, 150 images each
  expressions  AffectNet, 8 classes                seven expressions of 150 young people, 21 images each
  softmax,     CASIA-WebFace, 10,572 people,       60 young people, 50 images each, 2 of them held out
  cosface,     490,000 images
  adaface

Learning rates and epochs of the small preset were chosen on other people than those of the table (data.seed=7). The
paper preset takes those of `table.py`, and as many images as can be drawn in a day. The young people are never younger
versions of the elderly ones, because they have a different seed.
"""

from typing import Any

from jaxfer.config import Call, RunConfig, Split, StudyConfig

from .table import ONE_EACH, compared, rows, sources

NETS = ("ResNet18", "Face-ResNet18")
_OBJECTS = {
  "data": "synthetic_objects",
  "data.image_size": 32,
  "data.num_classes": 20,
  "data.images_per_class": 150,
  "split.test": 0.1,
}
_YOUNG = {
  "data": "synthetic_faces",
  "data.seed": 1001,
  "data.aligned": True,
  "data.image_size": 32,
  "data.num_subjects": 150,
}
_DATA = {
  "objects": _OBJECTS,
  "expressions": {**_YOUNG, "split.test": 0.1},
  "people": {**_YOUNG, "data.num_subjects": 60, "data.images_per_subject": 50},
}


def _people(overrides: dict[str, Any]) -> dict[str, Any]:
  """Overrides for the pretrainings on people only."""
  names = ("*face", "softmax")
  return {f"sources.{name}-*.{key}": value for name in names for key, value in overrides.items()}


_SHORT = _people({"recipe.epochs": 12, "recipe.milestones": (7, 10), "recipe.learning_rate": 0.02})


def get_config() -> StudyConfig:
  return StudyConfig(
    title="Paper 004 on embedded faces: what helps a few elderly people to be understood",
    source="paper 004: 768 tested pictures of elderly people (counts follow from the printed rates)",
    base=RunConfig(
      recipe=Call("elderly_transfer", epochs=12, learning_rate=1e-3),
      model=Call("face_classifier", width=0.25, image_size=32),
      data=Call(
        "synthetic_faces",
        age=1.0,
        classes="nine",
        studio=True,
        aligned=True,
        image_size=32,
        num_subjects=60,
        images_per_subject=36,
      ),
      split=Split(test=0.57, validation=0.23),
      batch_size=32,
    ),
    rows=rows(NETS),
    seeds=3,
    sources=sources(NETS, _DATA),
    compared=compared(NETS),
    presets={
      "smoke": {
        "rows": ("ResNet18, scratch", "ResNet18, softmax"),
        "seeds": 1,
        "data.num_subjects": 12,
        "data.images_per_subject": 9,
        "recipe.epochs": 2,
        "batch_size": 16,
        "model.width": 0.125,
        "execution.driver": "steps",
        "sources.*.data.num_subjects": 8,
        **_SHORT,  # With fewer epochs, the pretrainings would count as failed.
      },
      "small": {
        "sources.objects-*.recipe.epochs": 16,
        "sources.expressions-*.recipe.epochs": 8,
        **_SHORT,
      },
      "paper": {
        "data.num_subjects": 111,
        "data.images_per_subject": 36,
        "split.test": 0.2,
        "split.validation": 0.125,
        "data.image_size": 112,
        "model.image_size": 112,
        "model.width": 1.0,
        "recipe.epochs": 30,
        "recipe.learning_rate": 1e-4,
        "batch_size": 64,
        "sources.*.data.image_size": 112,
        "sources.objects-*.data.num_classes": 100,
        "sources.objects-*.data.images_per_class": 1000,
        "sources.expressions-*.data.num_subjects": 2000,
        **_people({"data.num_subjects": 2000, "recipe.epochs": 26}),
        "sources.*.batch_size": 512,
      },
    },
    note=f"synthetic faces and objects, not the paper's data: only the order of the rows can be compared; {ONE_EACH}",
  )
