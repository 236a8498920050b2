"""Paper 003, Table 3, on embedded synthetic faces.

jaxfer study configs/identity_expression_vae/table3_synthetic.py --workdir runs/table3_synthetic
"""

import pathlib
import runpy

from jaxfer.config import Call, RunConfig, Split, StudyConfig

_PAPER = runpy.run_path(str(pathlib.Path(__file__).with_name("table3.py")))


def get_config() -> StudyConfig:
  return StudyConfig(
    title="Paper 003 on embedded faces: identity and expression apart",
    source="paper 003, Table 3: 195 tested images of 7 people of MUG and CK+",
    base=RunConfig(
      recipe=Call("identity_expression_vae", epochs=10, rounds=5, round_epochs=5),
      model=Call("identity_expression_vae", width=0.25, image_size=32),
      data=Call("synthetic_faces", aligned=True, image_size=32, num_subjects=60),
      split=Split(test=0.2),
      batch_size=32,
    ),
    rows=_PAPER["rows"](32),
    seeds=3,
    compared=_PAPER["COMPARED"],
    presets={
      "smoke": (
        "rows=('with L_gan and L_switch', 'original VAE')",
        "seeds=1",
        "recipe.epochs=1",
        "model.width=0.03125",
        "data.num_subjects=6",
        "data.images_per_subject=14",
        "split.test=0.34",
        "execution.driver=steps",
      ),
      "small": (),
      "paper": (
        "recipe.epochs=100",
        "recipe.round_epochs=50",
        "recipe.learning_rate=5e-4",
        "recipe.decay=0.95",
        "recipe.error_weight=0.01",
        "recipe.kl_weight=1e-5",
        "model.width=1.0",
        "data.num_subjects=202",
        "split.test=0.035",
        "batch_size=64",
      ),
    },
    note="synthetic faces, not the paper's data: only the order of the rows can be compared",
  )
