"""Pictures in one folder per class."""
