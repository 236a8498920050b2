"""The MUG facial expression database: scan and TFDS builder."""
