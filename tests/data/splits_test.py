import pytest

from jaxfer.data import splits


@pytest.mark.parametrize(
  ("words", "split"),
  [
    ("train Training TRAIN train_set Train-Set trainset train_data images_train trainImages", "train"),
    ("val valid Validation VALIDATION val_set dev devset Dev-Data PublicTest public_test", "validation"),
    ("test Testing TEST tests test_set testset TestImages PrivateTest private-test eval Evaluation", "test"),
    ("happy cat 1 trainer test_drive data images set dataset fold1 RAF_train latest", ""),
  ],
)
def test_usual_words(words, split):
  assert {word: splits.find(word) for word in words.split()} == dict.fromkeys(words.split(), split)


def test_eval_is_the_validation_beside_a_test():
  assert splits.assign(["train", "eval", "notes"]) == {"train": "train", "eval": "test"}
  assert splits.assign(["train", "eval", "Test"]) == {"train": "train", "eval": "validation", "Test": "test"}
