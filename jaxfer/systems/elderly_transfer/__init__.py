"""Paper 004: image classifiers, pretrained on other tasks and fine-tuned on images of a few elderly people."""

from jaxfer.systems.elderly_transfer.recipe import ElderlyTransferSystem

SYSTEM = ElderlyTransferSystem()
