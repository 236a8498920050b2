"""Table 3 of paper 003: the accuracy of recognition by clustering (README, section 7)."""

import dataclasses

# Mean and standard deviation over trials, in percent.
Percent = tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Result:
  """A row of Table 3.

  Attributes:
    name: name of the variant in our studies.
    train: accuracy on the 1,842 images of the 195 training people.
    test: accuracy on the 195 images of the 7 test people; None if the method needs to know the person.
  """

  name: str
  train: Percent
  test: Percent | None


CONVENTIONAL = "conventional"
ADVERSARIAL = "with L_gan"
BOTH = "with L_gan and L_switch"
ITERATED = "both losses, stages iterated"
LARGE = "both losses, iterated, double size"
BOTH_LARGE = "both losses, double size"  # Not in Table 3: the single pass of Fig. 3.
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
