"""Paper 002's RGB net alone by ARM's recipe on RAF-DB, starting from ImageNet's ResNet18, as ARM's authors do.

  jaxfer convert torchvision_resnet18 <torchvision's resnet18-5c106cde.pth> runs/resnet18
  jaxfer train configs/landmark_fusion/rgb.py --workdir runs/rgb init_from=runs/resnet18

The trunk comes from ImageNet; ARM and the dense layer start anew. The study continues from runs/rgb/weights, see
ablation.py. We have not run this training yet, because we have neither the data nor the weights.
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
