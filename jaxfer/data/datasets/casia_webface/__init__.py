"""CASIA-WebFace, in folders or as InsightFace packs it: scan, verification pairs and TFDS builder."""
