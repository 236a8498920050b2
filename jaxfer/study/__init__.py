"""Runs and studies: training and evaluating configs on their data, and writing the results."""
