"""Short videos in folders of classes."""
