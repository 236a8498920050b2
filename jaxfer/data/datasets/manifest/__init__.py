"""Pictures listed in a csv file."""
