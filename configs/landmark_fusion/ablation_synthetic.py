"""Paper 002, Tables 2 and 5 to 8 and Fig. 4, on embedded synthetic faces in RAF-DB's aligned frame.

  jaxfer study configs/landmark_fusion/ablation_synthetic.py --workdir runs/ablation_synthetic

w is swept in steps of 0.2. The small preset keeps the topology of the nets, with an eighth of their channels and with
images of 100 pixels, the size of those in RAF-DB:

                     paper (224 px)                       small (100 px)
  RGB trunk          7 x 7 x 512                          4 x 4 x 64
  landmark net       kernels 5 3 3 3 3 4                  kernels 5 3 3 3 1 1
                     220 110 108 54 52 26 24 12 10 7      96 48 46 23 21 10 8 4 4 4
                     32 to 512 channels                   4 to 64 channels
  arrangement        blocks of 16: 112 x 112 x 2          blocks of 4: 16 x 16 x 4
  de-albino          32 x 32, stride 8: 11 x 11           8 x 8, stride 2: 5 x 5
  head               242 -> 7                             50 -> 7
"""

from jaxfer.config import Call, RunConfig, Split, StudyConfig

from .ablation import BASELINE, COMPARED, PROPOSED, rows


def get_config() -> StudyConfig:
  return StudyConfig(
    title="Paper 002 on embedded faces: landmarks beside ARM",
    source="paper 002, Tables 5 to 8: RAF-DB, 3068 tested pictures",
    base=RunConfig(
      recipe=Call("landmark_fusion", rgb_epochs=10, epochs=8),
      model=Call("landmark_fusion", width=0.125, block=4, kernel_sizes=(5, 3, 3, 3, 1, 1), image_size=100),
      data=Call("synthetic_faces", aligned=True, landmark_noise=1.0, image_size=100, num_subjects=72),
      split=Split(test=0.375),
      batch_size=32,
    ),
    rows=rows((0.0, 0.2, 0.4, 0.8)),
    seeds=3,
    compared=COMPARED,
    presets={
      "smoke": {
        "rows": (BASELINE, PROPOSED, "w = 0.0"),
        "seeds": 1,
        "recipe.epochs": 1,
        "recipe.rgb_epochs": 1,
        "data.num_subjects": 8,
        "data.images_per_subject": 7,
        "batch_size": 16,
        "execution.driver": "steps",
      },
      "small": {},
      "paper": {
        "recipe.epochs": 70,
        "recipe.rgb_epochs": 70,
        "model.width": 1.0,
        "model.block": 16,
        "model.kernel_sizes": (5, 3, 3, 3, 3, 4),
        "model.image_size": 224,
        "data.num_subjects": 600,
        "batch_size": 256,
      },
    },
    note="synthetic faces, not the paper's data: only the order of the rows can be compared; accuracy is of batches of "
    "64 in order, other batches are in the tables below; where the RGB net is moved along, its own classifier gets no "
    "gradient (eq. 3), so what it says alone means little",
  )
