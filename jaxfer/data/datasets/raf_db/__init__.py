"""Real-world Affective Faces (RAF-DB), basic and compound: scan, landmarks, TFDS builder."""
