"""AffectNet in its three forms: annotations, scan and TFDS builder."""
