"""Drawn stills of parametric faces: TFDS builder."""
