"""Throughput of the kernels and the training step: one script a question, results committed."""
