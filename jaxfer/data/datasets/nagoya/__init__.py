"""Facial expressions of elderly people, Nagoya University: scan, TFDS builder."""
