"""FER2013 with its own labels or those of FER+: scan, TFDS builder."""
