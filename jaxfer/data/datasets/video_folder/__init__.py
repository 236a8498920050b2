"""Short videos in one folder per class."""
