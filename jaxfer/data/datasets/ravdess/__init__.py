"""RAVDESS: scan, frames of its clips and TFDS builder."""
