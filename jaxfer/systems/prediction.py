"""`Prediction`, the result of evaluating a model, and the names of predictions."""

import dataclasses

import numpy as np

from jaxfer import losses, metrics


@dataclasses.dataclass(frozen=True)
class Prediction:
  """The predictions of a model for n records.

  Some protocols evaluate each record in several trials; the accuracy is then the mean over trials.

  Attributes:
    predicted: [n] predicted classes, -1 if the outputs of a record are not finite. With several trials, the class that
      is predicted most often.
    correct: [n] 1.0 for a correct prediction, else 0.0. With several trials, the share of correct ones, in [0, 1].
    rank: [n] number of classes with a higher score than the true class; None if the classes have no scores.
    loss: [n] loss of each record; None if there is no loss.
    by_trial: [n, trials] predicted classes of each trial; None if the protocol has a single trial.
    batches: `SHUFFLED` or `ALONE` if the outputs were computed in such batches; "" for those of the test protocol.
  """

  predicted: np.ndarray
  correct: np.ndarray
  rank: np.ndarray | None = None
  loss: np.ndarray | None = None
  by_trial: np.ndarray | None = None
  batches: str = ""

  @property
  def trials(self) -> int:
    """Number of trials per record."""
    return 1 if self.by_trial is None else self.by_trial.shape[1]


# Names of predictions that are made in other batches than those of the test protocol: in batches drawn at random, and
# in batches of one record, where other records have no influence.
SHUFFLED, ALONE = "shuffled", "batches of one"


def in_batches(prediction: str, batches: str) -> str:
  """Returns the name of a prediction in given batches.

  Args:
    prediction: its name; "" is the first prediction of the model.
    batches: `SHUFFLED`, `ALONE`, or "" for the batches of the test protocol.
  """
  return ", ".join(filter(None, (prediction, batches)))


def from_logits(logits: np.ndarray, labels: np.ndarray) -> Prediction:
  """Returns predictions from logits.

  The class with the largest logit is predicted. Ties go to the class with the lower index.

  Args:
    logits: [n, classes].
    labels: [n] true classes.
  """
  predicted = np.asarray(metrics.predict(logits))
  rank, loss = metrics.rank(logits, labels), losses.cross_entropy(logits, labels)
  return Prediction(predicted, (predicted == labels).astype(np.float64), np.asarray(rank), np.asarray(loss))
