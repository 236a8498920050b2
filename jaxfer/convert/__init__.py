"""Converts published weights into jaxfer's variables, without PyTorch."""
