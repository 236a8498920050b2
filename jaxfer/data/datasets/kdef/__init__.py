"""Karolinska Directed Emotional Faces (KDEF and AKDEF): scan, TFDS builder."""
