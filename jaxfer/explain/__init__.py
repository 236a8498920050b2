"""Explains trained nets by maps over the pixels of their inputs."""
