"""Paper 004: image classifiers fine-tuned on pictures of a few elderly people."""

from jaxfer.systems.elderly_transfer.recipe import ElderlyTransferSystem

SYSTEM = ElderlyTransferSystem()
