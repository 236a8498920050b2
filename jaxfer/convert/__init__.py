"""Weights that others published, brought into our variables, without PyTorch."""
