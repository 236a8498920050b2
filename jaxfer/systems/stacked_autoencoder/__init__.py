"""Paper 000: stacked denoising autoencoders."""

from jaxfer.systems.stacked_autoencoder.recipe import StackedAutoencoderSystem

SYSTEM = StackedAutoencoderSystem()
