"""Japanese Female Facial Expression (JAFFE): scan, TFDS builder."""
