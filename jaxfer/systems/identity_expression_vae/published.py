"""What paper 003 prints of recognition by clustering (Table 3), in percent: mean and deviation of trials."""

import dataclasses

Percent = tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Result:
  """A row of Table 3.

  Attributes:
    name: as our studies name it.
    train: of the 195 people learned from, 1,842 images.
    test: of the 7 others, 195 images; None where the method needs to know the person.
  """

  name: str
  train: Percent
  test: Percent | None


CONVENTIONAL = "conventional"
ADVERSARIAL = "with L_gan"
BOTH = "with L_gan and L_switch"
ITERATED = "both losses, stages iterated"
LARGE = "both losses, iterated, double size"
VAE = "original VAE"
SUBTRACTED = "original VAE, subject means subtracted"
CONDITIONAL = "C-VAE"

TABLE = (
  Result(CONVENTIONAL, (56.33, 2.54), (49.95, 3.58)),
  Result(ADVERSARIAL, (53.46, 2.66), (48.10, 3.26)),
  Result(BOTH, (62.64, 2.48), (59.95, 4.31)),
  Result(ITERATED, (64.28, 2.81), (62.83, 5.24)),
  Result(LARGE, (67.95, 3.71), (65.92, 6.65)),
  Result(VAE, (38.08, 1.56), (22.07, 3.21)),
  Result(SUBTRACTED, (48.99, 2.76), None),
  Result(CONDITIONAL, (59.05, 4.23), None),
)
ROWS = {result.name: result for result in TABLE}
