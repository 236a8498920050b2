"""Drawn objects in the stead of ImageNet: TFDS builder."""
