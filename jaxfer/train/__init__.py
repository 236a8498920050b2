"""The training engine. A method is a list of stages, and a stage is a list of updates.

Each update has a loss and names the submodules that it trains.
"""
