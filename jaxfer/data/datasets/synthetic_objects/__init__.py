"""Drawn objects in place of ImageNet: TFDS builder."""
