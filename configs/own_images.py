"""A small network on your own pictures, in one folder per class.

jaxfer prepare image_folder --source path/to/pictures
jaxfer train configs/own_images.py --workdir runs/own
jaxfer predict runs/own photo.jpg

If file or folder names identify the person in a picture, give both commands the pattern. Then nobody is in both
training and test: subject_pattern='(S[0-9]+)_' for prepare, and data.subject_pattern='(S[0-9]+)_' for train.
"""

from jaxfer.config import Call, RunConfig, Split


def get_config() -> RunConfig:
  return RunConfig(
    recipe=Call("classifier", epochs=40, learning_rate=2e-3, select="best_on_validation"),
    model=Call("jaxfer.systems.classifier.model:SmallCNN"),
    data=Call("image_folder"),  # Options given to `jaxfer prepare`, such as image_size=96, belong here too.
    split=Split(test=0.2, validation=0.15),
    batch_size=32,
  )
