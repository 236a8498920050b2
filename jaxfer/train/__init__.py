"""The one engine: a method is a list of stages, a stage a list of updates, an update a loss and what it may move."""
