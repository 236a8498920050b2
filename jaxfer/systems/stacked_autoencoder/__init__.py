"""Stacked denoising autoencoders (paper 000)."""

from jaxfer.systems.stacked_autoencoder.recipe import StackedAutoencoderSystem

SYSTEM = StackedAutoencoderSystem()
