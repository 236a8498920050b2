"""Linen modules that two or more systems share."""
