"""The host side: reads, indexes and splits data; hands out NumPy arrays and index plans."""
