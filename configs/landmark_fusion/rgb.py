"""Paper 002's RGB net alone by ARM's recipe, on RAF-DB, from ImageNet's ResNet18 as ARM's authors began.

  jaxfer convert torchvision_resnet18 <torchvision's resnet18-5c106cde.pth> runs/resnet18
  jaxfer train configs/landmark_fusion/rgb.py --workdir runs/rgb init_from=runs/resnet18

The trunk is ImageNet's; ARM and the dense layer are new. The study goes on from runs/rgb/weights, see ablation.py.

Ours: not yet run, for want of the data and the weights.
"""

from jaxfer.config import Call, RunConfig, Split


def get_config() -> RunConfig:
  return RunConfig(
    recipe=Call("landmark_fusion"),
    model=Call("landmark_fusion", answer="rgb"),
    data=Call("raf_db"),
    split=Split(kind="distributed"),
    batch_size=256,
  )
