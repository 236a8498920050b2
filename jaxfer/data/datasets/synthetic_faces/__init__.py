"""Still drawings of parametric faces: TFDS builder."""
