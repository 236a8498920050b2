"""Sequences of parametric faces with exact optical flow: TFDS builder."""
