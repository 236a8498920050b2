"""Paper 002, Tables 2 and 5 to 8 and Fig. 4, on RAF-DB with its distributor's split into training and test images.

  jaxfer prepare raf_db --source <the distributor's folder>
  jaxfer convert arm <the authors' .pth> runs/arm
  jaxfer study configs/landmark_fusion/ablation.py --workdir runs/ablation init_from=runs/arm recipe.rgb_epochs=0

The paper starts from the released weights of ARM, whose accuracy is 0.9205, because retraining did not reach it.
Without the two overrides, the first row trains the RGB net by ARM's recipe, and the other rows start from its result.
ARM started from a ResNet18 trained on ImageNet, but this row starts from random weights. These commands start from
ImageNet instead, and train one RGB net for all seeds:

  jaxfer convert torchvision_resnet18 <torchvision's resnet18-5c106cde.pth> runs/resnet18
  jaxfer train configs/landmark_fusion/rgb.py --workdir runs/rgb init_from=runs/resnet18
  jaxfer study configs/landmark_fusion/ablation.py --workdir runs/rest init_from=runs/rgb/weights recipe.rgb_epochs=0

We have not run this study yet, because we have neither the data nor the weights.
"""

from collections.abc import Sequence
from typing import Any

from jaxfer.config import Call, Row, RunConfig, Split, StudyConfig
from jaxfer.systems.landmark_fusion import published

BASELINE = "baseline: RGB net alone"
PROPOSED = "proposed: p and w"
FURTHER = "RGB net alone, trained further"
ALONG = "RGB net fine-tuned along, no weights"
SCRATCH = "all from scratch, no weights"
_PLAIN = {"model.confidence": False, "model.agreement": False}  # The features of both nets, concatenated.


def rows(swept: Sequence[float]) -> tuple[Row, ...]:
  """The baseline, the landmark net alone, four weightings, a row for each w in `swept`, and the negative results.

  Fig. 4 has two further values of w: 0.6 is that of the proposed row, and the row with p alone stands for 1.

  The paper found that further training of the RGB net, such as fine-tuning, lowers its accuracy (section 1), that
  fine-tuning it within the whole network or training everything from scratch does too (section 4), and that its first
  attempt, a plain concatenation of both nets' features, fell behind the RGB net (section 6). The rows without weights
  are that concatenation: with the RGB net fixed ("no weights", Table 8), fine-tuned along, and from scratch.
  """
  given = {"recipe.rgb": "given"}
  printed = {name: counts.accuracy for name, counts in published.ROWS.items()}
  printed["landmark net alone"] = published.LANDMARK_ACCURACY

  def row(name: str, overrides: dict[str, Any], start: bool = True) -> Row:
    return Row(name, overrides, printed.get(name), BASELINE if start else None)

  return (
    row(BASELINE, {"model.answer": "rgb"}, start=False),
    row("landmark net alone", {"model.answer": "landmark", **given}),
    row("no weights", {"model.confidence": False, "model.agreement": False, **given}),
    row("confidence p", {"model.agreement": False, **given}),
    row("agreement w", {"model.confidence": False, **given}),
    row(PROPOSED, given),
    *(row(f"w = {w}", {**given, "recipe.w": w}) for w in swept),
    row("sum of both outputs", {"model.answer": "sum", **given}),
    row(FURTHER, {"model.answer": "rgb", "recipe.rgb": "further"}),
    row("RGB net fine-tuned along", {"recipe.rgb": "along"}),
    row(ALONG, {"recipe.rgb": "along", **_PLAIN}),
    Row("all from scratch", {"recipe.rgb": "along"}, scratch=True),
    Row(SCRATCH, {"recipe.rgb": "along", **_PLAIN}, scratch=True),
  )


COMPARED = (
  *((name, BASELINE) for name in (PROPOSED, "no weights", "sum of both outputs", FURTHER, ALONG, SCRATCH)),
  (PROPOSED, "no weights"),
  (PROPOSED, FURTHER),
  (PROPOSED, "RGB net fine-tuned along"),
  ("RGB net fine-tuned along", BASELINE),
  ("all from scratch", BASELINE),
)


def get_config() -> StudyConfig:
  return StudyConfig(
    title="Paper 002: landmarks beside ARM on RAF-DB",
    source="paper 002, Tables 5 to 8: RAF-DB, 3068 tested pictures",
    base=RunConfig(
      recipe=Call("landmark_fusion"),
      model=Call("landmark_fusion"),
      data=Call("raf_db"),
      split=Split(kind="distributed"),
      batch_size=256,
    ),
    rows=rows([k / 10 for k in (0, 1, 2, 3, 4, 5, 7, 8, 9)]),
    seeds=3,
    compared=COMPARED,
    presets={
      "smoke": {
        "rows": (BASELINE, PROPOSED, "w = 0.0"),
        "seeds": 1,
        "recipe.epochs": 1,
        "recipe.rgb_epochs": 1,
        "model.width": 0.125,
        "model.block": 4,
        "model.kernel_sizes": (5, 3, 3, 3, 1, 1),
        "model.image_size": 100,
        "batch_size": 16,
        "execution.driver": "steps",  # Compiles faster.
      },
      "paper": {},
      "small": {"seeds": 1, "recipe.epochs": 20, "recipe.rgb_epochs": 20},
    },
    preset="paper",
    note="accuracy is of batches of 64 in file order, as the released code tests; other batches are in the tables "
    "below; where the RGB net is moved along, its own classifier gets no gradient (eq. 3), so what it says alone means "
    "little",
  )
