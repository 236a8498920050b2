"""Pictures named in a csv file."""
