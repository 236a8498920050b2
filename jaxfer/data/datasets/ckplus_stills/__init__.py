"""Peak frames of CK+ as stills: TFDS builder."""
