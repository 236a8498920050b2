"""Runs and studies: what a config comes to on its data, and what is written of it."""
