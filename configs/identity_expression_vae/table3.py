"""Paper 003, Table 3, on frames of MUG, CK+ and RAVDESS.

  jaxfer prepare mug --source ... ; jaxfer prepare ckplus_stills --source ... ; jaxfer prepare ravdess --source ...
  jaxfer study configs/identity_expression_vae/table3.py --workdir runs/table3

195 people train and 7 are tested in the paper, 2 or 3 of each set, whom it does not name. Here 3.5 % are drawn from
the people of all three sets together, so that one of RAVDESS may be among them, who then has no image to be judged by.
Learned from are frames at equal spacing, judged are those about a sequence's peak (`data.datasets.paper003`). Row 7,
subject means subtracted, is a reading of the original VAE's codes and has no training of its own.

Ours: not yet run, for want of the data.
"""

from typing import Any

from jaxfer.config import Call, Row, RunConfig, Split, StudyConfig
from jaxfer.systems.identity_expression_vae import published

COMPARED = (
  (published.CONVENTIONAL, published.VAE),
  (published.ADVERSARIAL, published.CONVENTIONAL),
  (published.BOTH, published.CONVENTIONAL),
  (published.ITERATED, published.BOTH),
  (published.LARGE, published.ITERATED),
)


def rows(size: int) -> tuple[Row, ...]:
  """Of Table 3, for inputs of `size` pixels and one row of twice that."""

  def row(name: str, overrides: dict[str, Any] | None = None) -> Row:
    test = published.ROWS[name].test
    return Row(name, overrides or {}, None if test is None else test[0] / 100)

  large = {"data.image_size": 2 * size, "model.image_size": 2 * size}
  return (
    row(published.CONVENTIONAL, {"recipe.adversarial": False, "recipe.switch": False}),
    row(published.ADVERSARIAL, {"recipe.switch": False}),
    row(published.BOTH),
    row(published.ITERATED, {"recipe.iterated": True}),
    row(published.LARGE, {"recipe.iterated": True, **large}),
    row(published.VAE, {"model.name": "vae"}),
    row(published.CONDITIONAL, {"model.name": "conditional_vae"}),
  )


def get_config() -> StudyConfig:
  return StudyConfig(
    title="Paper 003: identity and expression apart, on MUG, CK+ and RAVDESS",
    source="paper 003, Table 3: 195 tested images of 7 people of MUG and CK+",
    base=RunConfig(
      recipe=Call("identity_expression_vae"),
      model=Call("identity_expression_vae"),
      data=Call("paper003"),
      split=Split(test=0.035),
      batch_size=64,
    ),
    rows=rows(64),
    seeds=3,
    compared=COMPARED,
    presets={
      "smoke": {
        "rows": (published.BOTH, published.VAE),
        "seeds": 1,
        "recipe.epochs": 1,
        "model.width": 0.0625,
        "batch_size": 16,
        "execution.driver": "steps",  # Compiles faster.
      },
      "small": {"seeds": 1, "recipe.epochs": 20, "recipe.rounds": 3, "recipe.round_epochs": 10},
      "paper": {},
    },
    preset="paper",
    note="expressions are named by clusters, k = 9, 100 trials; labels are used for nothing else",
  )
