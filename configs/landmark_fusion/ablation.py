"""Paper 002, Tables 5 to 8 and Fig. 4, on RAF-DB as it is divided by its distributor.

  jaxfer prepare raf_db --source <the distributor's folder>
  jaxfer convert arm <the authors' .pth> runs/arm
  jaxfer study configs/landmark_fusion/ablation.py --workdir runs/ablation init_from=runs/arm recipe.rgb_epochs=0

The paper starts from the released weights of ARM ("0.9205"), as retraining did not reach them. Without the two
overrides the first row trains the RGB net by ARM's recipe, and the others start from it.

Ours: not yet run, for want of the data and the weights.
"""

from jaxfer.config import Call, Row, RunConfig, Split, StudyConfig
from jaxfer.experiments import published_002

BASELINE = "baseline: RGB net alone"
PROPOSED = "proposed: p and w"


def rows() -> tuple[Row, ...]:
  """Those of both studies: the baseline, each net alone, four weightings, what did not work, and the sweep of w."""
  given = "recipe.rgb=given"
  published = {name: counts.accuracy for name, counts in published_002.ROWS.items()}

  def row(name: str, *overrides: str, start: bool = True) -> Row:
    return Row(name, overrides, published.get(name), BASELINE if start else None)

  # Of 0, 0.2, ..., 1: 0.6 is the proposed row, 1 that of p alone.
  swept = (0.0, 0.2, 0.4, 0.8)
  return (
    row(BASELINE, "model.answer=rgb", start=False),
    row("landmark net alone", "model.answer=landmark", given),
    row("no weights", "model.confidence=false", "model.agreement=false", given),
    row("confidence p", "model.agreement=false", given),
    row("agreement w", "model.confidence=false", given),
    row(PROPOSED, given),
    *(row(f"w = {w}", given, f"recipe.w={w}") for w in swept),
    row("sum of both outputs", "model.answer=sum", given),
    row("RGB net fine-tuned along", "recipe.rgb=along"),
    row("all from scratch", "recipe.rgb=along", start=False),
  )


COMPARED = (
  *((name, BASELINE) for name in (PROPOSED, "no weights", "sum of both outputs")),
  (PROPOSED, "no weights"),
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
    rows=rows(),
    seeds=3,
    compared=COMPARED,
    presets={
      "smoke": (
        f"rows=('{BASELINE}', '{PROPOSED}', 'w = 0.0')",
        "seeds=1",
        "recipe.epochs=1",
        "recipe.rgb_epochs=1",
        "model.width=0.125",
        "model.block=4",
        "model.kernel_sizes=(5, 3, 3, 3, 1, 1)",
        "model.image_size=100",
        "batch_size=16",
        "execution.driver=steps",  # Compiles faster.
      ),
      "paper": (),
      "small": ("seeds=1", "recipe.epochs=20", "recipe.rgb_epochs=20"),
    },
    preset="paper",
    note="the released code tests in batches of 64 in file order, other batches are in a further table; where the RGB "
    "net is moved along, its own classifier gets no gradient (eq. 3), so what it says alone means little",
  )
